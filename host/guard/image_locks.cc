#include "host/guard/image_locks.h"

#include <fcntl.h>

#include <cerrno>
#include <span>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace virt_reclaim {
namespace {

enum Permission : int { kConsistentRead = 0, kWrite = 1, kWriteUnchanged = 2, kResize = 3 };
constexpr off_t kUsedBase = 100;      // RAW_LOCK_PERM_BASE
constexpr off_t kUnsharedBase = 200;  // RAW_LOCK_SHARED_BASE
// Nobody else may write or resize while we work, whatever we do.
constexpr Permission kUnshared[] = {kWrite, kResize};

constexpr Permission kReadUses[] = {kConsistentRead};
constexpr Permission kSameContentUses[] = {kWriteUnchanged};
constexpr Permission kWriteUses[] = {kConsistentRead, kWrite};
constexpr Permission kResizeUses[] = {kConsistentRead, kWrite, kResize};

std::span<const Permission> Uses(ImageIntent intent) {
  switch (intent) {
    case ImageIntent::kRead:
      return kReadUses;
    case ImageIntent::kSameContent:
      return kSameContentUses;
    case ImageIntent::kWrite:
      return kWriteUses;
    case ImageIntent::kResize:
      break;
  }
  return kResizeUses;
}

struct flock Byte(short type, off_t at) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = at;
  lock.l_len = 1;
  return lock;
}

absl::Status TakeByte(int fd, off_t at) {
  struct flock lock = Byte(F_RDLCK, at);
  if (fcntl(fd, F_OFD_SETLK, &lock) == 0) return absl::OkStatus();
  if (errno == EAGAIN || errno == EACCES)
    return absl::AbortedError(absl::StrCat("byte ", at, " is locked for writing"));
  return ErrnoStatus(errno, absl::StrCat("lock byte ", at));
}

absl::Status CheckByte(int fd, off_t at, const char* what) {
  struct flock lock = Byte(F_WRLCK, at);
  if (fcntl(fd, F_OFD_GETLK, &lock) != 0) return ErrnoStatus(errno, absl::StrCat("ask byte ", at));
  if (lock.l_type == F_UNLCK) return absl::OkStatus();
  return absl::AbortedError(what);
}

}  // namespace

absl::Status CheckImageLocks(int fd, ImageIntent intent) {
  for (const Permission used : Uses(intent)) {
    VR_RETURN_IF_ERROR(
        CheckByte(fd, kUnsharedBase + used, "locked by a QEMU that does not share it"));
  }
  for (const Permission unshared : kUnshared) {
    VR_RETURN_IF_ERROR(CheckByte(fd, kUsedBase + unshared, "locked by a QEMU that writes to it"));
  }
  return absl::OkStatus();
}

absl::Status LockImage(int fd, ImageIntent intent) {
  for (const Permission used : Uses(intent)) VR_RETURN_IF_ERROR(TakeByte(fd, kUsedBase + used));
  for (const Permission unshared : kUnshared)
    VR_RETURN_IF_ERROR(TakeByte(fd, kUnsharedBase + unshared));
  return CheckImageLocks(fd, intent);
}

void UnlockImage(int fd) {
  for (const off_t base : {kUsedBase, kUnsharedBase}) {
    struct flock lock = Byte(F_UNLCK, base);
    lock.l_len = kResize + 1;
    fcntl(fd, F_OFD_SETLK, &lock);
  }
}

}  // namespace virt_reclaim
