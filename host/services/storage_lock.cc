#include "host/services/storage_lock.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/io.h"
#include "base/status.h"

namespace virt_reclaim {
namespace {

constexpr size_t kPlaces = 1 << 20;  // more than any limit
constexpr off_t kTurn = kPlaces;

absl::StatusOr<UniqueFd> Open(const std::string& directory, const std::string& storage) {
  VR_RETURN_IF_ERROR(MakeDirectories(directory));
  const std::string path = absl::StrCat(directory, "/storage-", storage, ".lock");
  // The file stays, as in domain_lock.cc.
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("open '", path, "'"));
  return fd;
}

// False: somebody else's lock is in the way.
absl::StatusOr<bool> Lock(int fd, short type, off_t start, off_t length) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = start;
  lock.l_len = length;
  if (fcntl(fd, F_OFD_SETLK, &lock) == 0) return true;
  if (errno == EAGAIN || errno == EACCES) return false;
  return ErrnoStatus(errno, "lock a storage");
}

}  // namespace

StorageLock::StorageLock(std::string directory, const std::set<std::string>& storages, size_t limit)
    : directory_(std::move(directory)),
      storages_(storages.begin(), storages.end()),
      limit_(std::clamp<size_t>(limit, 1, kPlaces - 1)) {}

absl::StatusOr<bool> StorageLock::Take() {
  while (held_.size() < storages_.size()) {
    if (!next_.valid()) {
      VR_ASSIGN_OR_RETURN(next_, Open(directory_, storages_[held_.size()]));
    }
    VR_ASSIGN_OR_RETURN(const bool taken, TakePlace(next_.get()));
    if (!taken) return false;
    held_.push_back(std::move(next_));
  }
  return true;
}

absl::StatusOr<bool> StorageLock::TakePlace(int fd) const {
  const auto limit = static_cast<off_t>(limit_);
  VR_ASSIGN_OR_RETURN(const bool turn, Lock(fd, F_WRLCK, kTurn, 1));
  if (!turn) return false;
  VR_ASSIGN_OR_RETURN(const bool no_more, Lock(fd, F_RDLCK, limit, kTurn - limit));
  if (!no_more) return false;
  for (off_t place = 0; place < limit; ++place) {
    VR_ASSIGN_OR_RETURN(const bool taken, Lock(fd, F_WRLCK, place, 1));
    if (!taken) continue;
    VR_RETURN_IF_ERROR(Lock(fd, F_UNLCK, kTurn, 1).status());
    return true;
  }
  return false;
}

}  // namespace virt_reclaim
