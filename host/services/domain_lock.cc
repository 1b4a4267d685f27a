#include "host/services/domain_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/io.h"
#include "base/status.h"

namespace virt_reclaim {

absl::StatusOr<DomainLock> DomainLock::Take(const std::string& directory, const std::string& uuid) {
  return TakeNamed(directory, uuid, "domain");
}

absl::StatusOr<DomainLock> DomainLock::TakeImage(const std::string& directory,
                                                 const std::string& path) {
  struct stat st;
  if (stat(path.c_str(), &st) != 0) return ErrnoStatus(errno, absl::StrCat("stat '", path, "'"));
  const bool device = S_ISBLK(st.st_mode);
  return TakeNamed(directory,
                   absl::StrCat(device ? "device-" : "image-", device ? st.st_rdev : st.st_dev, "-",
                                device ? 0 : st.st_ino),
                   "image");
}

absl::StatusOr<DomainLock> DomainLock::TakeJob(const std::string& directory,
                                               const std::string& job) {
  return TakeNamed(directory, absl::StrCat("run-", job), "job");
}

absl::StatusOr<DomainLock> DomainLock::TakeNamed(const std::string& directory,
                                                 const std::string& name, const char* what) {
  VR_RETURN_IF_ERROR(MakeDirectories(directory));
  const std::string path = absl::StrCat(directory, "/", name, ".lock");
  // The file stays: removing it would let two processes lock two different inodes of the same name.
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("open '", path, "'"));
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK)
      return absl::AbortedError(absl::StrCat("another virt-reclaim is working on this ", what));
    return ErrnoStatus(errno, absl::StrCat("lock '", path, "'"));
  }
  return DomainLock(std::move(fd));
}

}  // namespace virt_reclaim
