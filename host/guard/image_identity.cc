#include "host/guard/image_identity.h"

#include "absl/strings/str_cat.h"
#include "base/escape.h"

namespace virt_reclaim {

ImageIdentity IdentityOf(const struct stat& status) {
  ImageIdentity identity;
  identity.device = status.st_dev;
  identity.inode = status.st_ino;
  if (S_ISBLK(status.st_mode)) {
    identity.block_device = status.st_rdev;
    return identity;
  }
  identity.size_bytes = static_cast<uint64_t>(status.st_size);
  identity.mtime_ns = int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
  return identity;
}

absl::Status CheckIdentity(const ImageIdentity& planned, const ImageIdentity& found,
                           absl::string_view path) {
  const auto refuse = [&](absl::string_view what) {
    return absl::FailedPreconditionError(absl::StrCat("'", Printable(path), "' ", what));
  };
  if (planned.device != found.device || planned.inode != found.inode ||
      planned.block_device != found.block_device) {
    return refuse("was replaced by another file meanwhile");
  }
  if (planned.size_bytes != found.size_bytes) return refuse("has another size now");
  if (planned.mtime_ns != found.mtime_ns) return refuse("was written meanwhile");
  return absl::OkStatus();
}

}  // namespace virt_reclaim
