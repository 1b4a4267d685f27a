// How much longer a trim rests while its storage is slow for everybody: from how long a small read
// there takes, compared with before the trim. Pure: no clock. One thread.
#ifndef VIRT_RECLAIM_HOST_MODEL_LATENCY_PACE_H_
#define VIRT_RECLAIM_HOST_MODEL_LATENCY_PACE_H_

#include "absl/time/time.h"

namespace virt_reclaim {

class LatencyPace {
 public:
  // `baseline`: a read before the trim began.
  explicit LatencyPace(absl::Duration baseline) : baseline_(baseline) {}

  // The least pause between two pieces after one more reading: longer with each slow one, shorter
  // again after some quick ones; zero: none beyond the trim's own.
  absl::Duration After(absl::Duration reading);
  absl::Duration pause() const { return pause_; }

 private:
  const absl::Duration baseline_;
  absl::Duration pause_ = absl::ZeroDuration();
  int quick_ = 0;  // in a row
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_LATENCY_PACE_H_
