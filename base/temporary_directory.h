// A directory for temporary files that goes with its owner, and all that is in it with it. While it
// is used it is locked (flock(2)), so that one that a killed process left is known by its name and
// its missing lock: whoever makes the next one of the same kind takes it away.
#ifndef VIRT_RECLAIM_BASE_TEMPORARY_DIRECTORY_H_
#define VIRT_RECLAIM_BASE_TEMPORARY_DIRECTORY_H_

#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"

namespace virt_reclaim {

// One thread at a time.
class TemporaryDirectory {
 public:
  // `parent`/`prefix`XXXXXX, of mode 0700. Before that removes what is left in `parent` of other
  // processes of this user with that `prefix`. Errors are those of mkdtemp(3).
  static absl::StatusOr<TemporaryDirectory> Make(const std::string& parent,
                                                 absl::string_view prefix);

  TemporaryDirectory(TemporaryDirectory&& other) noexcept
      : fd_(std::move(other.fd_)), path_(std::move(other.path_)) {}
  TemporaryDirectory& operator=(TemporaryDirectory&&) = delete;
  // Removes it and all that is in it; what cannot be removed stays.
  ~TemporaryDirectory();

  const std::string& path() const { return path_; }  // absolute

 private:
  TemporaryDirectory(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

  UniqueFd fd_;  // of the directory; has the lock
  std::string path_;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_BASE_TEMPORARY_DIRECTORY_H_
