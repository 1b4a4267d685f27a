// Whole-file reads and durable writes with a bound and a Status.
#ifndef VIRT_RECLAIM_BASE_IO_H_
#define VIRT_RECLAIM_BASE_IO_H_

#include <sys/types.h>

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim {

// The content of `path`; ResourceExhausted when it is longer than `max_bytes`. Works on /proc and
// /sys.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes);

// Writes `content` to a temporary file beside `path`, syncs it, renames it over `path` and syncs
// the directory, so that after a power cut there is the old file or the new one, whole.
absl::Status WriteFileDurably(const std::string& path, absl::string_view content, mode_t mode);

// Makes what was created, renamed or removed in the directory `path` last through a power cut.
absl::Status SyncDirectory(const std::string& path);

// mkdir -p with mode 0700 for what it makes.
absl::Status MakeDirectories(const std::string& path);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_BASE_IO_H_
