#include "host/commands/storage_turn.h"

#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "host/model/assessment.h"
#include "host/services/state_path.h"

namespace virt_reclaim {
namespace {

// How often a storage is looked at that others trim on.
constexpr absl::Duration kLookForPlace = absl::Milliseconds(200);

}  // namespace

Storages StoragesOf(const DomainFacts& domain) {
  Storages storages;
  for (const DiskFacts& disk : domain.disks) {
    if (IsOther(disk.xml) || disk.xml.source.path.empty()) continue;
    if (disk.chain.empty()) {
      storages.insert(0);
      continue;
    }
    // Only the top image is written: its data is punched, and its metadata may lie elsewhere.
    storages.insert({disk.chain.front().device, DataDevice(disk.chain.front())});
  }
  return storages;
}

StorageLock PlacesOn(const Services& services, const Storages& storages, size_t limit) {
  // Locks are called by st_dev, and what is not known by its hypervisor.
  std::set<std::string> names;
  for (const uint64_t storage : storages) {
    names.insert(storage != 0 ? absl::StrCat(storage)
                              : absl::StrCat("of-", Digest(services.hypervisor.Uri())));
  }
  return StorageLock(services.lock_directory, names, limit);
}

absl::StatusOr<std::optional<Blocker>> TakeTurn(const Services& services, StorageLock& places,
                                                const TurnOptions& options,
                                                const std::stop_token& stop) {
  const absl::Time limit = services.now() + options.patience;
  for (bool waits = false;; waits = true) {
    VR_ASSIGN_OR_RETURN(const bool taken, places.Take());
    if (taken) return std::nullopt;
    if (stop.stop_requested()) return absl::CancelledError("interrupted");
    if (options.obstacle) {
      if (auto obstacle = options.obstacle()) return obstacle;
    }
    if (services.now() >= limit) return Blocker{Reason::kStorageBusy, ""};
    if (!waits && options.waits) options.waits();
    services.sleep(kLookForPlace);
  }
}

}  // namespace virt_reclaim
