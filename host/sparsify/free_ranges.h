// What of a disk can come back: free in a filesystem AND allocated in the image. Pure; any thread.
#ifndef VIRT_RECLAIM_HOST_SPARSIFY_FREE_RANGES_H_
#define VIRT_RECLAIM_HOST_SPARSIFY_FREE_RANGES_H_

#include <cstdint>
#include <span>
#include <vector>

#include "base/range.h"
#include "host/freemap/scan.h"

namespace virt_reclaim::sparsify {

// The free runs of all filesystems on `disk` as one sorted list, joined where they touch, and each
// rounded inwards to `granularity` (bytes, a power of two): part of a granule frees nothing, and
// the rest of it is in use.
std::vector<Range> FreeGranules(std::span<const freemap::FreeRuns> runs, uint32_t disk,
                                uint64_t granularity);

// What of a disk its image holds, both sorted.
struct AllocationMap {
  std::vector<Range> allocated;  // where a trim may free something, and makes nothing grow
  // Of these, what surely holds storage. QEMU does not tell whether a cluster that reads as zeroes,
  // such as one that was trimmed before, still does.
  std::vector<Range> data;
};

}  // namespace virt_reclaim::sparsify

#endif  // VIRT_RECLAIM_HOST_SPARSIFY_FREE_RANGES_H_
