/* Kills the program it is preloaded into (LD_PRELOAD) right before its n-th fsync or fdatasync: VR_KILL_AT_SYNC=n. A
 * journal is synced before each step, so that every step is killed at, libvirt's own writing of a definition included. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static void count(void) {
  static int left = -1;
  if (left < 0) {
    const char* text = getenv("VR_KILL_AT_SYNC");
    left = text == NULL ? 0 : atoi(text);
  }
  if (left > 0 && --left == 0) kill(getpid(), SIGKILL);
}

int fsync(int fd) {
  static int (*next)(int);
  if (next == NULL) next = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
  count();
  return next(fd);
}

int fdatasync(int fd) {
  static int (*next)(int);
  if (next == NULL) next = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
  count();
  return next(fd);
}
