/* Preloaded into virt-reclaim: its n-th hole in an image, or its n-th trim over NBD, stands still until the test lets it
 * go on. VR_HOLD_AT is n, VR_HOLD a file of at least 8 bytes, mapped by both: [0] it stands still, [1] (the test's) go
 * on. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <libnbd.h>
#include <linux/falloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

static volatile uint32_t* shared;
static int left;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("VR_HOLD"), *number = getenv("VR_HOLD_AT");
  if (path == NULL || number == NULL) return;
  const int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) abort();
  void* memory = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) abort();
  close(fd);
  shared = memory;
  left = atoi(number);
}

static void count(void) {
  if (left == 0 || --left > 0) return;
  shared[0] = 1;
  while (shared[1] == 0) usleep(1000);
}

int fallocate64(int fd, int mode, off_t offset, off_t length) {
  static int (*next)(int, int, off_t, off_t);
  if (next == NULL) next = (int (*)(int, int, off_t, off_t))dlsym(RTLD_NEXT, "fallocate64");
  if ((mode & FALLOC_FL_PUNCH_HOLE) != 0) count();
  return next(fd, mode, offset, length);
}

int fallocate(int fd, int mode, off_t offset, off_t length) { return fallocate64(fd, mode, offset, length); }

int64_t nbd_aio_trim(struct nbd_handle* handle, uint64_t bytes, uint64_t offset, nbd_completion_callback ended, uint32_t flags) {
  static int64_t (*next)(struct nbd_handle*, uint64_t, uint64_t, nbd_completion_callback, uint32_t);
  if (next == NULL) {
    next = (int64_t(*)(struct nbd_handle*, uint64_t, uint64_t, nbd_completion_callback, uint32_t))dlsym(RTLD_NEXT, "nbd_aio_trim");
  }
  count();
  return next(handle, bytes, offset, ended, flags);
}
