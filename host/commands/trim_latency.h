// Rests a trim longer while the storages of its images are slow for everybody, and as before when
// they are not. One thread at a time.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_TRIM_LATENCY_H_
#define VIRT_RECLAIM_HOST_COMMANDS_TRIM_LATENCY_H_

#include <vector>

#include "host/commands/collect.h"
#include "host/model/latency_pace.h"

namespace virt_reclaim {

class TrimLatency {
 public:
  // Takes the measure of the storages, before the trim. One that cannot be measured is left out.
  TrimLatency(const Services& services, const DomainFacts& facts, GuestAgent& agent);

  // To be called once a second while the trim is under way; tells the agent when the pause changes.
  // An agent that does not know how is not asked again.
  void Look();

 private:
  struct Storage {
    ReadTimer time;
    LatencyPace pace;
  };

  GuestAgent& agent_;
  std::vector<Storage> storages_;
  absl::Duration told_ = absl::ZeroDuration();
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_TRIM_LATENCY_H_
