// How hard a trim may press, from what a punch costs on the host; and when it is over. Pure.
#ifndef VIRT_RECLAIM_HOST_MODEL_TRIM_PACE_H_
#define VIRT_RECLAIM_HOST_MODEL_TRIM_PACE_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "host/model/facts.h"

namespace virt_reclaim {

struct TrimPace {
  uint64_t chunk = 0;          // bytes; 0: the agent chooses
  uint32_t pause_percent = 0;  // of what each chunk took
  bool back_off = false;       // wait longer while others in the guest wait for their disks
  bool operator==(const TrimPace&) const = default;
};

// `punch_cost`: per MiB, measured beside the image; absent: not known, which counts as slow.
// `gentle`: no other I/O is to notice, however long it takes.
TrimPace PaceFor(std::optional<absl::Duration> punch_cost, bool gentle);

// How long nothing may change before the storage counts as settled, after a trim of these
// filesystems; empty: not known.
absl::Duration QuietAfter(absl::Duration trim_took, const std::vector<GuestFilesystem>& trimmed);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_TRIM_PACE_H_
