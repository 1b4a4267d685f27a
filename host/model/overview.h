// A hypervisor at a glance: what `report` found, with the storages below the images and what is
// remembered of trims. What metrics and the page of `report --html` are made of. Plain values;
// sizes are bytes, names printable. What is not known is absent.
#ifndef VIRT_RECLAIM_HOST_MODEL_OVERVIEW_H_
#define VIRT_RECLAIM_HOST_MODEL_OVERVIEW_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "host/model/facts.h"
#include "host/model/growth.h"
#include "host/model/reason.h"
#include "host/model/run_record.h"
#include "host/model/trim_record.h"

namespace virt_reclaim {

struct OverviewDisk {
  std::string target, format;
  std::string storage;  // mount point; empty: its image is no file, or cannot be examined
  std::optional<uint64_t> capacity, allocation, guest_used, reclaimable;
  bool exact = false;  // `reclaimable` is of both maps; else an estimate from amounts
  std::optional<int64_t> grown_since_trim;
  std::vector<Blocker> blockers;
  AllocationSeries history;
};

struct OverviewDomain {
  std::string name;  // no two have the same, even where printable forms are
  DomainState state = DomainState::kUnknown;
  bool examined = true;
  std::string error;             // why it is not
  std::optional<Blocker> agent;  // why the guest's use is not known
  std::vector<OverviewDisk> disks;
  std::optional<TrimRecord> last_trim;
  absl::Duration since_trim = absl::ZeroDuration();
};

struct OverviewStorage {
  std::string name;        // where it is mounted
  uint64_t capacity = 0;   // of the filesystem
  uint64_t available = 0;  // what an unprivileged program can still write
  uint64_t images = 0;     // what images of domains occupy there; each file counts once
  uint64_t reclaimable = 0;
  AllocationSeries history;  // of its disks together
  Forecast forecast;
};

struct Overview {
  std::string hypervisor;  // its URI
  std::string version;     // of virt-reclaim
  absl::Time now;
  absl::Duration took = absl::ZeroDuration();
  // Over what is known, as `report` counts.
  uint64_t capacity = 0, allocation = 0, guest_used = 0, reclaimable = 0;
  size_t disks = 0, disks_with_guest = 0;
  std::vector<OverviewDomain> domains;    // the most to be had first
  std::vector<OverviewStorage> storages;  // by name
  std::vector<RunRecord> runs;            // the last of each job, by its name
};

// Appends " (UUID)" to the names of those that share one. `uuids`: of the domains, in their order.
void MakeNamesDistinct(std::vector<OverviewDomain>& domains, const std::vector<std::string>& uuids);

// Histories, forecasts and sums of the storages, by the disks that lie on them.
void AddGrowth(Overview& overview);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_OVERVIEW_H_
