#include "host/commands/trim_domain.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/contains.h"
#include "base/saturating_add.h"
#include "base/status.h"
#include "host/commands/trim_estimate.h"
#include "host/commands/trim_latency.h"
#include "host/commands/trim_position.h"
#include "host/commands/trim_verdict.h"
#include "host/commands/trim_watch.h"
#include "host/model/assessment.h"
#include "host/model/guest_disks.h"
#include "host/services/trim_history.h"

namespace virt_reclaim {
namespace {

constexpr int kSettledAfter = 4;  // equal measurements in a row
constexpr absl::Duration kSettleLimit = absl::Seconds(30);
// After an interrupt: a guest's kernel finishes the discards that are under way, for a second and
// more, and whoever pressed Ctrl-C does not wait for that.
constexpr absl::Duration kInterruptedSettleLimit = absl::Milliseconds(400);

// A question to qemu-guest-agent costs milliseconds, of one that is hung seconds.
constexpr absl::Duration kLookAgainAfter = absl::Milliseconds(500);
constexpr absl::Duration kKeepPlaceEvery = absl::Minutes(1);

// What an I/O error of a guest is called.
bool IsIoError(const GuestTrim& trim) {
  return trim.result == GuestTrimResult::kFailed && trim.error_name == "EIO";
}

// Trimming one domain, step by step; each step leaves what it found in the members.
class DomainTrim {
 public:
  DomainTrim(const Services& services, const TrimOptions& options, const TrimAction& action,
             const TrimShared& shared)
      : services_(services),
        options_(options),
        action_(action),
        deadline_(services.now() + options.timeout),
        shared_(shared) {
    result_.domain = action.domain;
    result_.outcome.asked_for = action.asked_for;
  }

  TrimmedDomain Run(const TrimProgress& progress, const std::stop_token& stop) {
    auto facts = CollectDomain(services_, result_.domain);
    if (!facts.ok()) return Fail(facts.status());
    facts_ = *std::move(facts);
    // Others were trimmed since the plan was made: a backup may have begun.
    if (IsBusy()) return std::move(result_);
    TrimWay way = TrimWay::kAgent;
    AgentAccess access =
        OpenWay(services_, facts_, options_.way, options_.guest, options_.agent_timeout, stop, way);
    if (stop.stop_requested()) return Cancel();
    if (!access.session) return Refuse(*access.blocker);
    result_.way = way;
    GuestAgent& agent = *access.session->agent;

    auto filesystems = agent.ListFilesystems(std::min(Left(), kListingTimeout), stop);
    if (stop.stop_requested()) return Cancel();
    if (filesystems.ok()) {
      guest_.filesystems = *std::move(filesystems);
    } else if (way == TrimWay::kAgent) {
      return Fail(filesystems.status());
    }
    MatchDisks();
    MeasureBefore();
    result_.expected = ExpectedOf(facts_);
    if (auto blocker = TooLittle()) return Refuse(*blocker);
    if (auto blocker = TooLate(action_.last)) return Refuse(*blocker);
    GuestTrimOptions paced = Paced();
    if (TrimsAll()) paced.start = start_ = StartOf(action_.last, guest_);
    went_on_ = start_.has_value();
    std::optional<TrimLatency> latency;
    TrimWatch watch(services_, facts_, stop);
    // Where a punch could not be measured, nothing else beside the image is.
    if (result_.pace && result_.punch_cost) latency.emplace(services_, facts_, agent);
    if (services_.now() - looked_ > kLookAgainAfter && IsBusy()) return std::move(result_);
    // A trim by qemu-guest-agent goes on in the guest whatever anybody wants.
    const absl::Status watched = watch.Begin(result_.way == TrimWay::kAgent, [&latency] {
      if (latency) latency->Look();
    });
    if (!watched.ok()) return Fail(watched);
    if (!action_.last && options_.first_begins)
      options_.first_begins(result_.domain, result_.expected);
    Trim(agent, paced, watch, progress, stop);
    Remember();
    return std::move(result_);
  }

 private:
  absl::Duration Left() const {
    return std::max(deadline_ - services_.now(), absl::Milliseconds(1));
  }

  // Looks for what forbids a trim now; it is the outcome then.
  bool IsBusy() {
    const auto activity = services_.hypervisor.Activity(result_.domain.uuid, facts_.live);
    looked_ = services_.now();
    if (activity.ok() && activity->empty()) return false;
    result_ = activity.ok() ? Refuse(activity->front()) : Fail(activity.status());
    return true;
  }

  void Trim(GuestAgent& agent, const GuestTrimOptions& guest, TrimWatch& watch,
            const TrimProgress& progress, const std::stop_token& stop) {
    const std::optional<TrimRecord>& last = action_.last;
    const absl::Time begin = began_ = kept_ = services_.now();
    const absl::Duration left = Left();
    // qemu-guest-agent could not be stopped.
    const bool may_end = result_.way == TrimWay::kAgent && shared_.end < begin + left;
    const absl::Status status = agent.Trim(
        guest, may_end ? std::max(shared_.end - begin, absl::Milliseconds(1)) : left, watch.token(),
        [&](GuestTrimProgress p) {
          const absl::Duration so_far = std::max(services_.now() - begin, absl::ZeroDuration());
          if (last && last->whole && !went_on_ && last->took > so_far) p.left = last->took - so_far;
          watch.At(PositionOf(p, result_.filesystems, guest_));
          KeepPlace(watch);
          if (progress) progress(result_.domain, p);
        },
        result_.filesystems);
    watch.End();
    cut_short_ = !status.ok();
    place_ = watch.place();
    const bool time_over = may_end && absl::IsDeadlineExceeded(status);
    LookForTrouble(status.ok() || time_over || stop.stop_requested() || watch.job(), watch);
    // Somebody may have set the clock back.
    result_.took = std::max(services_.now() - begin, absl::ZeroDuration());
    MeasureAfter(result_.took, stop.stop_requested() ? kInterruptedSettleLimit : kSettleLimit);
    Judge(status, time_over, watch, stop);
  }

  // Only such trims begin where another ended.
  bool TrimsAll() const {
    return options_.guest.mount_points.empty() && result_.way == TrimWay::kAgent;
  }

  // Where the next trim is to go on.
  std::optional<TrimRecordPosition> Next() const {
    const auto as_before = action_.last ? action_.last->next : std::nullopt;
    if (!TrimsAll()) return as_before;
    if (!cut_short_) return std::nullopt;
    if (place_) return place_;
    return went_on_ ? as_before : std::nullopt;
  }

  // For the next trim, when this one does not live to remember what it came to. As of a trim that
  // was stopped.
  void KeepPlace(TrimWatch& watch) {
    const absl::Time now = services_.now();
    const auto place = watch.place();
    if (!TrimsAll() || !place || now - kept_ < kKeepPlaceEvery) return;
    kept_ = now;
    TrimRecord record = RecordOf(OutcomeKind::kCancelled);
    record.took = std::max(now - began_, absl::ZeroDuration());
    record.next = place;
    Append(record).IgnoreError();  // Remember says so
  }

  TrimRecord RecordOf(OutcomeKind kind) const {
    TrimRecord record;
    record.began = began_;
    record.way = std::string(Name(*result_.way));
    record.status = std::string(Name(kind));
    record.expected = result_.expected;
    return record;
  }

  absl::Status Append(const TrimRecord& record) const {
    const TrimHistory history(services_.state_directory, services_.hypervisor.Uri());
    return history.Append(result_.domain.uuid, result_.domain.name, record);
  }

  // For the next trim, and for people. The domain's lock is held.
  void Remember() {
    TrimRecord record = RecordOf(result_.outcome.kind);
    record.took = result_.took;
    record.complete = result_.outcome.kind == OutcomeKind::kDone &&
                      result_.outcome.reasons.empty() && options_.guest.mount_points.empty();
    record.whole = record.complete && !went_on_;
    record.next = Next();
    record.trimmed = result_.trimmed;
    record.freed = result_.freed;
    for (const TrimmedDisk& disk : result_.disks) {
      record.disks.push_back(
          {disk.target, disk.image, disk.trimmed, disk.freed, disk.allocation_after});
    }
    result_.remembered = Append(record);
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
    const bool failed = IsAgentFailure(blocker);
    result_.outcome.kind = failed ? OutcomeKind::kFailed : OutcomeKind::kSkipped;
    result_.outcome.asked_for |= blocker.reason == Reason::kBusy;
    // What was asked for was: only when there is so much.
    result_.outcome.asked_for &= blocker.reason != Reason::kBelowThreshold;
    if (failed) result_.outcome.error = AgentFailure(blocker);
    result_.outcome.reasons.push_back(blocker);
    return std::move(result_);
  }

  // qemu-guest-agent tells less than the agent: no sizes of disks, and no place of a disk behind a
  // bridge.
  void MatchDisks() {
    guest_to_target_ = MatchGuestDisks(facts_.live, guest_);
    if (result_.way != TrimWay::kQemuAgent) return;
    const auto is_disk = [](const DiskFacts& disk) { return !IsOther(disk.xml); };
    const auto only = std::find_if(facts_.disks.begin(), facts_.disks.end(), is_disk);
    if (std::count_if(facts_.disks.begin(), facts_.disks.end(), is_disk) == 1)
      MatchOnlyDisk(facts_.live, only->xml, guest_, guest_to_target_);
    for (GuestFilesystem& filesystem : guest_.filesystems) {
      for (GuestDevice& device : filesystem.devices) {
        const auto target = guest_to_target_.find(device.name);
        // What of the disk is in no filesystem counts as in use.
        if (target != guest_to_target_.end())
          device.size = FactsOf(target->second).usage.capacity.value_or(UINT64_MAX);
      }
    }
  }

  GuestTrimOptions Paced() {
    GuestTrimOptions guest = options_.guest;
    if (!options_.paced || result_.way != TrimWay::kAgent) return guest;
    result_.punch_cost = shared_.costs.Of(facts_.disks);
    result_.pace = PaceFor(result_.punch_cost, options_.gentle);
    guest.chunk = result_.pace->chunk;
    guest.pause_percent = result_.pace->pause_percent;
    guest.back_off = result_.pace->back_off;
    return guest;
  }

  // Why there is too little to be had; empty also when it is not known how much there is.
  std::optional<Blocker> TooLittle() const {
    if (auto blocker = BelowThreshold(facts_, options_)) return blocker;
    const auto freed = FreedSinceTrim();
    if (!options_.min_freed || !freed || *freed >= *options_.min_freed) return std::nullopt;
    return Blocker{Reason::kBelowThreshold,
                   absl::StrCat("about ", FormatByteSize(*freed), " since the last trim")};
  }

  // What the guest freed since its last trim; empty when that of one filesystem is not known.
  std::optional<uint64_t> FreedSinceTrim() const {
    uint64_t sum = 0;
    for (const GuestFilesystem& filesystem : guest_.filesystems) {
      if (filesystem.obstacle != GuestObstacle::kNone) continue;
      if (!filesystem.freed_since_trim) return std::nullopt;
      sum += *filesystem.freed_since_trim;
    }
    return sum;
  }

  // qemu-guest-agent cannot be stopped: it begins nothing that is known to take longer than there
  // is time.
  std::optional<Blocker> TooLate(const std::optional<TrimRecord>& last) const {
    if (result_.way != TrimWay::kQemuAgent || !last || !last->whole) return std::nullopt;
    if (services_.now() + last->took <= shared_.end) return std::nullopt;
    return Blocker{Reason::kTimeOver,
                   absl::StrCat("the last trim took ",
                                absl::FormatDuration(absl::Trunc(last->took, absl::Seconds(1))))};
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
      written_before_[trimmed.target] = WrittenTo(trimmed.target);
      result_.disks.push_back(std::move(trimmed));
    }
  }

  // Since the domain started; only differences of it mean something.
  std::optional<uint64_t> WrittenTo(const std::string& target) const {
    const auto bytes = services_.hypervisor.BytesWritten(result_.domain.uuid, {target});
    return bytes.ok() ? std::optional<uint64_t>(*bytes) : std::nullopt;
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

  // Empty: it is not known which, as the agent may know a mount point by another spelling.
  std::vector<GuestFilesystem> AskedFor() const {
    if (options_.guest.mount_points.empty()) return guest_.filesystems;
    std::vector<GuestFilesystem> asked_for;
    for (const std::string& point : options_.guest.mount_points) {
      const auto found = std::find_if(
          guest_.filesystems.begin(), guest_.filesystems.end(),
          [&](const GuestFilesystem& one) { return Contains(one.mount_points, point); });
      if (found == guest_.filesystems.end()) return {};
      asked_for.push_back(*found);
    }
    return asked_for;
  }

  void MeasureAfter(absl::Duration trim_took, absl::Duration patience) {
    const absl::Time limit = services_.now() + patience;
    const absl::Duration quiet = QuietAfter(trim_took, AskedFor());
    MeasureOnce();
    for (int equal = 0; equal < kSettledAfter && services_.now() < limit;) {
      services_.sleep(quiet / kSettledAfter);
      equal = MeasureOnce() ? equal + 1 : 0;
    }
    for (TrimmedDisk& disk : result_.disks) {
      const auto before = written_before_[disk.target];
      const auto after = WrittenTo(disk.target);
      if (before && after && *after >= *before) disk.written = *after - *before;
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
      result_.trimmed = SaturatingAdd(result_.trimmed, trim.trimmed);
      if (trim.result == GuestTrimResult::kSkipped && trim.disks.empty()) continue;
      for (const std::string& name : trim.disks) {
        const auto target = guest_to_target_.find(name);
        if (target == guest_to_target_.end()) continue;
        uint64_t& trimmed = by_target[target->second];
        trimmed = SaturatingAdd(trimmed, trim.disks.size() == 1 ? trim.trimmed : 0);
        if (trim.obstacle == GuestObstacle::kDiskNotSupported) refused.insert(target->second);
      }
    }
    for (TrimmedDisk& disk : result_.disks) {
      const auto found = by_target.find(disk.target);
      if (found != by_target.end()) disk.trimmed = found->second;
      disk.guest_not_supported = refused.contains(disk.target);
    }
  }

  // Only some of the filesystems on a disk were asked for, or were left: what the host holds of it
  // may be in the others.
  bool IsInPart(const std::string& target) const {
    const auto is_on_it = [&](const GuestDevice& device) {
      const auto found = guest_to_target_.find(device.name);
      return found != guest_to_target_.end() && found->second == target;
    };
    return std::any_of(guest_.filesystems.begin(), guest_.filesystems.end(),
                       [&](const GuestFilesystem& one) {
                         return one.obstacle == GuestObstacle::kNone &&
                                !WasGoneThrough(one, start_, result_.filesystems) &&
                                std::any_of(one.devices.begin(), one.devices.end(), is_on_it);
                       });
  }

  // Names why disks gave nothing back. True when one should have.
  bool ExplainDisks() {
    ChainFacts chain;
    chain.live = facts_.live;
    chain.guest = guest_;
    chain.guest_to_target = guest_to_target_;
    bool should_have = false;
    for (TrimmedDisk& disk : result_.disks) {
      disk.in_part = IsInPart(disk.target);
      TrimVerdict verdict = JudgeTrimmedDisk(services_, chain, FactsOf(disk.target), disk);
      disk.reasons = std::move(verdict.reasons);
      should_have |= verdict.should_have;
    }
    return should_have;
  }

  void Judge(const absl::Status& status, bool time_over, TrimWatch& watch,
             const std::stop_token& stop) {
    const std::optional<Blocker> trouble = watch.trouble();
    AddGuestNumbers();
    const bool should_have = ExplainDisks();
    const auto failed = std::find_if(result_.filesystems.begin(), result_.filesystems.end(),
                                     [](const GuestTrim& trim) {
                                       return trim.result == GuestTrimResult::kFailed &&
                                              !BlockerOf(trim.obstacle, trim.obstacle_device);
                                     });
    if (trouble) {
      result_.outcome.kind = OutcomeKind::kFailed;
      result_.outcome.error =
          absl::UnavailableError(absl::StrCat(Sentence(trouble->reason), ": ", trouble->detail));
      result_.outcome.reasons.push_back(*trouble);
    } else if (stop.stop_requested()) {
      result_.outcome.kind = OutcomeKind::kCancelled;
    } else if (failed != result_.filesystems.end()) {
      result_.outcome.kind = OutcomeKind::kFailed;
      result_.outcome.error = absl::InternalError(absl::StrCat(
          "trim of '", failed->mount_point,
          "' in the guest: ", failed->error_name.empty() ? "failed" : failed->error_name));
    } else if (watch.job() && !status.ok()) {
      result_.outcome.reasons.push_back(*watch.job());
    } else if (time_over) {
      result_.outcome.reasons.push_back({Reason::kTimeOver, ""});
    } else if (!status.ok()) {
      result_.outcome.kind = OutcomeKind::kFailed;
      result_.outcome.error = absl::IsDeadlineExceeded(status) ? OutOfTime() : status;
      if (paused_)
        result_.outcome.error = absl::UnavailableError(
            absl::StrCat("the domain was paused during the trim: ", status.message()));
    } else {
      result_.outcome.nothing_freed = should_have && result_.freed.value_or(0) <= 0;
    }
  }

  absl::Status OutOfTime() const {
    const std::string limit = absl::FormatDuration(options_.timeout);
    return absl::DeadlineExceededError(
        absl::StrCat("not done within the ", limit, " of --timeout",
                     TrimsAll() && place_ ? "; the next trim goes on where it was" : ""));
  }

  // Before anything is measured: whoever else is on the storage is to stop at once. A disk that
  // meets an error on the host pauses the domain, with libvirt's default policy.
  void LookForTrouble(bool ended_well, TrimWatch& watch) {
    if (!ended_well) {
      const auto state = services_.hypervisor.State(result_.domain.uuid);
      paused_ = state.ok() && *state == DomainState::kPaused;
    }
    result_.outcome.trouble =
        paused_ || watch.trouble() ||
        std::any_of(result_.filesystems.begin(), result_.filesystems.end(), IsIoError);
    if (result_.outcome.trouble && shared_.on_trouble) shared_.on_trouble();
  }

  const Services& services_;
  const TrimOptions& options_;
  const TrimAction& action_;
  const absl::Time deadline_;
  const TrimShared& shared_;
  absl::Time began_ = absl::InfinitePast();   // the guest's trim
  absl::Time kept_ = absl::InfinitePast();    // its place
  absl::Time looked_ = absl::InfinitePast();  // for what forbids a trim
  std::optional<GuestTrimPosition> start_;
  bool went_on_ = false;                     // began where the trim before was cut short
  std::optional<TrimRecordPosition> place_;  // where it was left
  bool cut_short_ = false;                   // by whatever: a limit, a stop, trouble, a lost link
  bool paused_ = false;                      // by the end of the guest's trim
  DomainFacts facts_;
  GuestFacts guest_;
  std::map<std::string, std::string> guest_to_target_;
  std::map<std::string, std::optional<uint64_t>> written_before_;  // by target
  TrimmedDomain result_;
};

}  // namespace

TrimmedDomain TrimDomain(const Services& services, const TrimOptions& options,
                         const TrimAction& action, const TrimShared& shared,
                         const TrimProgress& progress, const std::stop_token& stop) {
  return DomainTrim(services, options, action, shared).Run(progress, stop);
}

}  // namespace virt_reclaim
