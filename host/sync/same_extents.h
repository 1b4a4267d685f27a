// Which parts of two files are the same blocks of the disk: they need not be read to be equal.
#ifndef VIRT_RECLAIM_HOST_SYNC_SAME_EXTENTS_H_
#define VIRT_RECLAIM_HOST_SYNC_SAME_EXTENTS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "host/punch/data_map.h"

namespace virt_reclaim::sync {

// Where `one` and `other` (both sorted) have the same place of the disk at the same offset. Pure.
std::vector<Range> SamePlaces(std::span<const punch::SharedExtent> one,
                              std::span<const punch::SharedExtent> other);

// Whether places on the disk that FIEMAP tells of the regular files `one` and `other` are
// comparable: both on the same XFS or btrfs, and not on a realtime device. Others share nothing
// between files, or we do not know their numbers. Any thread.
bool OnSameDisk(int one, int other);

// SamePlaces of two open regular files, empty where they are not comparable or it cannot be known.
// Dirty pages of both are written first.
std::vector<Range> SameExtents(int one, int other, uint64_t size_bytes);

}  // namespace virt_reclaim::sync

#endif  // VIRT_RECLAIM_HOST_SYNC_SAME_EXTENTS_H_
