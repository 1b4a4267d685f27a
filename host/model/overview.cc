#include "host/model/overview.h"

#include <map>

#include "absl/strings/str_cat.h"

namespace virt_reclaim {
namespace {

constexpr size_t kTrendPoints = 60;  // as many as a picture of it can show

}  // namespace

void MakeNamesDistinct(std::vector<OverviewDomain>& domains,
                       const std::vector<std::string>& uuids) {
  std::map<std::string, size_t> count;
  for (const OverviewDomain& domain : domains) ++count[domain.name];
  for (size_t i = 0; i < domains.size() && i < uuids.size(); ++i) {
    if (count[domains[i].name] > 1) absl::StrAppend(&domains[i].name, " (", uuids[i], ")");
  }
}

void AddGrowth(Overview& overview) {
  std::map<std::string, std::vector<AllocationSeries>> by_storage;
  std::map<std::string, uint64_t> reclaimable;
  for (const OverviewDomain& domain : overview.domains) {
    for (const OverviewDisk& disk : domain.disks) {
      by_storage[disk.storage].push_back(disk.history);
      reclaimable[disk.storage] += disk.reclaimable.value_or(0);
    }
  }
  for (OverviewStorage& storage : overview.storages) {
    const std::vector<AllocationSeries>& disks = by_storage[storage.name];
    storage.reclaimable = reclaimable[storage.name];
    storage.history = SumOf(disks, kTrendPoints);
    storage.forecast = ForecastOf(storage.available, disks, overview.now);
  }
}

}  // namespace virt_reclaim
