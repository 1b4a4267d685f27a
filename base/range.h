// Runs of bytes of a file or a disk, and lists of them: sorted, disjoint, none empty. Pure; any
// thread.
#ifndef VIRT_RECLAIM_BASE_RANGE_H_
#define VIRT_RECLAIM_BASE_RANGE_H_

#include <cstdint>
#include <span>
#include <vector>

namespace virt_reclaim {

// [begin, end) in bytes from the start.
struct Range {
  uint64_t begin = 0;
  uint64_t end = 0;

  uint64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

// Offsets of a file are below 2^63, so neither wraps.
inline uint64_t RoundDown(uint64_t value, uint64_t unit) { return value - value % unit; }
inline uint64_t RoundUp(uint64_t value, uint64_t unit) { return RoundDown(value + unit - 1, unit); }

// Appends `range`, joined with the last one where they touch; nothing when it is empty.
void AppendJoined(std::vector<Range>& ranges, Range range);

uint64_t TotalBytes(std::span<const Range> ranges);

// The bytes that are in both lists.
std::vector<Range> Intersect(std::span<const Range> a, std::span<const Range> b);

// Each rounded to multiples of `unit`: inwards, which leaves out those that have no whole one...
std::vector<Range> RoundInwards(std::span<const Range> ranges, uint64_t unit);
// ...and outwards, joined where they touch then, and cut at `size`.
std::vector<Range> RoundOutwards(std::span<const Range> ranges, uint64_t unit, uint64_t size);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_BASE_RANGE_H_
