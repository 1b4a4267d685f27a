// Which files a command line means: files, and below directories all regular files.
#ifndef VIRT_RECLAIM_HOST_PUNCH_FIND_FILES_H_
#define VIRT_RECLAIM_HOST_PUNCH_FIND_FILES_H_

#include <functional>
#include <span>
#include <stop_token>
#include <string>

#include "absl/status/status.h"

namespace virt_reclaim::punch {

struct FindOptions {
  bool recursive = false;
  bool one_file_system = false;  // below a directory, stay on its filesystem
  bool every_name = false;       // of a file with several names each, not only the first
};

// Calls `found` for each file once (unless `every_name`), however many names of it there are (hard
// links, symbolic links, the same argument twice), and `failed` for what cannot be looked at; both
// in the order of `paths`, a directory's entries sorted by name. Symbolic links are followed where
// they are arguments, never below a directory, so that nothing outside of it is touched. An
// argument may be a block device; other special files fail, and below directories are passed over.
// Names may contain anything. Cancelled when `stop` was asked for.
absl::Status FindFiles(std::span<const std::string> paths, const FindOptions& options,
                       const std::stop_token& stop,
                       const std::function<void(const std::string&)>& found,
                       const std::function<void(const std::string&, const absl::Status&)>& failed);

}  // namespace virt_reclaim::punch

#endif  // VIRT_RECLAIM_HOST_PUNCH_FIND_FILES_H_
