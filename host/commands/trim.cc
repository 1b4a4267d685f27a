#include "host/commands/trim.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/status.h"
#include "host/model/assessment.h"
#include "host/model/guest_disks.h"

namespace virt_reclaim {
namespace {

// How long nothing may change before the storage counts as settled: a part of what the trim took,
// because a slow store is slow to finish too.
constexpr int kSettlePart = 20;
constexpr absl::Duration kMinSettle = absl::Milliseconds(100);
constexpr absl::Duration kMaxSettle = absl::Seconds(1);
constexpr int kSettledAfter = 4;  // equal measurements in a row
constexpr absl::Duration kSettleLimit = absl::Seconds(30);
// After an interrupt: a guest's kernel finishes the discards that are under way, for a second and
// more, and whoever pressed Ctrl-C does not wait for that.
constexpr absl::Duration kInterruptedSettleLimit = absl::Milliseconds(400);
// Less than this is filesystem bookkeeping, not space that a trim could bring back: one qcow2
// cluster of the largest size, 8 times.
constexpr uint64_t kWorthTrimming = 16 * kMiB;

absl::StatusOr<uint64_t> Measure(const Services& services, const DomainSummary& domain,
                                 const DiskFacts& disk) {
  if (!disk.chain.empty()) return services.images.Allocation(disk.chain);
  VR_ASSIGN_OR_RETURN(const Usage usage,
                      services.hypervisor.BlockUsage(domain.uuid, disk.xml.target));
  if (!usage.allocation) return absl::UnavailableError("the allocation is not known");
  return *usage.allocation;
}

bool CanBeMeasured(const DiskFacts& disk) {
  return !IsOther(disk.xml) && !disk.xml.source.path.empty() && disk.image_error.ok() &&
         disk.xml.source.type != "block";
}

// Trimming one domain, step by step; each step leaves what it found in the members.
class DomainTrim {
 public:
  DomainTrim(const Services& services, const TrimOptions& options, const DomainSummary& domain)
      : services_(services), options_(options), deadline_(services.now() + options.timeout) {
    result_.domain = domain;
    result_.outcome.asked_for = !options.domains.empty();
  }

  TrimmedDomain Run(const TrimProgress& progress, const std::stop_token& stop) {
    auto facts = CollectDomain(services_, result_.domain);
    if (!facts.ok()) return Fail(facts.status());
    facts_ = *std::move(facts);
    AgentAccess access = OpenAgent(services_, facts_, options_.agent_timeout, stop);
    if (stop.stop_requested()) return Cancel();
    if (!access.session) return Refuse(*access.blocker);
    GuestAgent& agent = *access.session->agent;

    auto filesystems = agent.ListFilesystems(std::min(Left(), absl::Seconds(10)), stop);
    if (!filesystems.ok()) return stop.stop_requested() ? Cancel() : Fail(filesystems.status());
    guest_.filesystems = *std::move(filesystems);
    guest_to_target_ = MatchGuestDisks(facts_.live, guest_);

    MeasureBefore();
    const absl::Time begin = services_.now();
    const absl::Status status = agent.Trim(
        options_.guest, Left(), stop,
        [&](const GuestTrimProgress& p) {
          if (progress) progress(result_.domain, p);
        },
        result_.filesystems);
    MeasureAfter(services_.now() - begin,
                 stop.stop_requested() ? kInterruptedSettleLimit : kSettleLimit);
    Judge(status, stop);
    return std::move(result_);
  }

 private:
  absl::Duration Left() const {
    return std::max(deadline_ - services_.now(), absl::Milliseconds(1));
  }

  TrimmedDomain Fail(const absl::Status& status) {
    result_.outcome.kind = OutcomeKind::kFailed;
    result_.outcome.error = status;
    return std::move(result_);
  }

  TrimmedDomain Cancel() {
    result_.outcome.kind = OutcomeKind::kCancelled;
    return std::move(result_);
  }

  // A guest whose agent should answer and does not has failed; what was never ready for a trim is
  // skipped.
  TrimmedDomain Refuse(const Blocker& blocker) {
    const bool failed =
        blocker.reason == Reason::kAgentSilent || blocker.reason == Reason::kAgentFailed;
    result_.outcome.kind = failed ? OutcomeKind::kFailed : OutcomeKind::kSkipped;
    result_.outcome.asked_for |= blocker.reason == Reason::kBusy;
    if (failed)
      result_.outcome.error =
          absl::UnavailableError(absl::StrCat(Sentence(blocker.reason), ": ", blocker.detail));
    result_.outcome.reasons.push_back(blocker);
    return std::move(result_);
  }

  void MeasureBefore() {
    const auto use = GuestUseByTarget(guest_to_target_, guest_);
    for (DiskFacts& disk : facts_.disks) {
      if (IsOther(disk.xml)) continue;
      if (const auto found = use.find(disk.xml.target); found != use.end())
        disk.guest = found->second;
      TrimmedDisk trimmed;
      trimmed.target = disk.xml.target;
      trimmed.image = disk.xml.source.path;
      if (CanBeMeasured(disk)) {
        if (auto before = Measure(services_, result_.domain, disk); before.ok())
          trimmed.allocation_before = *before;
      }
      result_.disks.push_back(std::move(trimmed));
    }
  }

  // Takes the allocation of every disk; true when none differs from the last time.
  bool MeasureOnce() {
    bool same = true;
    for (TrimmedDisk& disk : result_.disks) {
      if (!disk.allocation_before) continue;
      auto now = Measure(services_, result_.domain, FactsOf(disk.target));
      const auto value = now.ok() ? std::optional<uint64_t>(*now) : std::nullopt;
      same = same && value == disk.allocation_after;
      disk.allocation_after = value;
    }
    return same;
  }

  void MeasureAfter(absl::Duration trim_took, absl::Duration patience) {
    const absl::Time limit = services_.now() + patience;
    const absl::Duration quiet = std::clamp(trim_took / kSettlePart, kMinSettle, kMaxSettle);
    MeasureOnce();
    for (int equal = 0; equal < kSettledAfter && services_.now() < limit;) {
      services_.sleep(quiet / kSettledAfter);
      equal = MeasureOnce() ? equal + 1 : 0;
    }
    for (TrimmedDisk& disk : result_.disks) {
      if (!disk.allocation_before || !disk.allocation_after) continue;
      disk.freed = static_cast<int64_t>(*disk.allocation_before) -
                   static_cast<int64_t>(*disk.allocation_after);
      result_.freed = result_.freed.value_or(0) + *disk.freed;
    }
  }

  const DiskFacts& FactsOf(const std::string& target) const {
    return *std::find_if(facts_.disks.begin(), facts_.disks.end(),
                         [&](const DiskFacts& disk) { return disk.xml.target == target; });
  }

  // What the guest trimmed, per disk. A filesystem on several disks cannot be split: it counts in
  // the domain's sum only.
  void AddGuestNumbers() {
    std::map<std::string, uint64_t> by_target;
    std::set<std::string> refused;
    for (const GuestTrim& trim : result_.filesystems) {
      result_.trimmed += trim.trimmed;
      if (trim.result == GuestTrimResult::kSkipped && trim.disks.empty()) continue;
      for (const std::string& name : trim.disks) {
        const auto target = guest_to_target_.find(name);
        if (target == guest_to_target_.end()) continue;
        by_target[target->second] += trim.disks.size() == 1 ? trim.trimmed : 0;
        if (trim.obstacle == GuestObstacle::kDiskNotSupported) refused.insert(target->second);
      }
    }
    for (TrimmedDisk& disk : result_.disks) {
      const auto found = by_target.find(disk.target);
      if (found != by_target.end()) disk.trimmed = found->second;
      disk.guest_not_supported = refused.contains(disk.target);
    }
  }

  // Names why a disk that a filesystem of the guest lies on gave nothing back. True when it should
  // have.
  bool ExplainDisk(TrimmedDisk& disk) const {
    if (!disk.trimmed || disk.freed.value_or(0) > 0) return false;
    const DiskFacts& facts = FactsOf(disk.target);
    const Assessment assessment = Assess(facts_.live, facts);
    disk.reasons = assessment.blockers;
    if (!disk.reasons.empty()) return true;
    const bool worth = assessment.reclaimable.value_or(0) >= kWorthTrimming;
    disk.reasons.push_back({worth ? Reason::kUnexplained : Reason::kNothingReclaimable, ""});
    return worth;
  }

  void Judge(const absl::Status& status, const std::stop_token& stop) {
    AddGuestNumbers();
    bool should_have = false;
    for (TrimmedDisk& disk : result_.disks) should_have |= ExplainDisk(disk);
    const auto failed = std::find_if(result_.filesystems.begin(), result_.filesystems.end(),
                                     [](const GuestTrim& trim) {
                                       return trim.result == GuestTrimResult::kFailed &&
                                              !BlockerOf(trim.obstacle, trim.obstacle_device);
                                     });
    if (stop.stop_requested()) {
      result_.outcome.kind = OutcomeKind::kCancelled;
    } else if (!status.ok()) {
      result_.outcome.kind = OutcomeKind::kFailed;
      result_.outcome.error = status;
    } else if (failed != result_.filesystems.end()) {
      result_.outcome.kind = OutcomeKind::kFailed;
      result_.outcome.error = absl::InternalError(absl::StrCat(
          "trim of '", failed->mount_point,
          "' in the guest: ", failed->error_name.empty() ? "failed" : failed->error_name));
    } else {
      result_.outcome.nothing_freed = should_have && result_.freed.value_or(0) <= 0;
    }
  }

  const Services& services_;
  const TrimOptions& options_;
  absl::Time deadline_;
  DomainFacts facts_;
  GuestFacts guest_;
  std::map<std::string, std::string> guest_to_target_;
  TrimmedDomain result_;
};

TrimAction PlanDomain(const Services& services, const DomainSummary& domain) {
  TrimAction action;
  action.domain = domain;
  if (domain.state != DomainState::kRunning) {
    action.blockers.push_back(*AgentObstacle({domain, {}, {}}));
    return action;
  }
  auto facts = CollectDomain(services, domain);
  if (!facts.ok()) {
    action.error = facts.status();
    return action;
  }
  if (facts->disks.empty()) action.blockers.push_back({Reason::kNoDisks, ""});
  auto activity = services.hypervisor.Activity(domain.uuid, facts->live);
  if (!activity.ok()) {
    action.error = activity.status();
    return action;
  }
  action.blockers.insert(action.blockers.end(), activity->begin(), activity->end());
  if (auto obstacle = AgentObstacle(*facts)) action.blockers.push_back(*std::move(obstacle));
  return action;
}

}  // namespace

absl::StatusOr<std::vector<TrimAction>> PlanTrim(const Services& services,
                                                 const TrimOptions& options,
                                                 const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const std::vector<DomainSummary> selected,
                      SelectDomains(services.hypervisor, options.domains));
  std::vector<TrimAction> plan;
  for (const DomainSummary& domain : selected) {
    if (stop.stop_requested()) return absl::CancelledError("interrupted");
    plan.push_back(PlanDomain(services, domain));
  }
  return plan;
}

std::vector<TrimmedDomain> ExecuteTrim(const Services& services, const TrimOptions& options,
                                       const std::vector<TrimAction>& plan,
                                       const TrimProgress& progress, const std::stop_token& stop) {
  std::vector<TrimmedDomain> results;
  for (const TrimAction& action : plan) {
    TrimmedDomain result;
    result.domain = action.domain;
    result.outcome.asked_for = !options.domains.empty();
    if (!action.error.ok()) {
      result.outcome.kind = OutcomeKind::kFailed;
      result.outcome.error = action.error;
    } else if (!action.blockers.empty()) {
      result.outcome.kind = OutcomeKind::kSkipped;
      result.outcome.reasons = action.blockers;
    } else if (stop.stop_requested()) {
      result.outcome.kind = OutcomeKind::kCancelled;
    } else {
      result = DomainTrim(services, options, action.domain).Run(progress, stop);
    }
    results.push_back(std::move(result));
  }
  return results;
}

}  // namespace virt_reclaim
