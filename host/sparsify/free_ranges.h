// What of a disk can come back: free in a filesystem AND allocated in the image. Pure; any thread.
#ifndef VIRT_RECLAIM_HOST_SPARSIFY_FREE_RANGES_H_
#define VIRT_RECLAIM_HOST_SPARSIFY_FREE_RANGES_H_

#include <cstdint>
#include <span>
#include <vector>

#include "host/freemap/scan.h"
#include "host/punch/range.h"

namespace virt_reclaim::sparsify {

using punch::Range;

// The free runs of all filesystems on `disk` as one sorted list, joined where they touch, and each
// rounded inwards to `granularity` (bytes, a power of two): part of a granule frees nothing, and
// the rest of it is in use.
std::vector<Range> FreeGranules(std::span<const freemap::FreeRuns> runs, uint32_t disk,
                                uint64_t granularity);

// The bytes that are in both lists (sorted, disjoint), sorted. What is not allocated must not be
// trimmed: it would make a qcow2 image grow.
std::vector<Range> Intersect(std::span<const Range> a, std::span<const Range> b);

// `ranges` (sorted, disjoint) rounded outwards to `granularity`, joined where they touch then, and
// cut at `size`.
std::vector<Range> RoundOutwards(std::span<const Range> ranges, uint64_t granularity,
                                 uint64_t size);

// What of a disk its image holds, both sorted.
struct AllocationMap {
  std::vector<Range> allocated;  // where a trim may free something, and makes nothing grow
  // Of these, what surely holds storage. QEMU does not tell whether a cluster that reads as zeroes,
  // such as one that was trimmed before, still does.
  std::vector<Range> data;
};

uint64_t TotalBytes(std::span<const Range> ranges);

}  // namespace virt_reclaim::sparsify

#endif  // VIRT_RECLAIM_HOST_SPARSIFY_FREE_RANGES_H_
