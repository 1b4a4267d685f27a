#include "host/sync/unfinished_mark.h"

#include <sys/xattr.h>

namespace virt_reclaim::sync {

bool SetUnfinished(int fd) { return fsetxattr(fd, kUnfinishedMark, "sync", 4, 0) == 0; }

void ClearUnfinished(int fd) { fremovexattr(fd, kUnfinishedMark); }

bool IsUnfinished(const std::string& path) {
  return getxattr(path.c_str(), kUnfinishedMark, nullptr, 0) >= 0;
}

}  // namespace virt_reclaim::sync
