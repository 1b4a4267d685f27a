// The cost of a punch below the disks of domains, which paces their trims.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_PUNCH_COSTS_H_
#define VIRT_RECLAIM_HOST_COMMANDS_PUNCH_COSTS_H_

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "host/commands/collect.h"

namespace virt_reclaim {

// What a punch costs on each storage, measured when it is first asked for. Any thread.
class PunchCosts {
 public:
  explicit PunchCosts(ImageStore& images) : images_(images) {}
  // Per MiB, of the slowest storage of these disks; empty when that of one is not known.
  std::optional<absl::Duration> Of(const std::vector<DiskFacts>& disks);

 private:
  ImageStore& images_;
  std::mutex mutex_;
  std::map<uint64_t, std::optional<absl::Duration>> known_;  // by st_dev
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_PUNCH_COSTS_H_
