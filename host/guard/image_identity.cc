#include "host/guard/image_identity.h"

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/io.h"

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
  identity.mtime_ns = Nanoseconds(status.st_mtim);
  return identity;
}

bool SameFile(const ImageIdentity& a, const ImageIdentity& b) {
  return a.device == b.device && a.inode == b.inode && a.block_device == b.block_device;
}

bool SameImage(const ImageIdentity& a, const ImageIdentity& b) {
  return (a.block_device != 0 && a.block_device == b.block_device) || SameFile(a, b);
}

absl::Status CheckIdentity(const ImageIdentity& planned, const ImageIdentity& found,
                           absl::string_view path) {
  const auto refuse = [&](absl::string_view what) {
    return absl::FailedPreconditionError(absl::StrCat(Quoted(path), " ", what));
  };
  if (!SameFile(planned, found)) return refuse("was replaced by another file meanwhile");
  if (planned.size_bytes != found.size_bytes) return refuse("has another size now");
  if (planned.mtime_ns != found.mtime_ns) return refuse("was written meanwhile");
  return absl::OkStatus();
}

}  // namespace virt_reclaim
