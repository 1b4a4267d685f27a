#include "host/services/domain_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/io.h"
#include "base/status.h"

namespace virt_reclaim {
namespace {

constexpr char kLookMark = 'l';

bool IsLook(int fd) {
  char mark = 0;
  return pread(fd, &mark, 1, 0) == 1 && mark == kLookMark;
}

}  // namespace

absl::StatusOr<DomainLock> DomainLock::Take(const std::string& directory, const std::string& uuid,
                                            Use use) {
  return TakeNamed(directory, uuid, "domain", use);
}

absl::StatusOr<DomainLock> DomainLock::TakeImage(const std::string& directory,
                                                 const std::string& path) {
  struct stat st;
  if (stat(path.c_str(), &st) != 0) return ErrnoStatus(errno, absl::StrCat("stat '", path, "'"));
  const bool device = S_ISBLK(st.st_mode);
  return TakeNamed(directory,
                   absl::StrCat(device ? "device-" : "image-", device ? st.st_rdev : st.st_dev, "-",
                                device ? 0 : st.st_ino),
                   "image", Use::kWork);
}

absl::StatusOr<DomainLock> DomainLock::TakeJob(const std::string& directory,
                                               const std::string& job) {
  return TakeNamed(directory, absl::StrCat("run-", job), "job", Use::kWork);
}

absl::StatusOr<DomainLock> DomainLock::TakeNamed(const std::string& directory,
                                                 const std::string& name, const char* what,
                                                 Use use) {
  VR_RETURN_IF_ERROR(MakeDirectories(directory));
  const std::string path = absl::StrCat(directory, "/", name, ".lock");
  // The file stays: removing it would let two processes lock two different inodes of the same name.
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("open '", path, "'"));
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoStatus(errno, absl::StrCat("lock '", path, "'"));
    if (IsLook(fd.get()))
      return absl::UnavailableError(absl::StrCat("another virt-reclaim is asking this ", what));
    return absl::AbortedError(absl::StrCat("another virt-reclaim is working on this ", what));
  }
  // One that reads this between the lock and here is told what the holder before was at: a look to
  // wait for is then looked at again, and a work is one more 'busy'.
  if (ftruncate(fd.get(), 0) != 0 ||
      (use == Use::kLook && pwrite(fd.get(), &kLookMark, 1, 0) != 1)) {
    return ErrnoStatus(errno, absl::StrCat("write '", path, "'"));
  }
  return DomainLock(std::move(fd));
}

}  // namespace virt_reclaim
