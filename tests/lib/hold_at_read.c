/* Preloaded into virt-reclaim-freemap: its first pread stands still, without a system call, until the test has looked at the process.
 * VR_HOLD is a file of at least 16 bytes, mapped by both: [0] a pread was called, [1] (the test's) go on, [2] calls of landlock_restrict_self,
 * [3] those that succeeded, before that pread. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static volatile uint32_t* shared;
static ssize_t (*next_pread)(int, void*, size_t, off_t);
static long (*next_syscall)(long, ...);

/* All that needs a system call is done before the program's own. */
__attribute__((constructor)) static void begin(void) {
  next_pread = (ssize_t(*)(int, void*, size_t, off_t))dlsym(RTLD_NEXT, "pread64");
  next_syscall = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
  const char* path = getenv("VR_HOLD");
  const int fd = path == NULL ? -1 : open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) abort();
  void* memory = mmap(NULL, 16, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) abort();
  close(fd);
  shared = memory;
}

long syscall(long number, ...) {
  va_list list;
  va_start(list, number);
  long a[6];
  for (int i = 0; i < 6; ++i) a[i] = va_arg(list, long);
  va_end(list);
  const long result = next_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
  if (number == SYS_landlock_restrict_self) {
    ++shared[2];
    shared[3] += result == 0;
  }
  return result;
}

ssize_t pread64(int fd, void* buffer, size_t bytes, off_t offset) {
  shared[0] = 1;
  while (shared[1] == 0) {
  }
  return next_pread(fd, buffer, bytes, offset);
}

ssize_t pread(int fd, void* buffer, size_t bytes, off_t offset) { return pread64(fd, buffer, bytes, offset); }
