#include "host/model/trim_pace.h"

#include <algorithm>

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
// A part of what the trim took, because a slow store is slow to finish too. Measured: of ext4 and
// btrfs the last change comes 1 to 7 ms before FITRIM's reply, and none in the 2.5 s after it; XFS
// may answer while discards are under way (Linux 6.18: a quarter of them).
constexpr int kSettlePart = 100;
constexpr absl::Duration kMinSettle = absl::Milliseconds(20);
constexpr int kLateSettlePart = 20;
constexpr absl::Duration kLateMinSettle = absl::Milliseconds(100);
constexpr absl::Duration kMaxSettle = absl::Seconds(1);

bool MayAnswerEarly(const GuestFilesystem& filesystem) {
  const bool trimmed = filesystem.obstacle == GuestObstacle::kNone ||
                       filesystem.obstacle == GuestObstacle::kPartial ||
                       filesystem.obstacle == GuestObstacle::kUnknown;
  return trimmed && filesystem.type != "ext4" && filesystem.type != "btrfs";
}

}  // namespace

TrimPace PaceFor(std::optional<absl::Duration> punch_cost, bool gentle) {
  const bool slow = !punch_cost || *punch_cost > kSlowPunch;
  return {slow || gentle ? kSlowChunk : kFastChunk, gentle ? kGentlePausePercent : kPausePercent,
          /*back_off=*/true};
}

absl::Duration QuietAfter(absl::Duration trim_took, const std::vector<GuestFilesystem>& trimmed) {
  const bool late = trimmed.empty() || std::any_of(trimmed.begin(), trimmed.end(), MayAnswerEarly);
  return late ? std::clamp(trim_took / kLateSettlePart, kLateMinSettle, kMaxSettle)
              : std::clamp(trim_took / kSettlePart, kMinSettle, kMaxSettle);
}

}  // namespace virt_reclaim
