// The first half of a run: which rules fit which domain, and what the pipelines would do with it.
#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/commands/collect.h"
#include "host/commands/run.h"
#include "host/model/assessment.h"
#include "host/model/image_judge.h"

namespace virt_reclaim {
namespace {

using policy::DomainSettings;
using policy::Job;

// A gentle trim pauses longer than it works (as of the verb trim).
constexpr absl::Duration kGentleTimeout = absl::Hours(8);

// What counts for a domain, and the domain as it was looked at for that.
struct Resolved {
  policy::Values values;
  std::optional<DomainFacts> facts;  // absent: no rule asked for its images
};

absl::StatusOr<Resolved> ResolveDomain(const Services& services, const policy::Policy& policy,
                                       const DomainSummary& domain) {
  VR_ASSIGN_OR_RETURN(const std::string text,
                      services.hypervisor.DomainXml(domain.uuid, Hypervisor::Xml::kLive));
  VR_ASSIGN_OR_RETURN(const xml::Domain definition, xml::ParseDomain(text));
  policy::DomainTraits traits;
  traits.name = domain.name;
  traits.uuid = domain.uuid;
  traits.metadata_run = definition.policy_run;
  absl::Status looked;
  std::optional<DomainFacts> facts;
  traits.lies_on = [&](const std::string& path) {
    if (!looked.ok()) return false;
    if (!facts) {
      auto collected = CollectDomain(services, domain);
      looked = collected.status();
      if (looked.ok()) facts = *std::move(collected);
    }
    if (!facts) return false;
    for (const DiskFacts& disk : facts->disks) {
      if (disk.chain.empty()) continue;
      const auto lies = services.images.LiesOn(disk.chain.front(), path);
      looked.Update(lies.status());
      if (lies.ok() && *lies) return true;
    }
    return false;
  };
  policy::Values values = policy::Resolve(policy, traits);
  // A rule of a storage that cannot be looked at may be the one that forbids it.
  VR_RETURN_IF_ERROR(looked);
  return Resolved{std::move(values), std::move(facts)};
}

std::vector<absl::StatusOr<Resolved>> ResolveAll(const Services& services,
                                                 const policy::Policy& policy,
                                                 const std::vector<DomainSummary>& domains,
                                                 const std::stop_token& stop) {
  std::vector<absl::StatusOr<Resolved>> all(domains.size());
  ForEachInParallel(domains.size(), kGuestsAtOnce, [&](size_t i) {
    all[i] = stop.stop_requested() ? absl::CancelledError("interrupted")
                                   : ResolveDomain(services, policy, domains[i]);
  });
  return all;
}

TrimOptions TrimOptionsOf(const DomainSettings& settings, const policy::RunLimits& limits,
                          bool estimate) {
  TrimOptions options;
  options.guest.max_rate = settings.max_rate;
  options.gentle = settings.gentle;
  if (settings.gentle) options.timeout = kGentleTimeout;
  if (settings.timeout) options.timeout = *settings.timeout;
  if (!settings.qemu_agent) options.way = TrimWay::kAgent;
  if (!settings.agent) options.way = TrimWay::kQemuAgent;
  options.threshold = settings.threshold;
  options.min_freed = settings.min_freed;
  options.window = settings.window;
  options.per_storage = settings.per_storage.value_or(limits.per_storage);
  options.estimate = estimate;
  return options;
}

SparsifyImagesOptions SparsifyOptionsOf(const DomainSettings& settings) {
  SparsifyImagesOptions options;
  options.allow_thick = settings.allow_thick;
  options.with_bitmaps = settings.with_bitmaps;
  options.choice = SparsifyEngineOf(settings.engine);
  options.engine.worker.read.strict = settings.strict;
  options.engine.worker.read.take_swap = !settings.keep_swap;
  return options;
}

PunchFilesOptions PunchOptionsOf(const policy::BackupDirectory& backup,
                                 const policy::BackupSettings& settings) {
  PunchFilesOptions options;
  options.paths = {backup.directory.text};
  options.find = {/*recursive=*/true, settings.one_file_system};  // see IsBelow
  options.engine.live = settings.live;
  options.engine.unwritten = settings.unwritten;
  options.engine.min_hole_bytes = settings.min_hole;
  options.engine.max_bytes_per_second = settings.max_rate;
  options.idle = settings.idle;
  return options;
}

// Whether what was found lies in a directory below that of the backups. A tree is always walked as
// a whole: to the verb punch a directory without --recursive is an error.
bool IsBelow(const PunchAction& action, absl::string_view directory) {
  while (absl::ConsumeSuffix(&directory, "/")) {
  }
  absl::string_view rest = action.path;
  if (!absl::ConsumePrefix(&rest, directory)) return false;
  while (absl::ConsumePrefix(&rest, "/")) {
  }
  // An error is that of a directory.
  return absl::StrContains(rest, '/') || (!action.error.ok() && !rest.empty());
}

// What is polite, not what is careful.
void Hurry(DomainSettings& settings) {
  settings.threshold.reset();
  settings.min_freed.reset();
  settings.window.reset();
  settings.gentle = false;
  settings.max_rate = 0;
}

void Hurry(policy::BackupSettings& settings) {
  settings.window.reset();
  settings.idle = false;
  settings.max_rate = 0;
}

class RunPlanner {
 public:
  RunPlanner(const Services& services, const policy::Policy& policy, const RunOptions& options,
             const std::stop_token& stop)
      : services_(services), policy_(policy), options_(options), stop_(stop) {}

  absl::StatusOr<RunPlan> Plan() {
    VR_ASSIGN_OR_RETURN(plan_.limits, policy::SettingsOf(policy::LimitSpecs(), policy_.limits));
    plan_.emergency = options_.emergency;
    if (options_.emergency) plan_.limits.max_duration.reset();
    if (auto& limit = plan_.limits.max_duration)
      *limit = std::max(*limit - options_.worked, absl::ZeroDuration());
    const std::set<Job> of_domains{Job::kTrim, Job::kSparsify, Job::kResume};
    if (PunchesDomains() || std::any_of(of_domains.begin(), of_domains.end(),
                                        [&](Job job) { return options_.jobs.contains(job); }))
      VR_RETURN_IF_ERROR(PlanDomains());
    if (options_.jobs.contains(Job::kPunch)) VR_RETURN_IF_ERROR(PlanPunch());
    OrderTrims();
    if (options_.emergency) MostUrgentFirst();
    if (stop_.stop_requested()) return absl::CancelledError("interrupted");
    return std::move(plan_);
  }

 private:
  struct Group {
    DomainSettings settings;
    std::vector<TrimCandidate> domains;
  };
  // By the values of all keys, so that what is one call of a pipeline has one set of options.
  using Groups = std::map<std::string, Group>;

  static std::string KeyOf(const policy::Values& values) {
    std::string key;
    for (const auto& [name, value] : values) absl::StrAppend(&key, name, "=", value.text, "\n");
    return key;
  }

  bool IsChosen(bool is_domain, const std::string& name) const {
    return !options_.only || options_.only->contains({is_domain, name});
  }

  bool PunchesDomains() const {
    return options_.jobs.contains(Job::kPunch) && policy::MayPunchDomains(policy_);
  }

  void PassOver(Job job, const DomainSummary& domain, Outcome outcome) {
    plan_.passed_over.push_back(DomainItem(job, domain.name));
    plan_.passed_over.back().outcome = std::move(outcome);
  }

  void Fail(Job job, const DomainSummary& domain, const absl::Status& error) {
    Outcome outcome;
    outcome.kind = OutcomeKind::kFailed;
    outcome.error = error;
    PassOver(job, domain, std::move(outcome));
  }

  void Exclude(Job job, const DomainSummary& domain, const policy::Origin& origin) {
    Outcome outcome;
    outcome.kind = OutcomeKind::kSkipped;
    outcome.reasons = {{Reason::kPolicyExcludes, TextOf(origin)}};
    PassOver(job, domain, std::move(outcome));
  }

  // One that is paused or going down is the trim's to pass over, with its reason.
  Job JobOf(const DomainSummary& domain) {
    if (domain.state == DomainState::kShutOff) return Job::kSparsify;
    if (domain.state != DomainState::kPaused || !options_.jobs.contains(Job::kResume))
      return Job::kTrim;
    const auto by_error = services_.hypervisor.IsPausedByIoError(domain.uuid);
    return by_error.ok() && *by_error ? Job::kResume : Job::kTrim;
  }

  absl::Status PlanDomains() {
    VR_ASSIGN_OR_RETURN(const std::vector<DomainSummary> domains,
                        SelectDomains(services_.hypervisor, {}));
    auto all = ResolveAll(services_, policy_, domains, stop_);
    if (stop_.stop_requested()) return absl::CancelledError("interrupted");
    Groups trims;
    Groups sparsify;
    for (size_t i = 0; i < domains.size(); ++i) {
      const Job job = JobOf(domains[i]);
      const bool chosen = options_.jobs.contains(job) && IsChosen(true, domains[i].name);
      const bool punched = PunchesDomains() && domains[i].state == DomainState::kShutOff;
      if (!chosen && !punched) continue;
      if (!all[i].ok()) {
        // Of a later round no file is known that may be its own.
        if (chosen || !options_.only) Fail(chosen ? job : Job::kPunch, domains[i], all[i].status());
        continue;
      }
      VR_ASSIGN_OR_RETURN(DomainSettings settings,
                          policy::SettingsOf(policy::DomainSpecs(), all[i]->values));
      if (options_.emergency) Hurry(settings);
      if (punched && settings.enabled && settings.punch)
        PlanPunchOf(domains[i], settings, all[i]->facts);
      if (!chosen) continue;
      const bool way =
          job == Job::kResume ||
          (job == Job::kSparsify ? settings.sparsify : settings.agent || settings.qemu_agent);
      if (!settings.enabled || !way) {
        Exclude(job, domains[i], all[i]->values.at(settings.enabled ? "ways" : "enabled").origin);
        continue;
      }
      if (job == Job::kResume) {
        plan_.resume.push_back(domains[i]);
        continue;
      }
      Group& group = (job == Job::kSparsify ? sparsify : trims)[KeyOf(all[i]->values)];
      group.settings = settings;
      group.domains.push_back({domains[i], std::move(all[i]->facts)});
    }
    for (const auto& [key, group] : trims) PlanTrims(group);
    for (const auto& [key, group] : sparsify) PlanSparsifyOf(group);
    return absl::OkStatus();
  }

  void PlanTrims(const Group& group) {
    // In an emergency what has the most to give comes first, so the guests are asked.
    const TrimOptions options =
        TrimOptionsOf(group.settings, plan_.limits, options_.estimate || options_.emergency);
    auto actions = PlanTrimOf(services_, options, group.domains, stop_);
    if (!actions.ok()) {
      for (const TrimCandidate& one : group.domains) Fail(Job::kTrim, one.domain, actions.status());
      return;
    }
    for (TrimAction& action : *actions) plan_.trims.push_back({options, std::move(action)});
  }

  void PlanSparsifyOf(const Group& group) {
    SparsifyImagesOptions options = SparsifyOptionsOf(group.settings);
    for (const TrimCandidate& one : group.domains) options.targets.push_back(one.domain.uuid);
    auto actions = PlanSparsify(services_, options, stop_);
    if (!actions.ok()) {
      for (const TrimCandidate& one : group.domains)
        Fail(Job::kSparsify, one.domain, actions.status());
      return;
    }
    for (SparsifyAction& action : *actions) {
      action.outcome.asked_for = false;
      uint64_t capacity = 0;
      for (const SparsifyDisk& disk : action.disks) capacity += disk.header.capacity;
      options.engine.least_bytes =
          group.settings.threshold ? group.settings.threshold->Of(capacity) : 0;
      plan_.sparsify.push_back({options, group.settings.window, std::move(action)});
    }
  }

  // The images that the domain writes to.
  void PlanPunchOf(const DomainSummary& domain, const DomainSettings& settings,
                   const std::optional<DomainFacts>& known) {
    const auto facts =
        known ? absl::StatusOr<DomainFacts>(*known) : CollectDomain(services_, domain);
    if (!facts.ok()) {
      if (!options_.only) Fail(Job::kPunch, domain, facts.status());
      return;
    }
    for (const DiskFacts& disk : facts->disks) {
      if (IsOther(disk.xml) || disk.xml.source.type != "file" || disk.xml.shareable ||
          disk.xml.read_only || disk.xml.source.path.empty())
        continue;
      const std::string path =
          disk.chain.empty() ? disk.xml.source.path : DataPath(disk.chain.front());
      if (!IsChosen(false, path) || !images_.insert(path).second) continue;
      if (auto thick = ThickBlocker(disk); thick && !settings.allow_thick) {
        RunItem& item = plan_.passed_over.emplace_back();
        item.job = Job::kPunch;
        item.name = path;
        item.outcome.kind = OutcomeKind::kSkipped;
        item.outcome.reasons.push_back(*std::move(thick));
        continue;
      }
      PunchStep& step = plan_.punch.emplace_back();
      step.of_domain = true;
      step.window = settings.window;
      step.options.paths = {path};
      step.options.idle = !options_.emergency;
      step.action.path = path;
      step.action.error = disk.image_error;
      if (!disk.chain.empty())
        step.action.allocation = disk.chain.front().usage.allocation.value_or(0);
    }
  }

  absl::Status PlanPunch() {
    for (const policy::BackupDirectory& backup : policy_.backups) {
      VR_ASSIGN_OR_RETURN(policy::BackupSettings settings,
                          policy::SettingsOf(policy::BackupSpecs(), backup.values));
      if (options_.emergency) Hurry(settings);
      const PunchFilesOptions options = PunchOptionsOf(backup, settings);
      VR_ASSIGN_OR_RETURN(std::vector<PunchAction> actions, FindPunchActions(options, stop_));
      for (PunchAction& action : actions) {
        if (policy::IsExcluded(backup, action.path) || !IsChosen(false, action.path)) continue;
        if (!settings.recursive && IsBelow(action, backup.directory.text)) continue;
        if (images_.contains(action.path)) continue;
        action.asked_for = false;
        plan_.punch.push_back({options, settings.window, std::move(action)});
      }
    }
    return absl::OkStatus();
  }

  // Where there may be no time for all of them.
  void OrderTrims() {
    const bool hurried =
        plan_.limits.max_duration ||
        std::any_of(plan_.trims.begin(), plan_.trims.end(),
                    [](const TrimStep& step) { return step.options.window.has_value(); });
    if (!hurried) return;
    std::stable_sort(
        plan_.trims.begin(), plan_.trims.end(),
        [](const TrimStep& a, const TrimStep& b) { return WaitsLonger(a.action, b.action); });
  }

  // Room on the fullest storage below these files, and what they have to give. Bytes.
  struct Urgency {
    uint64_t room = UINT64_MAX;  // also when it is not known
    uint64_t gives = 0;          // as far as is known
    void Add(const Services& services, const std::string& path, uint64_t occupies) {
      const auto left = services.images.Room(ImageFile{path, "", {}});
      if (left.ok()) room = std::min(room, *left);
      gives += occupies;
    }
    bool operator<(const Urgency& other) const {
      return std::tie(room, other.gives) < std::tie(other.room, gives);
    }
  };

  template <typename Step, typename UrgencyOf>
  static void SortBy(const UrgencyOf& urgency_of, std::vector<Step>& steps) {
    std::vector<std::pair<Urgency, size_t>> order;  // of equal ones as they were
    for (size_t i = 0; i < steps.size(); ++i) order.emplace_back(urgency_of(steps[i]), i);
    std::stable_sort(order.begin(), order.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    std::vector<Step> sorted;
    for (const auto& [urgency, i] : order) sorted.push_back(std::move(steps[i]));
    steps = std::move(sorted);
  }

  // Of trims there is an estimate. How much of an image or a backup is free inside nobody knows
  // before it is read: what occupies most has the most to give.
  void MostUrgentFirst() {
    const auto of_trim = [](const TrimStep& step) {
      return Urgency{step.action.room.value_or(UINT64_MAX), step.action.expected.value_or(0)};
    };
    const auto of_sparsify = [&](const SparsifyStep& step) {
      Urgency urgency;
      for (const SparsifyDisk& disk : step.action.disks) {
        struct stat status = {};
        if (stat(disk.spec.path.c_str(), &status) != 0) status.st_blocks = 0;
        urgency.Add(services_, disk.spec.path, static_cast<uint64_t>(status.st_blocks) * 512);
      }
      return urgency;
    };
    const auto of_punch = [&](const PunchStep& step) {
      Urgency urgency;
      urgency.Add(services_, step.action.path, step.action.allocation);
      return urgency;
    };
    SortBy(of_trim, plan_.trims);
    SortBy(of_sparsify, plan_.sparsify);
    SortBy(of_punch, plan_.punch);
  }

  const Services& services_;
  const policy::Policy& policy_;
  const RunOptions& options_;
  const std::stop_token& stop_;
  RunPlan plan_;
  std::set<std::string> images_;  // of domains, that the way 'punch' is about
};

}  // namespace

absl::StatusOr<std::vector<DomainPolicy>> ResolvePolicies(const Services& services,
                                                          const policy::Policy& policy,
                                                          const std::vector<std::string>& domains,
                                                          const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const std::vector<DomainSummary> selected,
                      SelectDomains(services.hypervisor, domains));
  auto all = ResolveAll(services, policy, selected, stop);
  std::vector<DomainPolicy> policies;
  for (size_t i = 0; i < selected.size(); ++i) {
    if (!all[i].ok()) return Annotate(all[i].status(), Printable(selected[i].name));
    policies.push_back({selected[i], std::move(all[i]->values)});
  }
  return policies;
}

absl::StatusOr<std::vector<DomainLock>> LockJobs(const Services& services,
                                                 const std::set<Job>& jobs, std::set<Job>* busy) {
  std::vector<DomainLock> locks;
  absl::Status first;
  for (const Job job : jobs) {
    const std::string name(Name(job));
    auto lock = DomainLock::TakeJob(services.lock_directory, name);
    if (lock.ok()) {
      locks.push_back(*std::move(lock));
      continue;
    }
    first.Update(Annotate(lock.status(), name));
    if (busy == nullptr || !absl::IsAborted(lock.status())) return first;
    busy->insert(job);
  }
  if (locks.empty() && !first.ok()) return first;
  return locks;
}

absl::StatusOr<RunPlan> PlanRun(const Services& services, const policy::Policy& policy,
                                const RunOptions& options, const std::stop_token& stop) {
  return RunPlanner(services, policy, options, stop).Plan();
}

}  // namespace virt_reclaim
