#include "host/sync/unfinished_mark.h"

#include <sys/xattr.h>

#include <cerrno>

#include "base/escape.h"
#include "base/status.h"

namespace virt_reclaim::sync {

bool SetUnfinished(int fd) { return fsetxattr(fd, kUnfinishedMark, "sync", 4, 0) == 0; }

void ClearUnfinished(int fd) { fremovexattr(fd, kUnfinishedMark); }

bool IsUnfinished(const std::string& path) {
  return getxattr(path.c_str(), kUnfinishedMark, nullptr, 0) >= 0;
}

bool IsUnfinished(int fd) { return fgetxattr(fd, kUnfinishedMark, nullptr, 0) >= 0; }

absl::StatusOr<bool> LookForUnfinished(const std::string& path) {
  if (IsUnfinished(path)) return true;
  if (errno == ENODATA || errno == EOPNOTSUPP || errno == ENOENT) return false;
  return ErrnoStatus(errno, "look for the mark of " + Quoted(path));
}

}  // namespace virt_reclaim::sync
