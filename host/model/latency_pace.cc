#include "host/model/latency_pace.h"

#include <algorithm>

namespace virt_reclaim {
namespace {

// Beside a trim with pauses three times its pieces, reads of others were measured at 1.3 times
// their time alone: three times that is somebody else's load, or a storage that cannot cope.
constexpr int kSlowFactor = 3;
// The slowest hundredth of reads on an idle host took up to 5 ms; nobody suffers from less than
// twice that.
constexpr absl::Duration kNoticed = absl::Milliseconds(10);
constexpr absl::Duration kFirstPause = absl::Seconds(1);
constexpr absl::Duration kMostPause = absl::Seconds(30);
constexpr int kQuickEnough = 3;

}  // namespace

absl::Duration LatencyPace::After(absl::Duration reading) {
  if (reading > std::max(baseline_ * kSlowFactor, kNoticed)) {
    quick_ = 0;
    pause_ = std::clamp(pause_ * 2, kFirstPause, kMostPause);
  } else if (++quick_ >= kQuickEnough) {
    quick_ = 0;
    pause_ = pause_ > kFirstPause ? pause_ / 2 : absl::ZeroDuration();
  }
  return pause_;
}

}  // namespace virt_reclaim
