#include "host/commands/overview.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/escape.h"
#include "host/services/run_history.h"
#include "host/services/trim_history.h"

namespace virt_reclaim {
namespace {

// Which storage each image lies on, and what images occupy there.
class StorageUse {
 public:
  explicit StorageUse(ImageStore& images) : images_(images) {}

  // The id of its storage; empty: it cannot be asked.
  std::string Add(const ImageFile& file) {
    const auto known = id_of_device_.find(DataDevice(file));
    const std::string id = known == id_of_device_.end() ? Ask(file) : known->second;
    if (!id.empty() && seen_.insert({file.device, file.inode}).second)
      storages_.at(id).images += file.usage.allocation.value_or(0);
    return id;
  }

  std::string NameOf(const std::string& id) const {
    const auto storage = storages_.find(id);
    return storage == storages_.end() ? "" : storage->second.name;
  }

  std::vector<OverviewStorage> Take() {
    std::map<std::string, OverviewStorage> by_name;  // two cannot be mounted in one place
    for (auto& [id, storage] : storages_) by_name.emplace(storage.name, std::move(storage));
    std::vector<OverviewStorage> all;
    for (auto& [name, storage] : by_name) all.push_back(std::move(storage));
    return all;
  }

 private:
  std::string Ask(const ImageFile& file) {
    const auto space = images_.Space(file);
    if (!space.ok()) return id_of_device_[DataDevice(file)] = "";
    OverviewStorage storage;
    storage.name = Printable(space->mount_point);
    storage.capacity = space->capacity;
    storage.available = space->available;
    const auto [there, added] = storages_.emplace(space->id, storage);
    // Of the places in which one filesystem is mounted always the same.
    if (!added) there->second.name = std::min(there->second.name, storage.name);
    return id_of_device_[DataDevice(file)] = space->id;
  }

  ImageStore& images_;
  std::map<uint64_t, std::string> id_of_device_;
  std::map<std::string, OverviewStorage> storages_;
  std::set<std::pair<uint64_t, uint64_t>> seen_;
};

OverviewDisk DiskOf(const ReportedDisk& reported, const std::vector<TrimRecord>& trims,
                    absl::Time now) {
  OverviewDisk disk;
  disk.target = Printable(reported.facts.xml.target);
  disk.format = Printable(reported.facts.xml.source.format);
  disk.capacity = reported.facts.usage.capacity;
  disk.allocation = reported.facts.usage.allocation;
  if (reported.facts.guest) disk.guest_used = reported.facts.guest->used;
  disk.reclaimable = reported.assessment.reclaimable;
  disk.exact = reported.assessment.from == ReclaimableFrom::kFreeMap;
  disk.grown_since_trim = reported.grown_since_trim;
  disk.blockers = reported.assessment.blockers;
  disk.history = AllocationHistory(trims, disk.target, Printable(reported.facts.xml.source.path),
                                   disk.allocation, now);
  return disk;
}

}  // namespace

Overview MakeOverview(const Services& services, const Report& report) {
  Overview overview;
  overview.hypervisor = Printable(services.hypervisor.Uri());
  overview.now = services.now();
  overview.capacity = report.total.capacity;
  overview.allocation = report.total.allocation;
  overview.guest_used = report.total.guest_used;
  overview.reclaimable = report.total.reclaimable;
  overview.disks = report.total.disks;
  overview.disks_with_guest = report.total.disks_with_guest;
  const TrimHistory history(services.state_directory, services.hypervisor.Uri());
  StorageUse storages(services.images);
  std::vector<std::string> uuids;
  for (const ReportedDomain& reported : report.domains) {
    uuids.push_back(Printable(reported.summary.uuid));
    OverviewDomain domain;
    domain.name = Printable(reported.summary.name);
    domain.state = reported.summary.state;
    domain.examined = reported.outcome.kind != OutcomeKind::kFailed;
    if (!domain.examined) domain.error = Printable(reported.outcome.error.message());
    domain.agent = reported.agent;
    domain.last_trim = reported.last_trim;
    domain.since_trim = reported.since_trim;
    const std::vector<TrimRecord> trims = history.Read(reported.summary.uuid);
    for (const ReportedDisk& disk : reported.disks) {
      if (IsOther(disk.facts.xml)) continue;
      domain.disks.push_back(DiskOf(disk, trims, overview.now));
      for (size_t i = 0; i < disk.facts.chain.size(); ++i) {
        const std::string id = storages.Add(disk.facts.chain[i]);
        if (i == 0) domain.disks.back().storage = id;
      }
    }
    overview.domains.push_back(std::move(domain));
  }
  for (OverviewDomain& domain : overview.domains) {
    for (OverviewDisk& disk : domain.disks) disk.storage = storages.NameOf(disk.storage);
  }
  overview.storages = storages.Take();
  MakeNamesDistinct(overview.domains, uuids);
  AddGrowth(overview);
  overview.runs = ReadRuns(services.state_directory);
  for (RunRecord& run : overview.runs) run.job = Printable(run.job);
  return overview;
}

}  // namespace virt_reclaim
