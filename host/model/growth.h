// How much images have grown, and when their storage will be full at that pace. The only history is
// that of trims: what an image occupied before and after each, and now. Sizes are bytes. Pure; any
// thread.
#ifndef VIRT_RECLAIM_HOST_MODEL_GROWTH_H_
#define VIRT_RECLAIM_HOST_MODEL_GROWTH_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "host/model/trim_record.h"

namespace virt_reclaim {

struct AllocationPoint {
  absl::Time at;
  uint64_t bytes = 0;
  bool operator==(const AllocationPoint&) const = default;
};
using AllocationSeries = std::vector<AllocationPoint>;  // each later than the one before

// What the image of a disk occupied at its trims, and `allocation` now. A record of another image
// says nothing; neither does one from after `now`, nor one that is not later than those before it:
// somebody has set a clock.
AllocationSeries AllocationHistory(const std::vector<TrimRecord>& trims, absl::string_view target,
                                   absl::string_view image, std::optional<uint64_t> allocation,
                                   absl::Time now);

// The sum at up to `points` moments (at least 2), evenly from the first point of all to the last. A
// series counts with its nearest value where it does not reach. Empty when there is no span of
// time.
AllocationSeries SumOf(const std::vector<AllocationSeries>& series, size_t points);

// Bytes per second, by least squares. Absent: fewer than three points, or less than two days.
std::optional<double> GrowthOf(const AllocationSeries& series);

enum class ForecastKind {
  kUnknown,     // of no disk there is enough history
  kNotGrowing,  // as a whole the images became smaller, or stayed
  kFar,         // not within ten years
  kFull,        // at `full_at`
};

struct Forecast {
  ForecastKind kind = ForecastKind::kUnknown;
  absl::Time full_at;      // of kFull
  double growth = 0;       // bytes per second, of all disks that are known; may be negative
  absl::Time since;        // the earliest point that went into it
  size_t disks_known = 0;  // how many disks the growth speaks of; the others count as still
  size_t disks = 0;        // of how many
};

// When `available` bytes will be gone if the images go on like that, and nothing else writes there.
// A storage without space is full now. A forecast is an estimate: nothing may be done because of
// it.
Forecast ForecastOf(uint64_t available, const std::vector<AllocationSeries>& disks, absl::Time now);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_GROWTH_H_
