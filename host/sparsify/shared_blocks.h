// A copy that shares the blocks of its source, on filesystems that can (reflink).
#ifndef VIRT_RECLAIM_HOST_SPARSIFY_SHARED_BLOCKS_H_
#define VIRT_RECLAIM_HOST_SPARSIFY_SHARED_BLOCKS_H_

#include <stop_token>
#include <string>

#include "absl/status/status.h"

namespace virt_reclaim::sparsify {

// Whether a file in `directory` can share blocks of the file `source`, tried with one block of it
// on a nameless file. False on btrfs, though it can: there an extent is freed only when nothing
// refers to any part of it, so the copy would keep alive what is free in the source when that goes.
bool CanShareBlocks(const std::string& source, const std::string& directory);

// Makes holes of the zero blocks of the new file `path`, which nobody else has: sharing reads
// nothing, so what is zero in the source is shared, too. Where that cannot be done they stay.
// Cancelled; one thread.
absl::Status DropZeros(const std::string& path, const std::stop_token& stop);

}  // namespace virt_reclaim::sparsify

#endif  // VIRT_RECLAIM_HOST_SPARSIFY_SHARED_BLOCKS_H_
