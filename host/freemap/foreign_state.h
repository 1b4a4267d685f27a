// Whether filesystems that have no reader here are at rest. Mounting them is another engine's
// business, whose kernel replays a log that was left open: that must be known before, or asked for.
#ifndef VIRT_RECLAIM_HOST_FREEMAP_FOREIGN_STATE_H_
#define VIRT_RECLAIM_HOST_FREEMAP_FOREIGN_STATE_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "host/freemap/byte_source.h"

namespace virt_reclaim::freemap {

// Why what libblkid calls `type` is not read; never OK. Unimplemented: nothing but that there is no
// reader; it is at rest, where that matters. Unavailable: it was not unmounted (JFS, NILFS2), or
// nobody can tell (F2FS). FailedPrecondition: errors are noted, or it is being resized or checked.
// DataLoss: its superblock is not where it was found. One thread for each source.
absl::Status WhyNoReader(absl::string_view type, const ByteSource& source);

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_FOREIGN_STATE_H_
