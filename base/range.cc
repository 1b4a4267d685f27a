#include "base/range.h"

#include <algorithm>

namespace virt_reclaim {

void AppendJoined(std::vector<Range>& ranges, Range range) {
  if (range.begin >= range.end) return;
  if (!ranges.empty() && ranges.back().end == range.begin) {
    ranges.back().end = range.end;
  } else {
    ranges.push_back(range);
  }
}

uint64_t TotalBytes(std::span<const Range> ranges) {
  uint64_t sum = 0;
  for (const Range& range : ranges) sum += range.size();
  return sum;
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

std::vector<Range> RoundInwards(std::span<const Range> ranges, uint64_t unit) {
  std::vector<Range> rounded;
  for (const Range& range : ranges)
    AppendJoined(rounded, {RoundUp(range.begin, unit), RoundDown(range.end, unit)});
  return rounded;
}

std::vector<Range> RoundOutwards(std::span<const Range> ranges, uint64_t unit, uint64_t size) {
  std::vector<Range> rounded;
  for (const Range& range : ranges) {
    Range wide = {RoundDown(range.begin, unit), std::min(RoundUp(range.end, unit), size)};
    if (!rounded.empty()) wide.begin = std::max(wide.begin, rounded.back().end);
    AppendJoined(rounded, wide);
  }
  return rounded;
}

}  // namespace virt_reclaim
