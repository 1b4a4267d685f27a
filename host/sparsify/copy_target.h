// Where a copy goes. A file is written under a temporary name beside its own one, which it gets
// when it is whole: whoever sees it sees all of it, and what fails leaves nothing.
#ifndef VIRT_RECLAIM_HOST_SPARSIFY_COPY_TARGET_H_
#define VIRT_RECLAIM_HOST_SPARSIFY_COPY_TARGET_H_

#include <sys/stat.h>

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/temporary_directory.h"

namespace virt_reclaim::sparsify {

// One thread.
class CopyTarget {
 public:
  // For `path`, a file that is there or not, or a block device. A device is written directly, and
  // so is a file that has more names, or lies in a directory that nothing can be made in.
  static absl::StatusOr<CopyTarget> Make(const std::string& path);

  // What to write: absolute. There is nothing by that name yet unless it is written directly.
  const std::string& path() const { return temporary_path_; }

  // Gives it its name, and owner and mode of the file it takes the place of, once all of it is on
  // the disk; when this returns, the name is, too (fsync). AlreadyExists: somebody else made a file
  // of that name meanwhile; Aborted: the file it takes the place of is another one by now, or in
  // use. Any error: what was written goes with this object, unless it is the
  // sync of the directory that failed.
  absl::Status Publish();

 private:
  CopyTarget() = default;

  std::optional<TemporaryDirectory> directory_;  // none: written directly
  std::string temporary_path_, path_;
  std::optional<struct stat> replaced_;
};

}  // namespace virt_reclaim::sparsify

#endif  // VIRT_RECLAIM_HOST_SPARSIFY_COPY_TARGET_H_
