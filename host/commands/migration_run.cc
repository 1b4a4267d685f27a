#include "host/commands/migration_run.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/commands/collect.h"
#include "host/commands/expected_mounts.h"
#include "host/commands/storage_turn.h"
#include "host/model/same_definition.h"
#include "host/services/state_path.h"
#include "xml-tools/stored.h"

namespace virt_reclaim {
namespace {

// A guest that is still booting does not hear the power button.
constexpr absl::Duration kAskAgain = absl::Seconds(20);
constexpr int kMostPatience = 4;  // times verify_timeout
constexpr int kMostStops = 3;     // of a guest in one migration
// Busy disks buy a guest this much.
constexpr absl::Duration kSignOfLife = absl::Seconds(60);

constexpr absl::string_view kNobodyToAsk =
    "disks change their bus, and no agent answers that could say whether the guest finds them "
    "after its power cycle; its new definition waits for one";

std::string NotSafe(const PowerCycleCheck& check) {
  return absl::StrCat("its power cycle would not be safe now: ", BlockersText(check.blockers));
}

absl::Status NotReady(const PowerCycleCheck& check) {
  return absl::FailedPreconditionError(
      absl::StrCat(NotSafe(check),
                   "; the guest is not shut down, but its new definition is there for anybody's "
                   "power cycle: put that right, or roll it back"));
}

std::string Seconds(absl::Duration duration) {
  return absl::StrCat(absl::ToInt64Seconds(duration), " s");
}

}  // namespace

MigrationRun::MigrationRun(const Services& services, std::string uuid,
                           const MigrationRunOptions& options, StoredMigration migration)
    : services_(services),
      uuid_(std::move(uuid)),
      options_(options),
      migration_(std::move(migration)) {}

absl::Status MigrationRun::Append(MigrationRecord record) {
  record.time = services_.now();
  const MigrationStep step = record.step;
  VR_RETURN_IF_ERROR(migration_.Append(std::move(record)));
  if (options_.on_step) options_.on_step(step);
  return absl::OkStatus();
}

absl::Status MigrationRun::Append(MigrationStep step, std::string detail) {
  MigrationRecord record;
  record.step = step;
  record.detail = std::move(detail);
  return Append(std::move(record));
}

absl::Status MigrationRun::EndFix(bool prepared, const std::string& why) {
  return Append(prepared ? MigrationStep::kDefining : MigrationStep::kUndone, Printable(why));
}

absl::Status MigrationRun::Continue(const std::stop_token& stop) {
  waits_ = false;
  while (!waits_ && !IsOver(place().step)) {
    // A definition is never left half made, and one that is made was not interrupted; everything
    // else may wait for the next call.
    const MigrationStep step = place().step;
    if (stop.stop_requested() && step != MigrationStep::kUndoing && step != MigrationStep::kDefined)
      return absl::CancelledError("interrupted");
    VR_RETURN_IF_ERROR(Step(stop));
  }
  return failure_;
}

absl::Status MigrationRun::Step(const std::stop_token& stop) {
  switch (place().step) {
    case MigrationStep::kBegun:
      return Append(MigrationStep::kDefining);
    case MigrationStep::kFixing:
      return absl::FailedPreconditionError(
          "its guest was not prepared to the end: apply goes on, rollback puts its files back");
    case MigrationStep::kDefining:
      return DefineNew(stop);
    case MigrationStep::kDefined:
      return LeaveDefined(stop);
    case MigrationStep::kStopping:
      return Stop(stop);
    case MigrationStep::kStarting:
      return StartNew();
    case MigrationStep::kVerifying:
      return VerifyNew(stop);
    case MigrationStep::kUndoing:
      return UndoDefine();
    case MigrationStep::kRollingBack:
      return PutBack(stop);
    case MigrationStep::kRestored:
      return StartOld(stop);
    case MigrationStep::kDone:
    case MigrationStep::kUndone:
    case MigrationStep::kRolledBack:
      break;
  }
  return absl::InternalError("a migration that is over was gone on with");
}

// ---- Forward.

absl::Status MigrationRun::DefineNew(const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const std::string old_xml, migration_.OldXml());
  VR_ASSIGN_OR_RETURN(const std::string new_xml, migration_.NewXml());
  VR_ASSIGN_OR_RETURN(const std::string current,
                      services_.hypervisor.DomainXml(uuid_, Hypervisor::Xml::kInactiveWithSecrets));
  if (current == old_xml) {
    if (const absl::Status defined = services_.hypervisor.Define(new_xml); !defined.ok()) {
      failure_ = defined;
      return BeginUndo();
    }
  }
  VR_ASSIGN_OR_RETURN(const std::string difference, DifferenceFrom(new_xml));
  if (difference.empty()) {
    VR_ASSIGN_OR_RETURN(const std::string stored, Current());
    MigrationRecord record;
    record.step = MigrationStep::kDefined;
    record.after_digest = Digest(stored);
    // Somebody else may power-cycle it, and then ask whether it came back as it was.
    if (!options_.power_cycle) LookBefore(record, stop);
    defined_now_ = true;
    return Append(std::move(record));
  }
  if (current != old_xml) {
    return absl::FailedPreconditionError(
        absl::StrCat("somebody else changed its definition meanwhile (", difference,
                     "); the one of before is in '", migration_.old_xml_path(), "'"));
  }
  failure_ =
      absl::DataLossError(absl::StrCat("libvirt stored something else than what was defined (",
                                       difference, "); the old definition was put back"));
  return BeginUndo();
}

absl::Status MigrationRun::BeginUndo() {
  const auto stored = Current();
  MigrationRecord record;
  record.step = MigrationStep::kUndoing;
  record.detail = Printable(failure_.message());
  if (stored.ok()) record.after_digest = Digest(*stored);
  return Append(std::move(record));
}

absl::Status MigrationRun::LeaveDefined(const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const DomainState state, services_.hypervisor.State(uuid_));
  waits_ = true;
  if (!options_.power_cycle || state != DomainState::kRunning) return absl::OkStatus();
  if (stop.stop_requested()) return absl::CancelledError("interrupted");
  if (!defined_now_) {
    VR_ASSIGN_OR_RETURN(const bool runs_new, RunsNew());
    if (runs_new) return VerifyAsItRuns(stop);
  }
  if (const absl::Status ours = RequireOurs(); !ours.ok()) {
    return absl::FailedPreconditionError(absl::StrCat(
        ours.message(), "; it is not shut down: verify it after a power cycle of yours"));
  }
  VR_ASSIGN_OR_RETURN(const DomainFacts facts, CollectDomain(services_, {"", uuid_, state, true}));
  VR_ASSIGN_OR_RETURN(const auto activity, services_.hypervisor.Activity(uuid_, facts.live));
  if (!activity.empty()) {
    return absl::UnavailableError(
        absl::StrCat("it cannot be shut down now: ", Sentence(activity.front().reason),
                     "; its new definition waits for a power cycle"));
  }
  MigrationRecord record;
  record.step = MigrationStep::kStopping;
  record.was_running = true;
  LookBefore(record, stop);
  if (stop.stop_requested()) return absl::CancelledError("interrupted");
  VR_ASSIGN_OR_RETURN(const bool moves, ChangesBus());
  if (moves && !record.had_agent) return absl::UnavailableError(std::string(kNobodyToAsk));
  VR_ASSIGN_OR_RETURN(const PowerCycleCheck check, Check(stop));
  if (!check.blockers.empty()) {
    // What this call has made for a guest that was ready when it was planned, it takes back.
    waits_ = !defined_now_ || !check.answered;
    return waits_ ? NotReady(check)
                  : BeginRollBack(absl::FailedPreconditionError(NotSafe(check)), {});
  }
  checked_now_ = true;
  waits_ = false;
  return Append(std::move(record));
}

// A guest that has run so for days is nobody's to stop: when it is not as it was, that is said, and
// it goes on.
absl::Status MigrationRun::VerifyAsItRuns(const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const bool moves, ChangesBus());
  if (moves && !place().had_agent) return absl::UnavailableError(std::string(kNobodyToAsk));
  VR_ASSIGN_OR_RETURN(const std::string remark, Verify(stop));
  if (options_.probe && place().had_agent) Probe(stop);
  return MarkVerified(remark);
}

absl::Status MigrationRun::MarkVerified(const std::string& remark) {
  if (place().step != MigrationStep::kDefined) return absl::OkStatus();
  VR_ASSIGN_OR_RETURN(const bool runs_new, RunsNew());
  return runs_new ? Append(MigrationStep::kDone, remark) : absl::OkStatus();
}

void MigrationRun::LookBefore(MigrationRecord& record, const std::stop_token& stop) {
  const auto state = services_.hypervisor.State(uuid_);
  if (!state.ok() || *state != DomainState::kRunning) return;
  const auto facts = CollectDomain(services_, {"", uuid_, *state, true});
  if (!facts.ok()) return;
  AgentAccess access = OpenAgentLocked(services_, *facts, kRunAgentTimeout, stop);
  if (!access.session) return;
  auto filesystems = access.session->agent->ListFilesystems(kListingTimeout, stop);
  record.had_agent = filesystems.ok();
  if (filesystems.ok())
    record.mounts = OncePerFilesystem(MountsOf(*facts, *std::move(filesystems)));
}

absl::Status MigrationRun::Stop(const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const DomainState state, services_.hypervisor.State(uuid_));
  VR_ASSIGN_OR_RETURN(const bool runs_new, RunsNew());
  // Killed after it had gone, and somebody else has started it.
  if (runs_new && state == DomainState::kRunning) return Append(MigrationStep::kStarting);
  if (!std::exchange(checked_now_, false) && state == DomainState::kRunning) {
    VR_ASSIGN_OR_RETURN(const PowerCycleCheck check, Check(stop));
    if (!check.blockers.empty()) return StopUnasked(check, stop);
  }
  if (const absl::Status stopped = ShutDownAndWait(/*ask=*/true, stop); !stopped.ok()) {
    if (absl::IsCancelled(stopped)) return stopped;
    VR_RETURN_IF_ERROR(Append(MigrationStep::kDefined, std::string(stopped.message())));
    return Annotate(stopped, "its new definition waits for a power cycle");
  }
  return Append(MigrationStep::kStarting);
}

absl::Status MigrationRun::StopUnasked(const PowerCycleCheck& check, const std::stop_token& stop) {
  if (const absl::Status gone = ShutDownAndWait(/*ask=*/false, stop); !gone.ok()) {
    if (absl::IsCancelled(gone)) return gone;
    VR_RETURN_IF_ERROR(Append(MigrationStep::kDefined, BlockersText(check.blockers)));
    return NotReady(check);
  }
  // Of one that was silent since it was going nobody knows more than when it was asked to.
  if (!check.answered) return Append(MigrationStep::kStarting);
  return BeginRollBack(absl::FailedPreconditionError(NotSafe(check)), {});
}

absl::Status MigrationRun::StartNew() {
  VR_ASSIGN_OR_RETURN(const bool off, IsOff());
  if (off) {
    if (const absl::Status started = StartIt(); !started.ok()) return BeginRollBack(started, {});
  }
  VR_ASSIGN_OR_RETURN(const bool runs_new, RunsNew());
  if (runs_new) return Append(MigrationStep::kVerifying);
  // Somebody else has started it before, or it never went off.
  VR_RETURN_IF_ERROR(RequireOurs());
  const MigrationPlace here = place();
  const auto& journal = migration_.journal();
  const auto attempts = std::count_if(journal.begin(), journal.end(), [](const auto& record) {
    return record.step == MigrationStep::kStopping;
  });
  if (attempts >= kMostStops) {
    return absl::FailedPreconditionError(
        "the domain was started, but does not run under its new definition");
  }
  MigrationRecord record;
  record.step = MigrationStep::kStopping;
  record.was_running = true;
  record.had_agent = here.had_agent;
  record.mounts = here.mounts;
  return Append(std::move(record));
}

absl::Status MigrationRun::VerifyNew(const std::stop_token& stop) {
  auto remark = Verify(stop);
  if (remark.ok()) {
    // No reason to roll back: the guest is well, and the layer that drops discards may lie anywhere
    // below.
    if (options_.probe && place().had_agent) Probe(stop);
    return Append(MigrationStep::kDone, *remark);
  }
  if (absl::IsCancelled(remark.status())) return remark.status();
  MigrationRecord record;
  record.stop_guest = record.may_power_off = true;
  return BeginRollBack(remark.status(), std::move(record));
}

absl::StatusOr<std::string> MigrationRun::Verify(const std::stop_token& stop) {
  const absl::Time begin = services_.now();
  const absl::Time end = begin + options_.verify_timeout * kMostPatience;
  absl::Time deadline = begin + options_.verify_timeout;
  std::optional<uint64_t> requests;
  std::string missing;
  while (true) {
    if (stop.stop_requested()) return absl::CancelledError("interrupted");
    VR_ASSIGN_OR_RETURN(const DomainState state, services_.hypervisor.State(uuid_));
    // So libvirt calls one whose start is not over, too; and a full storage is somebody's to mend.
    if (state == DomainState::kPaused && services_.now() < std::max(deadline, begin + kStarting)) {
      services_.sleep(kPoll);
      continue;
    }
    if (state != DomainState::kRunning) {
      return absl::UnavailableError(
          absl::StrCat("the domain is ", Name(state), " instead of running"));
    }
    if (!place().had_agent) return std::string("no agent answered before its power cycle, either");
    auto still_missing = MissingMount(stop);
    if (still_missing.ok() && still_missing->empty()) return std::string();
    missing = still_missing.ok() ? absl::StrCat(*still_missing, " is not mounted")
                                 : std::string(still_missing.status().message());
    const auto now_requests = DiskRequests();
    if (now_requests.ok() && requests && *now_requests > *requests)
      deadline = std::min(end, std::max(deadline, services_.now() + kSignOfLife));
    if (now_requests.ok()) requests = *now_requests;
    if (services_.now() >= deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("the guest did not come back as it was within ",
                       Seconds(services_.now() - begin), ": ", missing));
    }
    services_.sleep(kPoll * 4);
  }
}

std::vector<ProbedDisk> MigrationRun::Probe(const std::stop_token& stop) {
  probed_.clear();
  const auto facts = CollectDomain(services_, {"", uuid_, DomainState::kRunning, true});
  if (!facts.ok()) return probed_;
  AgentAccess access = OpenAgentLocked(services_, *facts, kRunAgentTimeout, stop);
  if (!access.session) return probed_;
  StorageLock places = PlacesOn(services_, StoragesOf(*facts), kProbesPerStorage);
  const auto obstacle = TakeTurn(
      services_, places, {.patience = options_.verify_timeout, .waits = options_.waits}, stop);
  if (!obstacle.ok()) {
    probed_ = NotProbed(*facts, {}, Printable(obstacle.status().message()));
  } else if (*obstacle) {
    const Reason reason = (*obstacle)->reason;
    probed_ = NotProbed(*facts, {}, absl::StrCat(Code(reason), ": ", Sentence(reason)));
  } else {
    probed_ = ProbeDiscards(services_, *facts, *access.session->agent, {}, stop);
  }
  return probed_;
}

absl::StatusOr<std::string> MigrationRun::MissingMount(const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const DomainFacts facts,
                      CollectDomain(services_, {"", uuid_, DomainState::kRunning, true}));
  AgentAccess access = OpenAgentLocked(services_, facts, kRunAgentTimeout, stop);
  if (!access.session)
    return absl::UnavailableError(absl::StrCat(Sentence(access.blocker->reason)));
  VR_ASSIGN_OR_RETURN(std::vector<GuestFilesystem> filesystems,
                      access.session->agent->ListFilesystems(kListingTimeout, stop));
  const std::vector<ExpectedMount> found = MountsOf(facts, std::move(filesystems));
  const std::vector<ExpectedMount> expected = place().mounts;
  const ExpectedMount* missing = FindMissing(expected, found);
  return missing == nullptr ? std::string()
                            : absl::StrCat("'", missing->mount_point, "' (", missing->uuid, ")");
}

// ---- What the steps are made of.

absl::StatusOr<std::string> MigrationRun::Current() {
  return services_.hypervisor.DomainXml(uuid_, Hypervisor::Xml::kInactive);
}

absl::StatusOr<std::string> MigrationRun::DifferenceFrom(const std::string& definition) {
  VR_ASSIGN_OR_RETURN(const std::string stored,
                      services_.hypervisor.DomainXml(uuid_, Hypervisor::Xml::kInactiveWithSecrets));
  return xml::FirstDifference(definition, stored);
}

absl::StatusOr<bool> MigrationRun::IsOff() {
  VR_ASSIGN_OR_RETURN(const DomainState state, services_.hypervisor.State(uuid_));
  return state == DomainState::kShutOff;
}

absl::StatusOr<bool> MigrationRun::ChangesBus() {
  VR_ASSIGN_OR_RETURN(const std::string old_xml, migration_.OldXml());
  VR_ASSIGN_OR_RETURN(const std::string new_xml, migration_.NewXml());
  VR_ASSIGN_OR_RETURN(const xml::Domain before, xml::ParseDomain(old_xml));
  VR_ASSIGN_OR_RETURN(const xml::Domain after, xml::ParseDomain(new_xml));
  return BusesOf(before) != BusesOf(after);
}

absl::StatusOr<PowerCycleCheck> MigrationRun::Check(const std::stop_token& stop) {
  const DomainSummary domain = {"", uuid_, DomainState::kRunning, true};
  VR_ASSIGN_OR_RETURN(PowerCycleCheck check,
                      CheckPowerCycle(services_, domain, migration_, /*locked=*/true, stop));
  if (stop.stop_requested()) return absl::CancelledError("interrupted");
  if (!check.blockers.empty()) return check;
  VR_ASSIGN_OR_RETURN(const DomainFacts facts, CollectDomain(services_, domain));
  VR_ASSIGN_OR_RETURN(check.blockers, services_.hypervisor.Activity(uuid_, facts.live));
  check.answered = false;
  return check;
}

absl::StatusOr<bool> MigrationRun::RunsNew() {
  VR_ASSIGN_OR_RETURN(const std::string live,
                      services_.hypervisor.DomainXml(uuid_, Hypervisor::Xml::kLive));
  // Asked afterwards: of a domain that has gone off meanwhile that was the definition to come.
  VR_ASSIGN_OR_RETURN(const bool off, IsOff());
  if (off) return false;
  VR_ASSIGN_OR_RETURN(const std::string new_xml, migration_.NewXml());
  VR_ASSIGN_OR_RETURN(const xml::Domain wanted, xml::ParseDomain(new_xml));
  VR_ASSIGN_OR_RETURN(const xml::Domain found, xml::ParseDomain(live));
  return SameWhereItMatters(wanted, found);
}

// A start that an earlier call asked for and did not live to see may still be on its way: libvirt
// then says that the domain is running already, and shows it as paused until QEMU is there.
absl::Status MigrationRun::StartIt() {
  const absl::Status started = services_.hypervisor.Start(uuid_);
  if (!absl::IsFailedPrecondition(started)) return started;
  for (const absl::Time limit = services_.now() + kStarting; services_.now() < limit;) {
    services_.sleep(kPoll);
    VR_ASSIGN_OR_RETURN(const DomainState state, services_.hypervisor.State(uuid_));
    if (state == DomainState::kRunning) return absl::OkStatus();
    if (state == DomainState::kShutOff) break;
  }
  return started;
}

absl::Status MigrationRun::ShutDownAndWait(bool ask, const std::stop_token& stop) {
  const absl::Time begin = services_.now();
  std::optional<absl::Time> asked;
  while (true) {
    VR_ASSIGN_OR_RETURN(const bool off, IsOff());
    if (off) return absl::OkStatus();
    if (stop.stop_requested()) return absl::CancelledError("interrupted");
    const absl::Time now = services_.now();
    if (now - begin >= options_.shutdown_timeout) {
      return absl::DeadlineExceededError(
          absl::StrCat("the guest did not shut down within ", Seconds(options_.shutdown_timeout)));
    }
    if (ask && (!asked || now - *asked >= kAskAgain)) {
      const absl::Status status = services_.hypervisor.Shutdown(uuid_);
      // A QEMU that hangs may go down all the same, as one may that is on its way.
      const bool may_come = absl::IsFailedPrecondition(status) || absl::IsDeadlineExceeded(status);
      if (!status.ok() && !asked && !may_come) return status;
      asked = now;
    }
    services_.sleep(kPoll);
  }
}

absl::StatusOr<uint64_t> MigrationRun::DiskRequests() {
  VR_ASSIGN_OR_RETURN(const std::string text,
                      services_.hypervisor.DomainXml(uuid_, Hypervisor::Xml::kLive));
  VR_ASSIGN_OR_RETURN(const xml::Domain live, xml::ParseDomain(text));
  std::vector<std::string> targets;
  for (const xml::Disk& disk : live.disks) {
    if (disk.device == "disk") targets.push_back(disk.target);
  }
  return services_.hypervisor.DiskRequests(uuid_, targets);
}

}  // namespace virt_reclaim
