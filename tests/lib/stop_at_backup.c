/* Stops the program it is preloaded into (LD_PRELOAD) right before it begins a backup of a domain, which is the moment
 * in which it has the guest's filesystems frozen. Who goes on with it (SIGCONT) has the backup begin; who kills it there
 * has a frozen guest. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>

int virDomainBackupBegin(void* domain, const char* backup, const char* checkpoint, unsigned flags) {
  int (*next)(void*, const char*, const char*, unsigned);
  *(void**)&next = dlsym(RTLD_NEXT, "virDomainBackupBegin");
  raise(SIGSTOP);
  return next(domain, backup, checkpoint, flags);
}
