#include "host/model/metrics.h"

#include <algorithm>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"

namespace virt_reclaim {
namespace {

using Labels = std::vector<std::pair<std::string, std::string>>;

// Families in the order in which they were declared.
class Metrics {
 public:
  void Declare(absl::string_view name, absl::string_view help) {
    families_.push_back({absl::StrCat("virt_reclaim_", name), std::string(help), {}});
    seen_.clear();
  }

  // To the family declared last. The same labels again would spoil the whole file for its reader:
  // the first stays.
  void Add(Labels labels, double value) {
    if (seen_.insert(labels).second) families_.back().samples.push_back({std::move(labels), value});
  }
  template <typename T>
  void AddKnown(Labels labels, const std::optional<T>& value) {
    if (value) Add(std::move(labels), static_cast<double>(*value));
  }

  std::vector<MetricFamily> Take() {
    std::erase_if(families_, [](const MetricFamily& family) { return family.samples.empty(); });
    return std::move(families_);
  }

 private:
  std::vector<MetricFamily> families_;
  std::set<Labels> seen_;
};

double SecondsOf(absl::Time time) { return static_cast<double>(absl::ToUnixSeconds(time)); }

void AddCollect(Metrics& metrics, absl::string_view version, bool success, absl::Time now) {
  metrics.Declare("build_info", "Which virt-reclaim made this; always 1.");
  metrics.Add({{"version", std::string(version)}}, 1);
  metrics.Declare("collect_success", "Whether libvirt could be asked (1) or not (0).");
  metrics.Add({}, success ? 1 : 0);
  metrics.Declare("collect_timestamp_seconds", "When this was collected, in seconds since 1970.");
  metrics.Add({}, SecondsOf(now));
}

void AddDomains(Metrics& metrics, const Overview& overview) {
  const auto each = [&](auto add) {
    for (const OverviewDomain& domain : overview.domains)
      add(domain, Labels{{"domain", domain.name}});
  };
  metrics.Declare("domain_running", "Whether the domain runs (1) or not (0).");
  each([&](const OverviewDomain& domain, Labels labels) {
    metrics.Add(std::move(labels), domain.state == DomainState::kRunning ? 1 : 0);
  });
  metrics.Declare("domain_examined",
                  "Whether the domain's definition and disks could be examined.");
  each([&](const OverviewDomain& domain, Labels labels) {
    metrics.Add(std::move(labels), domain.examined ? 1 : 0);
  });
  metrics.Declare("domain_agent_up",
                  "Of a running domain: whether its guest told what it uses of its disks.");
  each([&](const OverviewDomain& domain, Labels labels) {
    if (domain.examined && domain.state == DomainState::kRunning)
      metrics.Add(std::move(labels), domain.agent ? 0 : 1);
  });
}

void AddSizes(Metrics& metrics, const Overview& overview) {
  const auto each = [&](auto add) {
    for (const OverviewDomain& domain : overview.domains) {
      for (const OverviewDisk& disk : domain.disks)
        add(disk, Labels{{"domain", domain.name}, {"target", disk.target}});
    }
  };
  metrics.Declare("disk_info", "Format of the disk, and the storage its image lies on; always 1.");
  each([&](const OverviewDisk& disk, Labels labels) {
    labels.emplace_back("format", disk.format);
    labels.emplace_back("storage", disk.storage);
    metrics.Add(std::move(labels), 1);
  });
  metrics.Declare("disk_capacity_bytes", "What the guest sees of the disk.");
  each([&](const OverviewDisk& disk, Labels labels) {
    metrics.AddKnown(std::move(labels), disk.capacity);
  });
  metrics.Declare("disk_allocated_bytes",
                  "What the disk occupies on the host, with all files of its backing chain.");
  each([&](const OverviewDisk& disk, Labels labels) {
    metrics.AddKnown(std::move(labels), disk.allocation);
  });
  metrics.Declare("disk_guest_used_bytes", "What the guest's mounted filesystems use of the disk.");
  each([&](const OverviewDisk& disk, Labels labels) {
    metrics.AddKnown(std::move(labels), disk.guest_used);
  });
  metrics.Declare("disk_reclaimable_bytes",
                  "Estimate: free in the guest and yet allocated on the host. Method live: by a "
                  "trim; offline: discards do not reach the host, by sparsify when it is off.");
  each([&](const OverviewDisk& disk, Labels labels) {
    labels.emplace_back("method", disk.blockers.empty() ? "live" : "offline");
    metrics.AddKnown(std::move(labels), disk.reclaimable);
  });
  metrics.Declare("disk_grown_since_trim_bytes",
                  "Allocation now minus that after the last remembered trim.");
  each([&](const OverviewDisk& disk, Labels labels) {
    metrics.AddKnown(std::move(labels), disk.grown_since_trim);
  });
  metrics.Declare("disk_discard_state",
                  "0 for each reason that keeps discards of the disk from the host; reason none "
                  "with 1: nothing known does.");
  each([&](const OverviewDisk& disk, const Labels& labels) {
    const auto with = [&](absl::string_view reason) {
      Labels all = labels;
      all.emplace_back("reason", reason);
      return all;
    };
    for (const Blocker& blocker : disk.blockers) metrics.Add(with(Code(blocker.reason)), 0);
    if (disk.blockers.empty()) metrics.Add(with("none"), 1);
  });
}

// `run`, not `job`: that label is Prometheus' own.
void AddRuns(Metrics& metrics, const Overview& overview) {
  metrics.Declare("run_timestamp_seconds",
                  "When the last run of the policy with this job ended, in seconds since 1970.");
  for (const RunRecord& run : overview.runs) metrics.Add({{"run", run.job}}, SecondsOf(run.ended));
  metrics.Declare("run_success",
                  "Whether all went well in it (1), or something failed, was cancelled or freed "
                  "nothing although it should have (0).");
  for (const RunRecord& run : overview.runs) metrics.Add({{"run", run.job}}, run.success ? 1 : 0);
  metrics.Declare("run_freed_bytes", "What it gave back to the host, measured.");
  for (const RunRecord& run : overview.runs)
    metrics.Add({{"run", run.job}}, static_cast<double>(run.freed));
}

void AddTrims(Metrics& metrics, const Overview& overview) {
  const auto each = [&](auto add) {
    for (const OverviewDomain& domain : overview.domains) {
      if (domain.last_trim) add(*domain.last_trim, Labels{{"domain", domain.name}});
    }
  };
  metrics.Declare("last_trim_timestamp_seconds",
                  "When the last remembered trim ended, in seconds since 1970.");
  each([&](const TrimRecord& trim, Labels labels) {
    metrics.Add(std::move(labels), SecondsOf(trim.began + trim.took));
  });
  metrics.Declare("last_trim_duration_seconds", "How long it took.");
  each([&](const TrimRecord& trim, Labels labels) {
    metrics.Add(std::move(labels), absl::ToDoubleSeconds(trim.took));
  });
  metrics.Declare("last_trim_success", "Whether it was done (1), or failed or was cancelled (0).");
  each([&](const TrimRecord& trim, Labels labels) {
    metrics.Add(std::move(labels), trim.status == "done" ? 1 : 0);
  });
  metrics.Declare("last_trim_guest_bytes", "What the guest trimmed; the guest's word.");
  each([&](const TrimRecord& trim, Labels labels) {
    metrics.Add(std::move(labels), static_cast<double>(trim.trimmed));
  });
  metrics.Declare("last_trim_expected_bytes", "The estimate before it of what would come back.");
  each([&](const TrimRecord& trim, Labels labels) {
    metrics.AddKnown(std::move(labels), trim.expected);
  });
  metrics.Declare("last_trim_freed_bytes",
                  "What the host got back, measured; negative when the images grew meanwhile.");
  each([&](const TrimRecord& trim, Labels labels) {
    metrics.AddKnown(std::move(labels), trim.freed);
  });
}

void AddStorages(Metrics& metrics, const Overview& overview) {
  const auto each = [&](absl::string_view name, absl::string_view help, auto value) {
    metrics.Declare(name, help);
    for (const OverviewStorage& storage : overview.storages)
      metrics.AddKnown({{"storage", storage.name}}, value(storage));
  };
  using Value = std::optional<double>;
  each("storage_capacity_bytes", "Size of a filesystem that images lie on.",
       [](const OverviewStorage& storage) { return Value(storage.capacity); });
  each("storage_available_bytes", "What an unprivileged program can still write there.",
       [](const OverviewStorage& storage) { return Value(storage.available); });
  each("storage_images_allocated_bytes",
       "What images of domains occupy there; a file that several disks stand on counts once.",
       [](const OverviewStorage& storage) { return Value(storage.images); });
  each("storage_full_timestamp_seconds",
       "Forecast: when it is full if the images grow as they did, in seconds since 1970.",
       [](const OverviewStorage& storage) {
         return storage.forecast.kind == ForecastKind::kFull
                    ? Value(SecondsOf(storage.forecast.full_at))
                    : std::nullopt;
       });
}

}  // namespace

std::vector<MetricFamily> MetricsOf(const Overview& overview) {
  Metrics metrics;
  AddCollect(metrics, overview.version, /*success=*/true, overview.now);
  metrics.Declare("collect_duration_seconds", "How long it took to collect this.");
  metrics.Add({}, absl::ToDoubleSeconds(overview.took));
  AddDomains(metrics, overview);
  AddSizes(metrics, overview);
  AddTrims(metrics, overview);
  AddRuns(metrics, overview);
  AddStorages(metrics, overview);
  return metrics.Take();
}

std::vector<MetricFamily> MetricsOfFailure(absl::string_view version, absl::Time now) {
  Metrics metrics;
  AddCollect(metrics, version, /*success=*/false, now);
  return metrics.Take();
}

}  // namespace virt_reclaim
