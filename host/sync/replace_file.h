// A nameless file that takes the place of another one at the end, with all that belongs to that
// one: what --atomic is made of.
#ifndef VIRT_RECLAIM_HOST_SYNC_REPLACE_FILE_H_
#define VIRT_RECLAIM_HOST_SYNC_REPLACE_FILE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace virt_reclaim::sync {

// In `directory`, open for reading and writing. With `old` (>= 0): a reflink copy of it, with its
// owner, mode and extended attributes; Unimplemented where the filesystem has no reflinks,
// FailedPrecondition when it has other names (they would keep the old content). It goes with its
// last descriptor until ReplaceFile names it.
absl::StatusOr<UniqueFd> MakeReplacement(const std::string& directory, int old);

// Syncs `fd`, gives it the name `path` (in `directory`), replacing what is there when `replace`,
// and syncs the directory: after a power cut there is the old file or the new one.
// FailedPrecondition when not `replace` and there is one now.
absl::Status ReplaceFile(int fd, const std::string& directory, const std::string& path,
                         bool replace);

// Of `like`, where we may; otherwise it stays the owner's alone.
void TakeOwnerAndMode(int fd, int like);

}  // namespace virt_reclaim::sync

#endif  // VIRT_RECLAIM_HOST_SYNC_REPLACE_FILE_H_
