// What to read of a file and what to punch of what was read. Pure; any thread.
#ifndef VIRT_RECLAIM_HOST_PUNCH_PLAN_H_
#define VIRT_RECLAIM_HOST_PUNCH_PLAN_H_

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/range.h"
#include "host/punch/data_map.h"

namespace virt_reclaim::punch {

inline constexpr uint64_t kWindowBytes = uint64_t{16} << 20;   // the step of reading
inline constexpr uint64_t kMaxHoleBytes = uint64_t{64} << 20;  // the step of punching

// What one step reads: data ranges within one stretch of the file.
struct Window {
  Range range;  // from the first to the last byte of `data`
  std::vector<Range> data;
  uint64_t data_bytes = 0;
};

struct Skipped {
  uint64_t unwritten_bytes = 0;
  uint64_t compressed_bytes = 0;
  uint64_t inline_bytes = 0;
  uint64_t compressed_cluster_bytes = 0;  // of a qcow2 image

  bool operator==(const Skipped&) const = default;
};

struct ReadPlan {
  std::vector<Window> windows;
  uint64_t read_bytes = 0;  // sum of all data ranges
  Skipped skipped;
  std::vector<Range> shared;  // of the data: a hole there frees nothing yet
};

// `unit_bytes` is what the filesystem allocates at once. Data ranges are widened to whole units, so
// that a unit that is partly hole is read as a whole; a unit that has a skipped byte is left out as
// a whole. All ranges end with the file at the latest. `compressed_clusters`: what a qcow2 image
// has packed (qcow2_clusters.h), left out as well; sorted.
ReadPlan MakeReadPlan(std::span<const Extent> extents, uint64_t size_bytes, uint64_t unit_bytes,
                      bool take_unwritten, std::span<const Range> compressed_clusters = {});

// Joins the zero runs of one window with those of the next, drops what is shorter than the minimum,
// and cuts what is longer than kMaxHoleBytes, so that acting stays a bounded step.
class RunJoiner {
 public:
  RunJoiner(uint64_t min_hole_bytes, uint64_t unit_bytes);

  // The runs of a window, sorted, all behind those of the windows before. Returns what is known to
  // be whole. The last run is kept back when it may go on.
  std::vector<Range> Add(std::span<const Range> runs, uint64_t window_end);
  // What was kept back.
  std::vector<Range> Finish();

 private:
  void Close(std::vector<Range>& out);

  uint64_t min_hole_;
  uint64_t max_hole_;
  Range open_;        // begin == end: none
  bool cut_ = false;  // open_ goes on where a cut one ended: its length is no reason to drop it
};

// Bytes that a sorted list of ranges has in common with `range`. Amortised constant when asked for
// ranges in ascending order.
class Overlap {
 public:
  explicit Overlap(std::span<const Range> ranges) : ranges_(ranges) {}
  uint64_t With(Range range);

 private:
  std::span<const Range> ranges_;
  size_t next_ = 0;
};

}  // namespace virt_reclaim::punch

#endif  // VIRT_RECLAIM_HOST_PUNCH_PLAN_H_
