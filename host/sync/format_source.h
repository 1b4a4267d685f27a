// The content of an image file of some format, as a guest would see it: qemu-nbd shows it.
#ifndef VIRT_RECLAIM_HOST_SYNC_FORMAT_SOURCE_H_
#define VIRT_RECLAIM_HOST_SYNC_FORMAT_SOURCE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "host/guard/image_identity.h"
#include "host/sync/source.h"

namespace virt_reclaim::sync {

// Guards the file `path` as OpenFileSource does, and starts a qemu-nbd that reads it, in `format`
// (qemu-img's names), until the source goes. QEMU's own locks guard the files below it. The mtime
// is the file's. FailedPrecondition when it is another one than `planned`; Unavailable with what
// qemu-nbd says when that cannot show it.
absl::StatusOr<std::unique_ptr<Source>> OpenFormatSource(const std::string& path,
                                                         const std::string& format,
                                                         const ImageIdentity& planned);

}  // namespace virt_reclaim::sync

#endif  // VIRT_RECLAIM_HOST_SYNC_FORMAT_SOURCE_H_
