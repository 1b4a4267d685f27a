#include "host/sparsify/free_ranges.h"

#include <algorithm>

namespace virt_reclaim::sparsify {

std::vector<Range> FreeGranules(std::span<const freemap::FreeRuns> runs, uint32_t disk,
                                uint64_t granularity) {
  std::vector<Range> all;
  for (const freemap::FreeRuns& of_filesystem : runs) {
    if (of_filesystem.disk != disk) continue;
    for (const freemap::Extent& extent : of_filesystem.extents)
      all.push_back({extent.offset, extent.offset + extent.length});
  }
  std::ranges::sort(all, {}, &Range::begin);
  std::vector<Range> joined;
  for (const Range& range : all) AppendJoined(joined, range);
  return RoundInwards(joined, granularity);
}

}  // namespace virt_reclaim::sparsify
