#include "base/status.h"

#include <cerrno>

#include "absl/strings/str_cat.h"

namespace virt_reclaim {

absl::Status ErrnoStatus(int err, absl::string_view what) {
  const absl::Status status = absl::ErrnoToStatus(err, what);
  if (err != EISDIR && err != ENOTDIR) return status;
  return absl::InvalidArgumentError(status.message());
}

absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(context, ": ", status.message()));
}

}  // namespace virt_reclaim
