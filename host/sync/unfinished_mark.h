// The mark of a copy that is not what it should be yet: an extended attribute, set before the first
// write and taken away last, so that who looks at the file knows.
#ifndef VIRT_RECLAIM_HOST_SYNC_UNFINISHED_MARK_H_
#define VIRT_RECLAIM_HOST_SYNC_UNFINISHED_MARK_H_

#include <string>

#include "absl/status/statusor.h"

namespace virt_reclaim::sync {

inline constexpr char kUnfinishedMark[] = "user.virt_reclaim.unfinished";

// False where there are no such attributes (some filesystems, block devices): then only the mtime
// tells, which is not the source's before the end.
bool SetUnfinished(int fd);
// Also when there is no mark.
void ClearUnfinished(int fd);
// Symbolic links are followed. Opens nothing.
bool IsUnfinished(const std::string& path);
bool IsUnfinished(int fd);
// The same, and an error where it cannot be known, as of others' private files. What is gone is not
// unfinished.
absl::StatusOr<bool> LookForUnfinished(const std::string& path);

}  // namespace virt_reclaim::sync

#endif  // VIRT_RECLAIM_HOST_SYNC_UNFINISHED_MARK_H_
