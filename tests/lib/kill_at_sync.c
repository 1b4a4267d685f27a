/* Kills the program it is preloaded into (LD_PRELOAD) right before its n-th fsync or fdatasync of a file whose path has
 * a word of a list in it: VR_KILL_AT_SYNC=n, VR_KILL_IN=WORD:WORD; with SIGKILL, or the number in VR_KILL_WITH. Writes
 * to files whose path has a word of VR_KILL_AT_WRITE in it count, too: before one to a journal, a step is done and its
 * next line is not there; before the sync it is. So does what is sent on a socket, with VR_KILL_AT_SEND: that is what a
 * program does that only asks a guest. Any thread.
 *
 * A journal is synced before each step is done, and libvirt syncs a definition before it counts, so that every step of
 * ours is killed at. Not at libvirt's notes about running domains: a driver that is killed while it starts QEMU never
 * gets that domain into order again (libvirt 9.0, 'paused (starting up)'; not even 'virsh destroy' does). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int counts(int fd, const char* list) {
  char link[64], path[PATH_MAX], words[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  if (list == NULL || length < 0 || strlen(list) >= sizeof words) return 0;
  path[length] = '\0';
  strcpy(words, list);
  char* rest = NULL;
  for (char* word = strtok_r(words, ":", &rest); word != NULL; word = strtok_r(NULL, ":", &rest)) {
    if (strstr(path, word) != NULL) return 1;
  }
  return 0;
}

static atomic_int left;

__attribute__((constructor)) static void begin(void) {
  const char* text = getenv("VR_KILL_AT_SYNC");
  left = text == NULL ? 0 : atoi(text);
}

static void maybe_die(int fd, const char* list) {
  const char* number = getenv("VR_KILL_WITH");
  if (left > 0 && counts(fd, list) && atomic_fetch_sub(&left, 1) == 1) kill(getpid(), number == NULL ? SIGKILL : atoi(number));
}

int fsync(int fd) {
  static int (*next)(int);
  if (next == NULL) next = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
  maybe_die(fd, getenv("VR_KILL_IN"));
  return next(fd);
}

ssize_t write(int fd, const void* data, size_t size) {
  static ssize_t (*next)(int, const void*, size_t);
  if (next == NULL) next = (ssize_t (*)(int, const void*, size_t))dlsym(RTLD_NEXT, "write");
  const int before = errno;
  const char* word = getenv("VR_KILL_AT_WRITE");
  if (word != NULL) maybe_die(fd, word);
  errno = before;
  return next(fd, data, size);
}

ssize_t send(int fd, const void* data, size_t size, int flags) {
  static ssize_t (*next)(int, const void*, size_t, int);
  if (next == NULL) next = (ssize_t (*)(int, const void*, size_t, int))dlsym(RTLD_NEXT, "send");
  const int before = errno;
  if (getenv("VR_KILL_AT_SEND") != NULL) maybe_die(fd, "socket:");
  errno = before;
  return next(fd, data, size, flags);
}

int fdatasync(int fd) {
  static int (*next)(int);
  if (next == NULL) next = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
  maybe_die(fd, getenv("VR_KILL_IN"));
  return next(fd);
}
