// libext2fs reading from a ByteSource: an io_manager that can read and nothing else. It opens no
// file, so it works inside the sandbox.
#ifndef VIRT_RECLAIM_HOST_FREEMAP_EXT_CHANNEL_H_
#define VIRT_RECLAIM_HOST_FREEMAP_EXT_CHANNEL_H_

#include <ext2fs/ext2fs.h>

#include "absl/status/statusor.h"
#include "base/handle.h"
#include "host/freemap/byte_source.h"

namespace virt_reclaim::freemap {

using ExtHandle = Handle<struct_ext2_filsys, ext2fs_free>;

// Opens the filesystem in `source`, which must outlive it: superblock checked by libext2fs, all
// group descriptors read. Never for writing, never ignoring an error. DataLoss with libext2fs's
// words. The caller has bounded the number of groups: libext2fs allocates what the superblock says.
absl::StatusOr<ExtHandle> OpenExt(const ByteSource& source);

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_EXT_CHANNEL_H_
