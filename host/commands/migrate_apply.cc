// The verbs of migrate that act: apply, verify, rollback; and status, which only reads what they
// left.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/commands/domain_turn.h"
#include "host/commands/migrate.h"
#include "host/model/same_definition.h"
#include "host/services/state_path.h"

namespace virt_reclaim {
namespace {

constexpr absl::Duration kPauseStep = absl::Milliseconds(250);  // how late a stop is noticed
constexpr absl::Duration kFixTimeout = absl::Minutes(30);       // making an initramfs takes a while

bool IsUp(DomainState state) {
  return state == DomainState::kRunning || state == DomainState::kPaused;
}

void SetOutcome(const absl::Status& status, MigratedDomain& migrated) {
  Outcome& outcome = migrated.outcome;
  outcome.error = status;
  if (status.ok()) {
    outcome.kind = OutcomeKind::kDone;
  } else if (absl::IsCancelled(status)) {
    outcome.kind = OutcomeKind::kCancelled;
  } else if (absl::IsAborted(status)) {
    outcome.kind = OutcomeKind::kSkipped;
    outcome.asked_for = true;
    outcome.reasons.push_back({Reason::kBusy, std::string(status.message())});
  } else {
    outcome.kind = OutcomeKind::kFailed;
  }
}

// The running domain works under another definition than its migration has left it with.
bool LiveIsOlder(const Services& services, const MigrationRun& run, const std::string& uuid) {
  const MigrationStep step = run.place().step;
  const bool undone = step == MigrationStep::kUndone || step == MigrationStep::kRolledBack;
  const auto live = services.hypervisor.DomainXml(uuid, Hypervisor::Xml::kLive);
  const auto wanted = undone ? run.migration().OldXml() : run.migration().NewXml();
  if (!live.ok() || !wanted.ok()) return false;
  const auto live_domain = xml::ParseDomain(*live);
  const auto wanted_domain = xml::ParseDomain(*wanted);
  return live_domain.ok() && wanted_domain.ok() &&
         !SameWhereItMatters(*wanted_domain, *live_domain);
}

// Takes what a run has come to into the result.
void Record(const Services& services, const MigrationRun& run, MigratedDomain& migrated) {
  migrated.place = run.place();
  migrated.backup = run.migration().old_xml_path();
  migrated.probed = run.probed();
  for (const ProbedDisk& disk : migrated.probed) {
    // Done, and the host gets nothing all the same.
    if (disk.reaches && !*disk.reaches) {
      migrated.outcome.nothing_freed = true;
      migrated.outcome.reasons.push_back(
          {Reason::kDiscardNotProved, absl::StrCat(Printable(disk.target), ": ", disk.detail)});
    }
  }
  const auto state = services.hypervisor.State(migrated.domain.uuid);
  if (state.ok()) migrated.domain.state = *state;
  const bool settled = run.place().step == MigrationStep::kDefined || IsOver(run.place().step);
  migrated.needs_power_cycle =
      settled && IsUp(migrated.domain.state) && LiveIsOlder(services, run, migrated.domain.uuid);
}

MigrationRunOptions RunOptionsOf(const MigrateOptions& options, const DomainSummary& domain) {
  MigrationRunOptions run = options.run;
  run.power_cycle = options.power_cycle == PowerCycle::kShutdown;
  if (options.progress) {
    run.on_step = [&options, domain](MigrationStep step) { options.progress(domain, Name(step)); };
    run.waits = [&options, domain] {
      options.progress(domain, "waits for another virt-reclaim that trims on its storage");
    };
  }
  return run;
}

void Tell(const MigrateOptions& options, const DomainSummary& domain, absl::string_view what) {
  if (options.progress) options.progress(domain, what);
}

absl::StatusOr<StoredMigration> Begin(const Services& services, const MigrateOptions& options,
                                      const MigrateAction& action, const MigrationStore& store,
                                      MigratedDomain& migrated) {
  Hypervisor& hypervisor = services.hypervisor;
  const std::string& uuid = action.domain.uuid;
  VR_ASSIGN_OR_RETURN(const std::string now,
                      hypervisor.DomainXml(uuid, Hypervisor::Xml::kInactive));
  if (now != action.before)
    return absl::FailedPreconditionError("its definition changed since it was planned");
  VR_ASSIGN_OR_RETURN(const std::vector<PlannedImage> images,
                      ImagesOf(services, action.domain, action.changes));
  if (images != action.images)
    return absl::FailedPreconditionError("its images were replaced since it was planned");
  VR_ASSIGN_OR_RETURN(const std::string secret,
                      hypervisor.DomainXml(uuid, Hypervisor::Xml::kInactiveWithSecrets));
  VR_ASSIGN_OR_RETURN(const xml::Rewritten rewritten,
                      RewriteFor(services, options, action.excluded, secret));
  if (rewritten.changes.size() != action.changes.size())
    return absl::FailedPreconditionError("its definition changed since it was planned");
  MigrationRecord begun;
  // In the same line, so that nobody who comes after a kill goes on without it.
  if (!action.fixes.empty()) begun.step = MigrationStep::kFixing;
  begun.time = services.now();
  begun.before_digest = Digest(action.before);
  begun.after_digest = Digest(action.after);
  VR_ASSIGN_OR_RETURN(StoredMigration migration,
                      store.Begin(uuid, secret, rewritten.text, std::move(begun)));
  migrated.changes = rewritten.changes;
  return migration;
}

// The domain's lock is held.
absl::StatusOr<GuestFix> CallFix(const Services& services, const DomainSummary& domain,
                                 GuestFixAction what, const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const DomainFacts facts, CollectDomain(services, domain));
  AgentAccess access = OpenAgentLocked(services, facts, kRunAgentTimeout, stop);
  if (!access.session) return absl::FailedPreconditionError(Sentence(access.blocker->reason));
  VR_ASSIGN_OR_RETURN(GuestFix fix, access.session->agent->FixGuest(what, kFixTimeout, stop));
  if (fix.result == GuestFixResult::kDone || fix.result == GuestFixResult::kNothingToDo) return fix;
  // Only a guest that is as it was is a matter of conditions.
  const bool is_half_done = fix.result == GuestFixResult::kFailed;
  return absl::Status(
      is_half_done ? absl::StatusCode::kInternal : absl::StatusCode::kFailedPrecondition,
      fix.refusals.empty() ? "the agent could not do it" : Printable(fix.refusals.front()));
}

// Disks are on the SCSI bus in a definition of before: an earlier migration may have moved them.
absl::StatusOr<bool> HasDisksOnScsi(const std::string& before) {
  VR_ASSIGN_OR_RETURN(const xml::Domain domain, xml::ParseDomain(before));
  return std::any_of(domain.disks.begin(), domain.disks.end(), [](const xml::Disk& disk) {
    return disk.device == "disk" && disk.bus == "scsi";
  });
}

absl::StatusOr<bool> WasOnScsi(const MigrationRun& run) {
  VR_ASSIGN_OR_RETURN(const std::string old_xml, run.migration().OldXml());
  return HasDisksOnScsi(old_xml);
}

// Prepares the guest for a bus change, and looks whether that was enough; puts it back as it was
// when it was not. FailedPrecondition, Unimplemented: it is as it was. Any other: nobody knows.
absl::Status FixGuest(const Services& services, const MigrateOptions& options,
                      const MigrateAction& action, const std::stop_token& stop) {
  Tell(options, action.domain, "the guest is prepared for another bus");
  if (const auto fixed = CallFix(services, action.domain, GuestFixAction::kApply, stop);
      !fixed.ok()) {
    return Annotate(fixed.status(), "the guest could not be prepared");
  }
  MigrateOptions without_fix = options;
  without_fix.fix_guest = false;
  const auto judgement = Preflight(services, without_fix, action, /*locked=*/true, stop);
  if (absl::IsCancelled(judgement.status())) return judgement.status();
  if (!judgement.ok()) return absl::InternalError(judgement.status().message());
  if (judgement->blockers.empty()) return absl::OkStatus();
  const Blocker& blocker = judgement->blockers.front();
  VR_ASSIGN_OR_RETURN(const bool on_scsi, HasDisksOnScsi(action.before));
  const absl::StatusOr<GuestFix> undone =
      on_scsi ? absl::FailedPreconditionError("disks on the SCSI bus need it")
              : CallFix(services, action.domain, GuestFixAction::kUndo, stop);
  return absl::Status(
      undone.ok() ? absl::StatusCode::kFailedPrecondition : absl::StatusCode::kInternal,
      absl::StrCat("the guest was prepared, and still ", Code(blocker.reason), " (", blocker.detail,
                   ")", undone.ok() ? "; it was put back as it was" : "; it was not put back"));
}

// What a preparation has left that was interrupted. The agent undoes all that it has changed ever:
// in a guest with disks on the SCSI bus, also what those were prepared by, unless `all` is meant.
absl::Status PutGuestBack(const Services& services, const MigrateOptions& options,
                          const DomainSummary& domain, bool all, const std::stop_token& stop,
                          MigrationRun& run) {
  VR_ASSIGN_OR_RETURN(const bool on_scsi, WasOnScsi(run));
  if (on_scsi && !all) {
    return absl::FailedPreconditionError(
        "its guest was not prepared to the end, and has other disks on the SCSI bus: 'migrate "
        "apply --fix-guest' goes on with it; 'migrate rollback --fix-guest' takes back all that "
        "was ever prepared in it, where its agent finds that no disk needs that");
  }
  Tell(options, domain, "the guest's files are put back");
  const auto undone = CallFix(services, domain, GuestFixAction::kUndo, stop);
  if (!undone.ok()) return Annotate(undone.status(), "the guest's files were not put back");
  return run.EndFix(false, "the guest was not prepared to the end, and was put back as it was");
}

// At kFixing. `again`: an earlier call began with it. OK: prepared.
absl::Status PrepareGuest(const Services& services, const MigrateOptions& options,
                          const MigrateAction& action, bool again, const std::stop_token& stop,
                          MigrationRun& run) {
  absl::Status fixed;
  if (!again || options.fix_guest) {
    fixed = FixGuest(services, options, action, stop);
    if (fixed.ok()) return run.EndFix(true);
    const bool is_as_it_was = absl::IsFailedPrecondition(fixed) || absl::IsUnimplemented(fixed);
    if (!again && is_as_it_was) VR_RETURN_IF_ERROR(run.EndFix(false, std::string(fixed.message())));
    if (!again || !is_as_it_was) return fixed;
  }
  VR_RETURN_IF_ERROR(PutGuestBack(services, options, action.domain, /*all=*/false, stop, run));
  return absl::FailedPreconditionError(
      absl::StrCat(run.place().detail, fixed.ok() ? "" : absl::StrCat(" (", fixed.message(), ")"),
                   "; apply once more"));
}

// Only for a guest that runs on its old bus again.
absl::Status UnfixGuest(const Services& services, const MigrateOptions& options,
                        const DomainSummary& domain, const std::stop_token& stop) {
  Tell(options, domain, "the guest's files are put back");
  // The rollback may have started it.
  DomainSummary now = domain;
  VR_ASSIGN_OR_RETURN(now.state, services.hypervisor.State(domain.uuid));
  const auto undone = CallFix(services, now, GuestFixAction::kUndo, stop);
  return undone.ok()
             ? absl::OkStatus()
             : Annotate(undone.status(), "rolled back, but the guest's files were not put back");
}

absl::Status ApplyInto(const Services& services, const MigrateOptions& options,
                       const MigrateAction& action, const std::stop_token& stop,
                       MigratedDomain& migrated) {
  const std::string& uuid = action.domain.uuid;
  VR_ASSIGN_OR_RETURN(const DomainLock lock,
                      LockDomain(services, uuid, DomainLock::Use::kWork, stop));
  const MigrationStore store(services.state_directory, services.hypervisor.Uri());
  VR_ASSIGN_OR_RETURN(auto migration, store.Latest(uuid));
  const bool unfinished =
      migration && !IsOver(migration->place().step) &&
      (migration->place().step != MigrationStep::kDefined || action.changes.empty());
  if (!unfinished) {
    if (action.changes.empty()) return absl::OkStatus();
    VR_ASSIGN_OR_RETURN(migration, Begin(services, options, action, store, migrated));
  }
  MigrationRun run(services, uuid, RunOptionsOf(options, action.domain), *std::move(migration));
  absl::Status status;
  if (run.place().step == MigrationStep::kFixing)
    status = PrepareGuest(services, options, action, unfinished, stop, run);
  if (status.ok()) status = run.Continue(stop);
  Record(services, run, migrated);
  const MigrationPlace place = run.place();
  const bool undone =
      place.step == MigrationStep::kUndone || place.step == MigrationStep::kRolledBack;
  // What an earlier call had begun to undo is no success of this one.
  return status.ok() && undone ? absl::UnknownError(place.detail) : status;
}

MigratedDomain ApplyDomain(const Services& services, const MigrateOptions& options,
                           const MigrateAction& action, const std::stop_token& stop) {
  MigratedDomain migrated;
  migrated.domain = action.domain;
  migrated.outcome = OutcomeOf(action);
  if (migrated.outcome.kind != OutcomeKind::kDone) return migrated;
  if (options.power_cycle == PowerCycle::kWhenOff && IsUp(action.domain.state)) {
    if (HasWork(action)) {
      migrated.outcome.kind = OutcomeKind::kSkipped;
      migrated.outcome.reasons.push_back({Reason::kRunning, ""});
    }
    return migrated;
  }
  if (stop.stop_requested()) {
    if (HasWork(action)) migrated.outcome.kind = OutcomeKind::kCancelled;
    return migrated;
  }
  SetOutcome(ApplyInto(services, options, action, stop, migrated), migrated);
  if (!migrated.place) migrated.needs_power_cycle = action.power_cycle_pending;
  if (migrated.needs_power_cycle && migrated.changes.empty() &&
      migrated.outcome.kind == OutcomeKind::kDone) {
    std::vector<Blocker>& reasons = migrated.outcome.reasons;
    if (action.unsafe_power_cycle) {
      reasons.insert(reasons.end(), action.risks.begin(), action.risks.end());
    } else {
      reasons.push_back({Reason::kPowerCyclePending, ""});
    }
  }
  return migrated;
}

absl::Status RollBackOne(const Services& services, const MigrateOptions& options,
                         const DomainSummary& domain, const std::stop_token& stop,
                         MigrationRun& run) {
  if (stop.stop_requested()) return absl::CancelledError("interrupted");
  if (run.place().step == MigrationStep::kFixing)
    return PutGuestBack(services, options, domain, /*all=*/options.fix_guest, stop, run);
  VR_RETURN_IF_ERROR(run.RollBack("asked for", stop));
  VR_RETURN_IF_ERROR(run.Continue(stop));
  if (!options.fix_guest) return absl::OkStatus();
  // An initramfs that is made on the new bus may lack the drivers of the old one.
  if (LiveIsOlder(services, run, domain.uuid)) {
    return absl::FailedPreconditionError(
        "rolled back, but the guest's files were not put back: it runs on its new bus until a "
        "power cycle");
  }
  VR_ASSIGN_OR_RETURN(const bool on_scsi, WasOnScsi(run));
  if (on_scsi) {
    return absl::FailedPreconditionError(
        "rolled back, but the guest's files were not put back: disks of it are still on the SCSI "
        "bus, and what was prepared for them would be taken back, too; it does no harm");
  }
  return UnfixGuest(services, options, domain, stop);
}

// What `act` makes of each selected domain that has a migration, under its lock.
absl::StatusOr<std::vector<MigratedDomain>> ForEachMigrated(
    const Services& services, const MigrateOptions& options, bool locked,
    const std::stop_token& stop,
    const std::function<absl::Status(MigrationRun&, MigratedDomain&)>& act) {
  SelectedOfPlan selected;
  if (options.plan) {
    VR_ASSIGN_OR_RETURN(selected, SelectOfPlan(services, options));
  } else {
    VR_ASSIGN_OR_RETURN(selected.there, SelectDomains(services.hypervisor, options.domains));
  }
  const MigrationStore store(services.state_directory, services.hypervisor.Uri());
  std::vector<MigratedDomain> all;
  for (const DomainSummary& domain : selected.gone) {
    MigratedDomain& migrated = all.emplace_back();
    migrated.domain = domain;
    SetOutcome(absl::NotFoundError("it is gone"), migrated);
  }
  for (const DomainSummary& domain : selected.there) {
    MigratedDomain migrated;
    migrated.domain = domain;
    migrated.outcome.asked_for = !options.domains.empty();
    const absl::Status status = [&]() -> absl::Status {
      std::optional<DomainLock> lock;
      if (locked) {
        VR_ASSIGN_OR_RETURN(lock, LockDomain(services, domain.uuid, DomainLock::Use::kWork, stop));
      }
      VR_ASSIGN_OR_RETURN(auto migration, store.Latest(domain.uuid));
      if (!migration) {
        migrated.outcome.kind = OutcomeKind::kSkipped;
        migrated.outcome.reasons.push_back({Reason::kNotMigrated, ""});
        return absl::OkStatus();
      }
      MigrationRun run(services, domain.uuid, RunOptionsOf(options, domain), *std::move(migration));
      const absl::Status acted = act(run, migrated);
      Record(services, run, migrated);
      return acted;
    }();
    if (migrated.outcome.kind == OutcomeKind::kDone) SetOutcome(status, migrated);
    // Domains without a migration are only worth a line to those who named them.
    if (migrated.place || migrated.outcome.asked_for ||
        migrated.outcome.kind != OutcomeKind::kSkipped) {
      all.push_back(std::move(migrated));
    }
  }
  return all;
}

// Where a migration was left whose domain is gone since: nobody else would tell.
absl::Status AddUndefined(const Services& services, std::vector<MigratedDomain>& all) {
  const MigrationStore store(services.state_directory, services.hypervisor.Uri());
  VR_ASSIGN_OR_RETURN(const std::vector<std::string> uuids, store.Domains());
  VR_ASSIGN_OR_RETURN(const std::vector<DomainSummary> there, services.hypervisor.ListDomains());
  for (const std::string& uuid : uuids) {
    const auto is_it = [&](const DomainSummary& domain) { return domain.uuid == uuid; };
    if (std::any_of(there.begin(), there.end(), is_it)) continue;
    const auto migration = store.Latest(uuid);
    if (!migration.ok() || !*migration) continue;
    const MigrationPlace place = (*migration)->place();
    if (IsOver(place.step) || place.step == MigrationStep::kDefined) continue;
    MigratedDomain& migrated = all.emplace_back();
    migrated.domain = {uuid, uuid, DomainState::kUnknown, true};
    const auto old_xml = (*migration)->OldXml();
    const auto old = old_xml.ok() ? xml::ParseDomain(*old_xml) : old_xml.status();
    if (old.ok() && !old->name.empty()) migrated.domain.name = old->name;
    migrated.place = place;
    migrated.backup = (*migration)->old_xml_path();
    SetOutcome(absl::NotFoundError(absl::StrCat("it is gone; its definition of before is in '",
                                                migrated.backup, "'")),
               migrated);
  }
  return absl::OkStatus();
}

// Between two batches.
void Pause(const Services& services, absl::Duration pause, const std::stop_token& stop) {
  while (pause > absl::ZeroDuration() && !stop.stop_requested()) {
    const absl::Duration step = std::min(pause, kPauseStep);
    services.sleep(step);
    pause -= step;
  }
}

std::optional<Reason> WhyNoMore(const Services& services, const MigrateOptions& options,
                                size_t failures) {
  if (options.max_failures && failures > *options.max_failures) return Reason::kTooManyFailures;
  if (options.window && !IsOpen(*options.window, services.now(), absl::LocalTimeZone()))
    return Reason::kOutsideWindow;
  return std::nullopt;
}

MigratedDomain NotBegun(const MigrateAction& action, Reason why) {
  MigratedDomain left;
  left.domain = action.domain;
  left.outcome.kind = OutcomeKind::kSkipped;
  left.outcome.asked_for = true;
  left.outcome.reasons.push_back({why, ""});
  return left;
}

}  // namespace

std::vector<MigratedDomain> ApplyMigrate(const Services& services, const MigrateOptions& options,
                                         const std::vector<MigrateAction>& plan,
                                         const std::stop_token& stop) {
  std::vector<MigratedDomain> migrated(plan.size());
  std::vector<size_t> to_do;
  for (size_t i = 0; i < plan.size(); ++i) {
    if (HasWork(plan[i])) {
      to_do.push_back(i);
    } else {
      migrated[i] = ApplyDomain(services, options, plan[i], stop);
    }
  }
  size_t failures = 0;
  for (size_t begin = 0; begin < to_do.size(); begin += options.batch) {
    if (begin > 0) Pause(services, options.pause, stop);
    const size_t count = std::min(options.batch, to_do.size() - begin);
    const std::optional<Reason> obstacle = WhyNoMore(services, options, failures);
    ForEachInParallel(count, options.parallel, [&](size_t offset) {
      const size_t i = to_do[begin + offset];
      migrated[i] =
          obstacle ? NotBegun(plan[i], *obstacle) : ApplyDomain(services, options, plan[i], stop);
    });
    for (size_t offset = 0; offset < count; ++offset) {
      const Outcome& outcome = migrated[to_do[begin + offset]].outcome;
      failures += outcome.kind == OutcomeKind::kFailed ? 1 : 0;
    }
  }
  return migrated;
}

absl::StatusOr<std::vector<MigratedDomain>> VerifyMigrated(const Services& services,
                                                           const MigrateOptions& options,
                                                           const std::stop_token& stop) {
  return ForEachMigrated(
      services, options, true, stop,
      [&](MigrationRun& run, MigratedDomain& migrated) -> absl::Status {
        if (!IsOver(run.place().step)) VR_RETURN_IF_ERROR(run.Continue(stop));
        const MigrationStep step = run.place().step;
        if (step == MigrationStep::kUndone || step == MigrationStep::kRolledBack) {
          migrated.outcome.kind = OutcomeKind::kSkipped;
          migrated.outcome.reasons.push_back({Reason::kNotMigrated, std::string(Name(step))});
          return absl::OkStatus();
        }
        VR_ASSIGN_OR_RETURN(const DomainState state,
                            services.hypervisor.State(migrated.domain.uuid));
        if (!IsUp(state) || LiveIsOlder(services, run, migrated.domain.uuid)) {
          migrated.outcome.kind = OutcomeKind::kSkipped;
          migrated.outcome.reasons.push_back(
              {IsUp(state) ? Reason::kPowerCyclePending : Reason::kNotRunning, ""});
          return absl::OkStatus();
        }
        VR_ASSIGN_OR_RETURN(const std::string remark, run.Verify(stop));
        run.Probe(stop);
        // An agent that answers now says that the guest is up, though not that nothing is missing.
        if (!remark.empty() && run.probed().empty()) {
          migrated.outcome.kind = OutcomeKind::kSkipped;
          migrated.outcome.reasons.push_back({Reason::kNotVerified, remark});
          return absl::OkStatus();
        }
        return run.MarkVerified(remark);
      });
}

absl::StatusOr<std::vector<MigratedDomain>> RollBackMigrated(const Services& services,
                                                             const MigrateOptions& options,
                                                             const std::stop_token& stop) {
  return ForEachMigrated(services, options, true, stop,
                         [&](MigrationRun& run, MigratedDomain& migrated) {
                           return RollBackOne(services, options, migrated.domain, stop, run);
                         });
}

absl::StatusOr<std::vector<MigratedDomain>> MigrationStatus(const Services& services,
                                                            const MigrateOptions& options) {
  auto all = ForEachMigrated(
      services, options, false, {}, [&](MigrationRun& run, MigratedDomain&) -> absl::Status {
        const MigrationPlace place = run.place();
        if (place.step == MigrationStep::kDone || place.step == MigrationStep::kDefined)
          return absl::OkStatus();
        return absl::UnknownError(place.detail.empty() ? std::string(Name(place.step))
                                                       : place.detail);
      });
  if (all.ok() && !options.plan && options.domains.empty())
    VR_RETURN_IF_ERROR(AddUndefined(services, *all));
  return all;
}

}  // namespace virt_reclaim
