#include "host/model/trim_pace.h"

#include "base/byte_size.h"

namespace virt_reclaim {
namespace {

// Between the two kinds of hosts that were measured: 0.0001 to 0.001 ms and 0.2 ms per MiB.
constexpr absl::Duration kSlowPunch = absl::Microseconds(10);
// ext4's block groups are 128 MiB: less buys nothing. On a fast host a chunk of many small extents
// is over before it is noticed.
constexpr uint64_t kSlowChunk = 128 * kMiB;
constexpr uint64_t kFastChunk = 256 * kMiB;
// Measured: with pauses three times as long as the chunks, reads of others took 1.3 times and
// synced writes 2.1 times as long as alone (99th percentile), and the trim four times; with 30
// times, nobody noticed.
constexpr uint32_t kPausePercent = 300;
constexpr uint32_t kGentlePausePercent = 3000;

}  // namespace

TrimPace PaceFor(std::optional<absl::Duration> punch_cost, bool gentle) {
  const bool slow = !punch_cost || *punch_cost > kSlowPunch;
  return {slow || gentle ? kSlowChunk : kFastChunk, gentle ? kGentlePausePercent : kPausePercent,
          /*back_off=*/true};
}

}  // namespace virt_reclaim
