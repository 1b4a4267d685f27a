// A run of bytes of a file. Pure.
#ifndef VIRT_RECLAIM_HOST_PUNCH_RANGE_H_
#define VIRT_RECLAIM_HOST_PUNCH_RANGE_H_

#include <cstdint>
#include <vector>

namespace virt_reclaim::punch {

// [begin, end) in bytes from the start of the file; never empty in a list.
struct Range {
  uint64_t begin = 0;
  uint64_t end = 0;

  uint64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

// Appends `range` to a sorted list, joined with the last one where they touch.
inline void AppendJoined(std::vector<Range>& ranges, Range range) {
  if (range.begin >= range.end) return;
  if (!ranges.empty() && ranges.back().end == range.begin) {
    ranges.back().end = range.end;
  } else {
    ranges.push_back(range);
  }
}

inline uint64_t RoundDown(uint64_t value, uint64_t unit) { return value - value % unit; }
// `value` is an offset of a file (below 2^63), so this does not wrap.
inline uint64_t RoundUp(uint64_t value, uint64_t unit) { return RoundDown(value + unit - 1, unit); }

}  // namespace virt_reclaim::punch

#endif  // VIRT_RECLAIM_HOST_PUNCH_RANGE_H_
