// Choosing the domains, and letting their trims run side by side where that does no harm.
#include "host/commands/trim.h"

#include <algorithm>
#include <functional>
#include <list>
#include <map>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/commands/storage_turn.h"
#include "host/commands/trim_domain.h"
#include "host/commands/trim_estimate.h"
#include "host/model/assessment.h"
#include "host/services/trim_history.h"

namespace virt_reclaim {
namespace {

bool IsNamed(const TrimOptions& options, const DomainSummary& domain) {
  return std::any_of(options.domains.begin(), options.domains.end(), [&](const std::string& name) {
    return name == domain.name || name == domain.uuid;
  });
}

// Whether an image of the domain lies on the storage that --storage names.
absl::StatusOr<bool> LiesOnStorage(const Services& services, const TrimOptions& options,
                                   const DomainFacts& facts) {
  if (options.storage.empty()) return true;
  for (const DiskFacts& disk : facts.disks) {
    if (disk.chain.empty()) continue;
    VR_ASSIGN_OR_RETURN(const bool lies,
                        services.images.LiesOn(disk.chain.front(), options.storage));
    if (lies) return true;
  }
  return false;
}

// On the storages that the domain's images are written to; absent: of none is it known.
std::optional<uint64_t> LeastRoom(const Services& services, const DomainFacts& facts) {
  std::optional<uint64_t> least;
  for (const DiskFacts& disk : facts.disks) {
    if (IsOther(disk.xml) || disk.chain.empty() || disk.xml.source.type != "file") continue;
    const auto room = services.images.Room(disk.chain.front());
    if (room.ok()) least = std::min(least.value_or(*room), *room);
  }
  return least;
}

// Empty when --storage leaves the domain out.
absl::StatusOr<std::optional<TrimAction>> PlanDomain(const Services& services,
                                                     const TrimOptions& options,
                                                     const TrimCandidate& candidate,
                                                     const std::stop_token& stop) {
  const DomainSummary& domain = candidate.domain;
  TrimAction action;
  action.domain = domain;
  if (domain.state != DomainState::kRunning) {
    if (!options.storage.empty()) return std::nullopt;
    action.blockers.push_back(*AgentObstacle({domain, {}, {}}));
    return action;
  }
  absl::StatusOr<DomainFacts> facts =
      candidate.facts ? *candidate.facts : CollectDomain(services, domain);
  if (!facts.ok()) {
    action.error = facts.status();
    return action;
  }
  VR_ASSIGN_OR_RETURN(const bool chosen, LiesOnStorage(services, options, *facts));
  if (!chosen) return std::nullopt;
  action.storages = StoragesOf(*facts);
  if (options.estimate) action.room = LeastRoom(services, *facts);
  if (facts->disks.empty()) action.blockers.push_back({Reason::kNoDisks, ""});
  auto activity = services.hypervisor.Activity(domain.uuid, facts->live);
  if (!activity.ok()) {
    action.error = activity.status();
    return action;
  }
  action.blockers.insert(action.blockers.end(), activity->begin(), activity->end());
  WayChoice choice = ChooseWay(*facts, options.way, options.guest);
  action.way = choice.way;
  if (choice.blocker) action.blockers.push_back(*std::move(choice.blocker));
  const std::vector<TrimRecord> trims =
      TrimHistory(services.state_directory, services.hypervisor.Uri()).Read(domain.uuid);
  if (!trims.empty()) action.last = trims.back();
  for (const TrimRecord& trim : trims) {
    if (trim.complete || trim.status == Name(OutcomeKind::kFailed)) action.turn = trim.began;
  }
  if (!options.estimate || !action.blockers.empty() || action.way != TrimWay::kAgent) return action;
  // An agent that does not answer is the trim's to report.
  AskGuestUse(services, *facts, GuestUse::kCheap, options.agent_timeout, stop);
  action.expected = ExpectedOf(*facts);
  if (auto blocker = BelowThreshold(*facts, options))
    action.blockers.push_back(*std::move(blocker));
  return action;
}

// A first trim, which may have the backlog of years, is alone.
size_t LimitOfTrim(const TrimJob& job) { return job.action->last ? job.options->per_storage : 1; }

// The trims of one call: what they share, for any thread.
class TrimRun {
 public:
  TrimRun(const Services& services, absl::Time end, const TrimProgress& progress,
          const std::stop_token& stop)
      : services_(services), end_(end), progress_(progress), stop_(stop), costs_(services.images) {}

  TrimmedDomain Run(const TrimJob& job) {
    const TrimAction& action = *job.action;
    TrimmedDomain result;
    result.domain = action.domain;
    result.outcome.asked_for = action.asked_for;
    if (!action.error.ok()) {
      result.outcome.kind = OutcomeKind::kFailed;
      result.outcome.error = action.error;
    } else if (!action.blockers.empty()) {
      result.outcome.kind = OutcomeKind::kSkipped;
      result.outcome.reasons = action.blockers;
      for (const Blocker& blocker : action.blockers) {
        if (!IsAgentFailure(blocker)) continue;
        result.outcome.kind = OutcomeKind::kFailed;
        result.outcome.error = AgentFailure(blocker);
      }
    } else if (stop_.stop_requested()) {
      result.outcome.kind = OutcomeKind::kCancelled;
    } else if (auto reason = WhyNotBegun(job)) {
      result = NotBegun(action, *std::move(reason));
    } else {
      result = Trim(job);
    }
    return result;
  }

  // Not while its window is closed, which may open.
  bool MayBegin(const TrimJob& job) const {
    return stop_.stop_requested() || IsOpenNow(job.options->window);
  }

 private:
  static TrimmedDomain NotBegun(const TrimAction& action, Blocker reason) {
    TrimmedDomain result;
    result.domain = action.domain;
    result.outcome.kind = OutcomeKind::kSkipped;
    // What nobody chose to leave out, the status of the whole is to show.
    result.outcome.asked_for = action.asked_for || reason.reason == Reason::kStorageStopped ||
                               reason.reason == Reason::kStorageBusy ||
                               reason.reason == Reason::kBusy;
    result.outcome.reasons.push_back(std::move(reason));
    return result;
  }

  bool IsOpenNow(const std::optional<DailyWindow>& window) const {
    return !window || IsOpen(*window, services_.now(), absl::LocalTimeZone());
  }

  std::optional<Blocker> WhyNotBegun(const TrimJob& job) {
    if (auto trouble = TroubleOf(*job.action)) return trouble;
    if (services_.now() >= end_) return Blocker{Reason::kTimeOver, ""};
    if (!IsOpenNow(job.options->window)) return Blocker{Reason::kOutsideWindow, ""};
    return std::nullopt;
  }

  // When a trim that begins now has to stop.
  absl::Time EndFor(const TrimOptions& options) const {
    const absl::Time now = services_.now();
    if (!options.window || !IsOpen(*options.window, now, absl::LocalTimeZone())) return end_;
    return std::min(end_, EndOf(*options.window, now, absl::LocalTimeZone()));
  }

  // Until it is done, or somebody presses Ctrl-C, or another meets trouble on one of its storages.
  TrimmedDomain Trim(const TrimJob& job) {
    const TrimAction& action = *job.action;
    const TrimOptions& options = *job.options;
    std::stop_source stop;
    const std::function<void()> end = [&] { stop.request_stop(); };
    const std::stop_callback forward(stop_, end);
    std::list<std::stop_callback<std::function<void()>>> storages;
    for (const uint64_t storage : action.storages) storages.emplace_back(TokenOf(storage), end);
    const auto on_trouble = [&] {
      storages.clear();  // its own trouble is no stop
      Stop(action);
    };
    StorageLock places = PlacesOn(services_, action.storages, LimitOfTrim(job));
    if (auto not_begun = WaitFor(places, job)) return *std::move(not_begun);
    TrimmedDomain result =
        TrimDomain(services_, options, action, {EndFor(options), costs_, on_trouble}, progress_,
                   stop.get_token());
    if (result.outcome.kind != OutcomeKind::kCancelled || stop_.stop_requested()) return result;
    const bool begun = result.took > absl::ZeroDuration() || !result.filesystems.empty();
    result.outcome.kind = begun ? OutcomeKind::kDone : OutcomeKind::kSkipped;
    result.outcome.asked_for = true;  // nobody chose to leave it out
    if (auto trouble = TroubleOf(action)) result.outcome.reasons.push_back(*std::move(trouble));
    return result;
  }

  // Waits while other programs trim on the storages. Empty: the trim may begin.
  std::optional<TrimmedDomain> WaitFor(StorageLock& places, const TrimJob& job) {
    const TrimAction& action = *job.action;
    TurnOptions turn{.patience = job.options->timeout};
    turn.obstacle = [&, looked = false]() mutable -> std::optional<Blocker> {
      if (auto reason = WhyNotBegun(job)) return reason;
      if (std::exchange(looked, true)) return std::nullopt;
      // Who has the storage for this very domain is not waited for. Its lock goes again at once.
      const auto lock = DomainLock::Take(services_.lock_directory, action.domain.uuid);
      if (absl::IsAborted(lock.status())) return AgentBlocker(lock.status());
      return std::nullopt;
    };
    turn.waits = [&] {
      if (job.options->waits) job.options->waits(action.domain);
    };
    const auto reason = TakeTurn(services_, places, turn, stop_);
    if (reason.ok()) {
      if (!*reason) return std::nullopt;
      return NotBegun(action, **reason);
    }
    TrimmedDomain result;
    result.domain = action.domain;
    result.outcome.asked_for = action.asked_for;
    result.outcome.kind =
        absl::IsCancelled(reason.status()) ? OutcomeKind::kCancelled : OutcomeKind::kFailed;
    if (result.outcome.kind == OutcomeKind::kFailed) result.outcome.error = reason.status();
    return result;
  }

  std::stop_token TokenOf(uint64_t storage) {
    const std::lock_guard lock(mutex_);
    return stops_[storage].get_token();
  }

  // The trouble that another has met on a storage of this one.
  std::optional<Blocker> TroubleOf(const TrimAction& action) {
    const std::lock_guard lock(mutex_);
    for (const uint64_t storage : action.storages) {
      const auto found = in_trouble_.find(storage);
      if (found != in_trouble_.end())
        return Blocker{Reason::kStorageStopped, absl::StrCat("domain ", found->second)};
    }
    return std::nullopt;
  }

  void Stop(const TrimAction& action) {
    std::vector<std::stop_source> stops;
    {
      const std::lock_guard lock(mutex_);
      for (const uint64_t storage : action.storages) {
        in_trouble_.try_emplace(storage, Printable(action.domain.name));
        stops.push_back(stops_[storage]);
      }
    }
    for (std::stop_source& stop : stops) stop.request_stop();
  }

  const Services& services_;
  const absl::Time end_;
  const TrimProgress& progress_;
  const std::stop_token& stop_;
  PunchCosts costs_;
  std::mutex mutex_;
  std::map<uint64_t, std::string> in_trouble_;  // storage, and the domain that met it
  std::map<uint64_t, std::stop_source> stops_;  // what runs on a storage
};

}  // namespace

absl::StatusOr<std::vector<TrimAction>> PlanTrim(const Services& services,
                                                 const TrimOptions& options,
                                                 const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const std::vector<DomainSummary> selected,
                      SelectDomains(services.hypervisor, options.domains));
  std::vector<TrimCandidate> candidates;
  for (const DomainSummary& domain : selected) candidates.push_back({domain, std::nullopt});
  VR_ASSIGN_OR_RETURN(std::vector<TrimAction> plan,
                      PlanTrimOf(services, options, candidates, stop));
  for (TrimAction& action : plan) action.asked_for = IsNamed(options, action.domain);
  return plan;
}

absl::StatusOr<std::vector<TrimAction>> PlanTrimOf(const Services& services,
                                                   const TrimOptions& options,
                                                   const std::vector<TrimCandidate>& candidates,
                                                   const std::stop_token& stop) {
  std::vector<absl::StatusOr<std::optional<TrimAction>>> actions(candidates.size());
  ForEachInParallel(candidates.size(), kGuestsAtOnce, [&](size_t i) {
    if (!stop.stop_requested()) actions[i] = PlanDomain(services, options, candidates[i], stop);
  });
  if (stop.stop_requested()) return absl::CancelledError("interrupted");
  std::vector<TrimAction> plan;
  for (auto& action : actions) {
    VR_RETURN_IF_ERROR(action.status());
    if (*action) plan.push_back(**std::move(action));
  }
  if (options.window || options.max_duration)
    std::stable_sort(plan.begin(), plan.end(), WaitsLonger);
  return plan;
}

std::vector<TrimmedDomain> ExecuteTrim(const Services& services, const TrimOptions& options,
                                       const std::vector<TrimAction>& plan,
                                       const TrimProgress& progress, const std::stop_token& stop) {
  std::vector<TrimJob> jobs;
  for (const TrimAction& action : plan) jobs.push_back({&options, &action});
  const absl::Time end =
      options.max_duration ? services.now() + *options.max_duration : absl::InfiniteFuture();
  return ExecuteTrims(services, jobs, end, progress, stop);
}

std::vector<TrimmedDomain> ExecuteTrims(const Services& services, const std::vector<TrimJob>& jobs,
                                        absl::Time end, const TrimProgress& progress,
                                        const std::stop_token& stop) {
  std::vector<StorageItem> items;
  for (const TrimJob& job : jobs) items.push_back({job.action->storages, LimitOfTrim(job)});
  std::vector<TrimmedDomain> results(jobs.size());
  std::vector<char> ran(jobs.size());  // not bool: threads write to neighbours
  TrimRun run(services, end, progress, stop);
  RunPerStorage(
      items,
      [&](size_t i) {
        results[i] = run.Run(jobs[i]);
        ran[i] = true;
      },
      [&](size_t i) { return run.MayBegin(jobs[i]); });
  for (size_t i = 0; i < jobs.size(); ++i) {
    if (!ran[i]) results[i] = run.Run(jobs[i]);  // which says why not
  }
  return results;
}

bool WaitsLonger(const TrimAction& a, const TrimAction& b) { return a.turn < b.turn; }

}  // namespace virt_reclaim
