// Which image a plan was made for. Acting on another one of the same name is refused.
#ifndef VIRT_RECLAIM_HOST_GUARD_IMAGE_IDENTITY_H_
#define VIRT_RECLAIM_HOST_GUARD_IMAGE_IDENTITY_H_

#include <sys/stat.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim {

// A value; any thread.
struct ImageIdentity {
  dev_t device = 0;  // of the filesystem, st_dev; of a block device its node's
  ino_t inode = 0;
  dev_t block_device = 0;   // st_rdev of a block device, else 0
  uint64_t size_bytes = 0;  // of a block device 0: stat(2) does not know it
  int64_t mtime_ns = 0;     // since 1970; of a block device 0: a node's time says nothing

  bool operator==(const ImageIdentity&) const = default;
};

ImageIdentity IdentityOf(const struct stat& status);

// Whether both are one file, or one node of one block device, whatever was written to it meanwhile.
bool SameFile(const ImageIdentity& a, const ImageIdentity& b);

// Whether what is written to one is written to the other: one file, or two nodes of one block
// device.
bool SameImage(const ImageIdentity& a, const ImageIdentity& b);

// FailedPrecondition, saying what differs, when `found` is not what `planned` was made for.
// `path` is for the message.
absl::Status CheckIdentity(const ImageIdentity& planned, const ImageIdentity& found,
                           absl::string_view path);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_GUARD_IMAGE_IDENTITY_H_
