// `virt-reclaim run`: what the policy says is done, by the pipelines of the verbs trim, sparsify
// and punch. Collects once (what the rules were chosen by is what trims are planned with), plans
// everything, acts within the policy's limits. Nothing of a run is remembered for the next one but
// what trims remember anyway: a run that was killed is made up for by the next.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_RUN_H_
#define VIRT_RECLAIM_HOST_COMMANDS_RUN_H_

#include <functional>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "host/commands/punch_files.h"
#include "host/commands/sparsify_images.h"
#include "host/commands/trim.h"
#include "host/policy/policy.h"
#include "host/policy/settings.h"

namespace virt_reclaim {

// Domains and files: whether it is a domain, and its name or path.
using RunNames = std::set<std::pair<bool, std::string>>;

struct RunOptions {
  std::set<policy::Job> jobs;
  bool estimate = false;  // the plan asks guests what is to be had
  // A storage is full, or nearly: windows, thresholds, paces and the time of the run do not count,
  // and what frees most in the shortest time comes first: what is off, backups, then what runs.
  // With the job kResume, domains that an I/O error has paused run on after all that.
  bool emergency = false;
  // Only what is left of an earlier round (LeftForWindow); empty: all.
  std::optional<RunNames> only = std::nullopt;
  absl::Duration worked = absl::ZeroDuration();  // in earlier rounds; of `max_duration`
};

// What became of one domain or file, or would.
struct RunItem {
  policy::Job job = policy::Job::kTrim;
  std::string name;  // of the domain, or a path
  bool is_domain = false;
  Outcome outcome;
  std::optional<uint64_t> expected;   // bytes; an estimate; absent: not known
  std::optional<int64_t> freed;       // bytes, measured; absent: not known, or not done
  absl::Status remembered;            // not OK: a trim's history could not be written
  std::optional<DailyWindow> window;  // it was not begun because this was closed
};

// Of a domain of which there is nothing to say yet.
RunItem DomainItem(policy::Job job, const std::string& name);

// What a verb of a job came to.
RunItem ItemOf(const TrimmedDomain& domain);
RunItem ItemOf(const SparsifiedTarget& target);
RunItem ItemOf(const PunchedFile& file);

// Of a thousand backups only those that there is something to say of.
bool IsWorthALine(const RunItem& item);

struct TrimStep {
  TrimOptions options;  // its `max_duration` does not count: that of the run does
  TrimAction action;
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
  bool of_domain = false;  // an image of one that is off; else a backup
};

// What a run would do, in this order. Where there may be no time for all trims (a window, a limit),
// whoever waits longest comes first, whatever rules it is under. In an emergency trims come after
// punch, and of each kind what lies on the storage with the least room comes first, of that what
// has the most to give.
struct RunPlan {
  bool emergency = false;
  policy::RunLimits limits;
  std::vector<RunItem> passed_over;  // or could not be looked at
  std::vector<TrimStep> trims;
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
// one of them. With `busy`, those that another run has are put there in place of that, and only
// when it is all of them it is Aborted.
absl::StatusOr<std::vector<DomainLock>> LockJobs(const Services& services,
                                                 const std::set<policy::Job>& jobs,
                                                 std::set<policy::Job>* busy = nullptr);

// Looks at domains, images and directories. A domain that cannot be looked at is an item of
// `passed_over`. Unavailable and the like: libvirt does not tell its domains. Cancelled.
absl::StatusOr<RunPlan> PlanRun(const Services& services, const policy::Policy& policy,
                                const RunOptions& options, const std::stop_token& stop);

// The plan as it is, without doing anything; what is passed over first, the rest as it would be
// done.
std::vector<RunItem> ItemsOf(const RunPlan& plan);

// Each may be empty. Those of trims may be called from several threads.
struct RunProgress {
  TrimProgress trim;
  std::function<void(const DomainSummary&)> waits;  // TrimOptions::waits
  std::function<void(const SparsifyTargetProgress&)> sparsify;
  std::function<void(const PunchFilesProgress&)> punch;
};

// First the trims, then sparsify, then punch, then resume; see RunOptions::emergency. After
// `max_duration`, which counts from this call, nothing is begun, nor in a window that is closed;
// one that opens meanwhile counts. A trim that meets an I/O error ends all that is still to be done
// to domains on its storages. After a stop request the rest is cancelled.
std::vector<RunItem> ExecuteRun(const Services& services, const RunPlan& plan,
                                const RunProgress& progress, const std::stop_token& stop);

// A run that waits for windows goes on in rounds: each plans anew what the one before has left.

// What was left because a window was closed.
RunNames LeftForWindow(const std::vector<RunItem>& items);

// When the first of these windows opens, or now when one is open. InfiniteFuture: no item waits.
absl::Time NextWindow(const std::vector<RunItem>& items, absl::Time now);

// Sleeps until one of the windows is open. False: none opens before `limit`, or a stop request
// came. `waits` is told once when it opens, before the first sleep; may be empty. The clock may
// jump: it is asked again every second.
bool WaitForWindow(const Services& services, const std::vector<RunItem>& items, absl::Time limit,
                   const std::function<void(absl::Time opens)>& waits, const std::stop_token& stop);

// Puts what a later round says of `asked` in the place of what `items` say. What it says nothing of
// is gone, or another run has it: it waits no more.
void Renew(std::vector<RunItem>& items, const RunNames& asked, std::vector<RunItem> later);

// Bytes freed and items done, of a job.
struct RunTotal {
  size_t done = 0, skipped = 0, failed = 0;
  int64_t freed = 0;
  uint64_t expected = 0;
};
RunTotal TotalOf(const std::vector<RunItem>& items, policy::Job job);

// Writes down for `metrics` what the run of `job` came to, by what `items` say of it. Called with
// the items of all rounds; `whole`: false when a round could not even begin. Not OK: it could not
// be written.
absl::Status RememberRun(const std::string& state_directory, policy::Job job,
                         const std::vector<RunItem>& items, bool whole, absl::Time now);

// Lets a domain run that an I/O error on a full storage has paused, once there is room on every
// storage below its disks, and looks whether it stays up. Skipped, with no-room: there is not.
RunItem ResumeDomain(const Services& services, const DomainSummary& domain);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_RUN_H_
