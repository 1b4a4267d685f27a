// `virt-reclaim run`: what the policy says is done, by the pipelines of the verbs trim, sparsify
// and punch. Collects once, plans everything, acts within the policy's limits. Nothing of a run is
// remembered for the next one but what trims remember anyway: a run that was killed is made up for
// by the next.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_RUN_H_
#define VIRT_RECLAIM_HOST_COMMANDS_RUN_H_

#include <functional>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "host/commands/punch_files.h"
#include "host/commands/sparsify_images.h"
#include "host/commands/trim.h"
#include "host/policy/policy.h"
#include "host/policy/settings.h"

namespace virt_reclaim {

struct RunOptions {
  std::set<policy::Job> jobs;
  bool estimate = false;  // the plan asks guests what is to be had
  // A storage is full, or nearly: windows, thresholds, paces and the time of the run do not count,
  // and what frees most in the shortest time comes first: what is off, backups, then what runs.
  // With the job kResume, domains that an I/O error has paused run on after all that.
  bool emergency = false;
};

// What became of one domain or file, or would.
struct RunItem {
  policy::Job job = policy::Job::kTrim;
  std::string name;  // of the domain, or a path
  bool is_domain = false;
  Outcome outcome;
  std::optional<uint64_t> expected;  // bytes; an estimate; absent: not known
  std::optional<int64_t> freed;      // bytes, measured; absent: not known, or not done
  absl::Status remembered;           // not OK: a trim's history could not be written
};

// What a verb of a job came to.
RunItem ItemOf(const TrimmedDomain& domain);
RunItem ItemOf(const SparsifiedTarget& target);
RunItem ItemOf(const PunchedFile& file);

// Of a thousand backups only those that there is something to say of.
bool IsWorthALine(const RunItem& item);

// Domains with equal settings.
struct RunTrims {
  TrimOptions options;
  std::vector<TrimAction> actions;
};

struct SparsifyStep {
  SparsifyImagesOptions options;
  std::optional<DailyWindow> window;
  SparsifyAction action;
};

struct PunchStep {
  PunchFilesOptions options;
  std::optional<DailyWindow> window;
  PunchAction action;
};

// What a run would do, in this order; in an emergency trims come after punch.
struct RunPlan {
  bool emergency = false;
  policy::RunLimits limits;
  std::vector<RunItem> passed_over;  // or could not be looked at
  std::vector<RunTrims> trims;
  std::vector<SparsifyStep> sparsify;
  std::vector<PunchStep> punch;
  std::vector<DomainSummary> resume;
};

// What the policy says of a domain, each value with its origin: for `config show`.
struct DomainPolicy {
  DomainSummary domain;
  policy::Values values;
};
// NotFound: no such domain. Any other error: what the definition or an image says cannot be known,
// so nobody knows which rules fit.
absl::StatusOr<std::vector<DomainPolicy>> ResolvePolicies(const Services& services,
                                                          const policy::Policy& policy,
                                                          const std::vector<std::string>& domains,
                                                          const std::stop_token& stop);

// The locks of `jobs`, to be held from before the plan until all is done. Aborted: another run has
// one of them.
absl::StatusOr<std::vector<DomainLock>> LockJobs(const Services& services,
                                                 const std::set<policy::Job>& jobs);

// Looks at domains, images and directories. A domain that cannot be looked at is an item of
// `passed_over`. Unavailable and the like: libvirt does not tell its domains. Cancelled.
absl::StatusOr<RunPlan> PlanRun(const Services& services, const policy::Policy& policy,
                                const RunOptions& options, const std::stop_token& stop);

// The plan as it is, without doing anything.
std::vector<RunItem> ItemsOf(const RunPlan& plan);

// Each may be empty. Those of trims may be called from several threads.
struct RunProgress {
  TrimProgress trim;
  std::function<void(const DomainSummary&)> waits;  // TrimOptions::waits
  std::function<void(const SparsifyTargetProgress&)> sparsify;
  std::function<void(const PunchFilesProgress&)> punch;
};

// First the trims, then sparsify, then punch, then resume; see RunOptions::emergency. After
// `max_duration`, which counts from this call, and in a window that is closed nothing is begun. A
// trim that meets an I/O error ends all that is still to be done to domains on its storages. After
// a stop request the rest is cancelled.
std::vector<RunItem> ExecuteRun(const Services& services, const RunPlan& plan,
                                const RunProgress& progress, const std::stop_token& stop);

// Bytes freed and items done, of a job.
struct RunTotal {
  size_t done = 0, skipped = 0, failed = 0;
  int64_t freed = 0;
  uint64_t expected = 0;
};
RunTotal TotalOf(const std::vector<RunItem>& items, policy::Job job);

// Lets a domain run that an I/O error on a full storage has paused, once there is room on every
// storage below its disks, and looks whether it stays up. Skipped, with no-room: there is not.
RunItem ResumeDomain(const Services& services, const DomainSummary& domain);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_RUN_H_
