/* The first program of a guest that has nothing but a kernel and the static agent. The agent finds its port in sysfs and its
 * filesystems in /proc, but mounts neither, nor loads the modules of a kernel that has its disk and its port in some. So this
 * does, mounts the one disk, and becomes the agent: no second process is left. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void mount_at(const char* source, const char* place, const char* type) {
  mkdir(place, 0755);
  if (mount(source, place, type, 0, NULL) != 0) printf("bare: mount %s: %s\n", place, strerror(errno));
}

/* The files of a list, in their order: scripts/make-guest has put them there. */
static void load(const char* list) {
  char path[256];
  FILE* file = fopen(list, "r");
  while (file != NULL && fgets(path, sizeof path, file) != NULL) {
    path[strcspn(path, "\n")] = '\0';
    const int module = open(path, O_RDONLY | O_CLOEXEC);
    if (syscall(SYS_finit_module, module, "", 0) != 0 && errno != EEXIST)
      printf("bare: insmod %s: %s\n", path, strerror(errno));
    close(module);
  }
  if (file != NULL) fclose(file);
}

int main(void) {
  mount_at("dev", "/dev", "devtmpfs");
  const int console = open("/dev/console", O_RDWR);
  for (int fd = 0; fd < 3; ++fd) dup2(console, fd);
  if (console > 2) close(console);
  setvbuf(stdout, NULL, _IONBF, 0);
  mount_at("proc", "/proc", "proc");
  mount_at("sys", "/sys", "sysfs");
  load("/lib/modules/base.list");
  load("/lib/modules/ext4.list");
  for (int i = 0; i < 3000 && access("/dev/vda", F_OK) != 0; ++i) usleep(10000);
  mount_at("/dev/vda", "/mnt", "ext4");
  execl("/virt-reclaim-agent", "virt-reclaim-agent", "daemon", (char*)NULL);
  printf("bare: the agent cannot be started: %s\n", strerror(errno));
  pause();
}
