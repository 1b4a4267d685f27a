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
  std::vector<Range> granules;
  for (const Range& range : joined) {
    const uint64_t begin = punch::RoundUp(range.begin, granularity);
    const uint64_t end = punch::RoundDown(range.end, granularity);
    if (begin < end) granules.push_back({begin, end});
  }
  return granules;
}

std::vector<Range> Intersect(std::span<const Range> a, std::span<const Range> b) {
  std::vector<Range> both;
  auto x = a.begin();
  auto y = b.begin();
  while (x != a.end() && y != b.end()) {
    const Range common = {std::max(x->begin, y->begin), std::min(x->end, y->end)};
    if (common.begin < common.end) both.push_back(common);
    if (x->end < y->end) {
      ++x;
    } else {
      ++y;
    }
  }
  return both;
}

std::vector<Range> RoundOutwards(std::span<const Range> ranges, uint64_t granularity,
                                 uint64_t size) {
  std::vector<Range> rounded;
  for (const Range& range : ranges) {
    Range wide = {punch::RoundDown(range.begin, granularity),
                  std::min(punch::RoundUp(range.end, granularity), size)};
    if (!rounded.empty()) wide.begin = std::max(wide.begin, rounded.back().end);
    AppendJoined(rounded, wide);
  }
  return rounded;
}

uint64_t TotalBytes(std::span<const Range> ranges) {
  uint64_t sum = 0;
  for (const Range& range : ranges) sum += range.size();
  return sum;
}

}  // namespace virt_reclaim::sparsify
