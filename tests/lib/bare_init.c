/* The first program of a guest that has nothing but a kernel and the static agent. The agent finds its port in sysfs and its
 * filesystems in /proc, but mounts neither, nor loads the modules of a kernel that has its disk and its port in some. So this
 * does, mounts the one disk, and becomes the agent: no second process is left. What the agent calls must be there in guests that
 * are much older than this kernel, so what came later is hidden from it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/random.h>
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

/* For the agent and its children, x86-64 has no system calls after those of Linux 3.2, the oldest kernel that the C library in it
 * runs on: as there, they fail with ENOSYS. */
static void hide_newer_calls(void) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, SYS_process_vm_writev, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {.len = sizeof code / sizeof code[0], .filter = code};
  char byte;
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0);
  if (getrandom(&byte, sizeof byte, 0) == -1 && errno == ENOSYS)
    printf("bare: no system calls after Linux 3.2\n");
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
  hide_newer_calls();
  execl("/virt-reclaim-agent", "virt-reclaim-agent", "daemon", (char*)NULL);
  printf("bare: the agent cannot be started: %s\n", strerror(errno));
  pause();
}
