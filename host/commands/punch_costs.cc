#include "host/commands/punch_costs.h"

#include <algorithm>

#include "host/model/assessment.h"

namespace virt_reclaim {

std::optional<absl::Duration> PunchCosts::Of(const std::vector<DiskFacts>& disks) {
  std::optional<absl::Duration> slowest;
  for (const DiskFacts& disk : disks) {
    if (IsOther(disk.xml) || disk.xml.source.path.empty()) continue;
    if (disk.chain.empty()) return std::nullopt;
    const ImageFile& image = disk.chain.front();
    const std::lock_guard lock(mutex_);
    const auto [known, is_new] = known_.try_emplace(DataDevice(image));
    if (is_new) {
      if (const auto cost = images_.PunchCost(DataPath(image)); cost.ok()) known->second = *cost;
    }
    if (!known->second) return std::nullopt;
    slowest = std::max(slowest.value_or(absl::ZeroDuration()), *known->second);
  }
  return slowest;
}

}  // namespace virt_reclaim
