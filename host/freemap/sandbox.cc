#include "host/freemap/sandbox.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/landlock.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>
#include <vector>

#include "base/handle.h"
#include "base/status.h"
#include "base/unique_fd.h"

namespace virt_reclaim::freemap {
namespace {

constexpr uid_t kNobody = 65534;

#if defined(VIRT_RECLAIM_SANITIZE_ADDRESS) || defined(VIRT_RECLAIM_SANITIZE_THREAD)
constexpr bool kSanitized = true;  // its shadow is terabytes of address space
#else
constexpr bool kSanitized = false;
#endif

absl::Status DropUser() {
  if (geteuid() != 0) return absl::OkStatus();
  if (setgroups(0, nullptr) != 0) return ErrnoStatus(errno, "setgroups");
  if (setresgid(kNobody, kNobody, kNobody) != 0) return ErrnoStatus(errno, "setresgid");
  if (setresuid(kNobody, kNobody, kNobody) != 0) return ErrnoStatus(errno, "setresuid");
  return absl::OkStatus();
}

// Every right of the first version of landlock, with no path that has any.
absl::Status DenyFilesystem() {
  landlock_ruleset_attr attributes = {};
  attributes.handled_access_fs = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;
  const UniqueFd ruleset(
      static_cast<int>(syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0)));
  if (!ruleset.valid()) {
    if (errno == ENOSYS || errno == EOPNOTSUPP) return absl::OkStatus();
    return ErrnoStatus(errno, "landlock_create_ruleset");
  }
  if (syscall(SYS_landlock_restrict_self, ruleset.get(), 0) != 0)
    return ErrnoStatus(errno, "landlock_restrict_self");
  return absl::OkStatus();
}

absl::Status SetLimits() {
  struct Limit {
    __rlimit_resource resource;
    rlim_t value;
  };
  const std::array<Limit, 7> limits = {{{RLIMIT_AS, kSanitized ? RLIM_INFINITY : kMaxMemoryBytes},
                                        {RLIMIT_CPU, kMaxCpuSeconds},
                                        {RLIMIT_FSIZE, kMaxFileBytes},
                                        {RLIMIT_CORE, 0},
                                        {RLIMIT_NPROC, 0},
                                        {RLIMIT_MEMLOCK, 0},
                                        {RLIMIT_NOFILE, 0}}};
  for (const Limit& limit : limits) {
    const rlimit both = {limit.value, limit.value};
    if (setrlimit(limit.resource, &both) != 0) return ErrnoStatus(errno, "setrlimit");
  }
  return absl::OkStatus();
}

// errno of libseccomp's calls is their negative result.
absl::Status FilterCalls(int scratch, std::span<const int> sockets) {
  const Handle<void, seccomp_release> filter(seccomp_init(SCMP_ACT_KILL_PROCESS));
  if (filter == nullptr) return absl::InternalError("seccomp_init: no memory");
  for (const int call :
       {SCMP_SYS(read), SCMP_SYS(pread64), SCMP_SYS(lseek), SCMP_SYS(fstat), SCMP_SYS(fadvise64),
        SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(futex),
        SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(rt_sigreturn), SCMP_SYS(exit),
        SCMP_SYS(exit_group)}) {
    if (const int error = seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, call, 0); error != 0)
      return ErrnoStatus(-error, "seccomp_rule_add");
  }
  std::vector<int> outputs = {STDOUT_FILENO};
  outputs.insert(outputs.end(), sockets.begin(), sockets.end());
  for (const int output : outputs) {
    if (const int error = seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(write), 1,
                                           SCMP_A0(SCMP_CMP_EQ, static_cast<uint64_t>(output)));
        error != 0) {
      return ErrnoStatus(-error, "seccomp_rule_add");
    }
  }
  if (scratch >= 0) {
    if (const int error = seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(pwrite64), 1,
                                           SCMP_A0(SCMP_CMP_EQ, static_cast<uint64_t>(scratch)));
        error != 0) {
      return ErrnoStatus(-error, "seccomp_rule_add");
    }
  }
  // Memory, but never code.
  if (const int error =
          seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                           SCMP_A2(SCMP_CMP_MASKED_EQ, uint64_t{PROT_EXEC}, uint64_t{0}));
      error != 0) {
    return ErrnoStatus(-error, "seccomp_rule_add");
  }
  // glibc's fstat; the name it gives is empty.
  if (const int error = seccomp_rule_add(
          filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(newfstatat), 1,
          SCMP_A3(SCMP_CMP_MASKED_EQ, uint64_t{AT_EMPTY_PATH}, uint64_t{AT_EMPTY_PATH}));
      error != 0) {
    return ErrnoStatus(-error, "seccomp_rule_add");
  }
  // What libblkid tries on a block device, and can do without.
  for (const int call : {SCMP_SYS(open), SCMP_SYS(openat), SCMP_SYS(ioctl), SCMP_SYS(access),
                         SCMP_SYS(faccessat), SCMP_SYS(faccessat2), SCMP_SYS(readlink),
                         SCMP_SYS(readlinkat), SCMP_SYS(stat), SCMP_SYS(lstat)}) {
    if (const int error = seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(EPERM), call, 0);
        error != 0) {
      return ErrnoStatus(-error, "seccomp_rule_add");
    }
  }
  if (const int error = seccomp_load(filter.get()); error != 0)
    return ErrnoStatus(-error, "seccomp_load");
  return absl::OkStatus();
}

}  // namespace

absl::Status EnterSandbox(int scratch, std::span<const int> sockets) {
  const pid_t parent = getppid();
  VR_RETURN_IF_ERROR(DropUser());
  // After the change of user, which takes it back.
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) return ErrnoStatus(errno, "prctl");
  if (getppid() != parent) return absl::CancelledError("the parent has gone");
  if (prctl(PR_SET_DUMPABLE, 0) != 0) return ErrnoStatus(errno, "prctl");
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return ErrnoStatus(errno, "prctl");
  VR_RETURN_IF_ERROR(DenyFilesystem());  // needs a descriptor: before the limits
  VR_RETURN_IF_ERROR(SetLimits());
  return FilterCalls(scratch, sockets);
}

}  // namespace virt_reclaim::freemap
