// The way back of a migration: who may take it, how the guest is stopped for it, and how the old
// definition is put back.
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/commands/migration_run.h"
#include "host/services/state_path.h"
#include "xml-tools/stored.h"

namespace virt_reclaim {
namespace {

// A guest whose disks are silent for this long, and that answers nothing, is dead.
constexpr absl::Duration kDeathWatch = absl::Seconds(10);

}  // namespace

absl::Status MigrationRun::RollBack(const std::string& why, const std::stop_token& stop) {
  const MigrationPlace here = place();
  const bool is_coming_back =
      here.step == MigrationStep::kRollingBack || here.step == MigrationStep::kRestored;
  const bool is_back = is_coming_back || here.step == MigrationStep::kUndone ||
                       here.step == MigrationStep::kRolledBack;
  VR_ASSIGN_OR_RETURN(const DomainState state, services_.hypervisor.State(uuid_));
  const bool runs = state == DomainState::kRunning;
  if (is_back) {
    // An earlier call may have been told to leave the guest under its new definition.
    if (!options_.power_cycle || !runs || (is_coming_back && here.stop_guest))
      return absl::OkStatus();
    VR_ASSIGN_OR_RETURN(const bool runs_new, RunsNew());
    if (!runs_new) return absl::OkStatus();
  }
  VR_RETURN_IF_ERROR(RequireOurs());
  const bool is_started =
      here.step == MigrationStep::kStarting || here.step == MigrationStep::kVerifying;
  const bool is_stopped = here.step == MigrationStep::kStopping;
  if (options_.power_cycle && runs && !is_started && !is_stopped)
    VR_RETURN_IF_ERROR(RequireStoppable(stop));
  if (state == DomainState::kShutOff && !is_started && !is_stopped)
    VR_RETURN_IF_ERROR(RequireBootable(stop));
  MigrationRecord record;
  record.step = MigrationStep::kRollingBack;
  record.detail = is_back ? here.detail : why;
  // libvirt shows one that we have started as paused until QEMU is there.
  record.stop_guest =
      options_.power_cycle && (runs || (is_started && state == DomainState::kPaused));
  // One that we have asked to go is to run again, whether it is gone by now or not yet.
  record.was_running =
      record.stop_guest || (here.was_running && (is_stopped || (is_started && !runs)));
  return Append(std::move(record));
}

absl::Status MigrationRun::BeginRollBack(const absl::Status& why, MigrationRecord record) {
  if (const absl::Status ours = RequireOurs(); !ours.ok()) {
    return absl::Status(why.code(),
                        absl::StrCat(why.message(), "; not rolled back: ", ours.message()));
  }
  failure_ = why;
  record.step = MigrationStep::kRollingBack;
  record.detail = Printable(why.message());
  record.was_running = true;
  return Append(std::move(record));
}

absl::Status MigrationRun::UndoDefine() {
  VR_RETURN_IF_ERROR(RequireOurs());
  VR_RETURN_IF_ERROR(RestoreOldXml());
  if (failure_.ok()) failure_ = absl::UnknownError(place().detail);
  return Append(MigrationStep::kUndone, place().detail);
}

absl::Status MigrationRun::PutBack(const std::stop_token& stop) {
  const MigrationPlace here = place();
  VR_RETURN_IF_ERROR(RequireOurs());
  if (here.stop_guest) VR_RETURN_IF_ERROR(StopForRollback(stop));
  VR_RETURN_IF_ERROR(RestoreOldXml());
  return Append(MigrationStep::kRestored, here.detail);
}

absl::Status MigrationRun::StartOld(const std::stop_token& stop) {
  const MigrationPlace here = place();
  std::string remark = here.detail;
  if (here.was_running) {
    VR_RETURN_IF_ERROR(WaitUntilItIsGone(stop));
    VR_ASSIGN_OR_RETURN(const bool off, IsOff());
    if (off) VR_RETURN_IF_ERROR(StartIt());
    const auto verified = Verify(stop);
    if (absl::IsCancelled(verified.status())) return verified.status();
    if (!verified.ok()) {
      absl::StrAppend(&remark, "; with the old definition: ", verified.status().message());
      if (failure_.ok()) failure_ = Annotate(verified.status(), "with the old definition");
    }
  }
  return Append(MigrationStep::kRolledBack, Printable(remark));
}

// ---- What the steps are made of.

// A guest that was asked to shut down before the rollback may still be on its way, and would be off
// when nobody looks any more. One that does not go by the deadline did not hear it.
absl::Status MigrationRun::WaitUntilItIsGone(const std::stop_token& stop) {
  bool asked = false;
  for (const MigrationRecord& record : migration_.journal()) {
    if (record.step == MigrationStep::kRollingBack) break;
    asked = record.step == MigrationStep::kStopping;
  }
  asked = asked && !place().stop_guest;
  for (const absl::Time end = services_.now() + options_.shutdown_timeout; services_.now() < end;) {
    VR_ASSIGN_OR_RETURN(const DomainState state, services_.hypervisor.State(uuid_));
    const bool goes =
        state == DomainState::kShuttingDown || (asked && state == DomainState::kRunning);
    if (!goes) break;
    if (stop.stop_requested()) return absl::CancelledError("interrupted");
    services_.sleep(kPoll);
  }
  return absl::OkStatus();
}

// Nobody has changed the definition since we made it, or it is the old one already.
absl::Status MigrationRun::RequireOurs() {
  std::string ours;
  bool undoing = false;
  for (const MigrationRecord& record : migration_.journal()) {
    undoing = record.step == MigrationStep::kUndoing;
    if ((record.step == MigrationStep::kDefined || undoing) && !record.after_digest.empty())
      ours = record.after_digest;
  }
  VR_ASSIGN_OR_RETURN(const std::string old_xml, migration_.OldXml());
  VR_ASSIGN_OR_RETURN(const std::string current,
                      services_.hypervisor.DomainXml(uuid_, Hypervisor::Xml::kInactiveWithSecrets));
  if (current == old_xml) return absl::OkStatus();
  // Journals of older versions do not say what libvirt stored in place of the new definition.
  if (undoing && ours.empty()) return absl::OkStatus();
  VR_ASSIGN_OR_RETURN(const std::string shown, Current());
  if (!ours.empty() && Digest(shown) == ours) return absl::OkStatus();
  VR_ASSIGN_OR_RETURN(const std::string from_old, xml::FirstDifference(old_xml, current));
  if (from_old.empty()) return absl::OkStatus();
  if (ours.empty()) {  // killed before libvirt's version was written down
    VR_ASSIGN_OR_RETURN(const std::string new_xml, migration_.NewXml());
    VR_ASSIGN_OR_RETURN(const std::string from_new, xml::FirstDifference(new_xml, current));
    if (from_new.empty()) return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("its definition was changed after the migration, and putting the old one back "
                   "would undo that, too; the old one is in '",
                   migration_.old_xml_path(), "'"));
}

// It has run for a while: others may have begun something with it, and its kernel and initramfs may
// be newer.
absl::Status MigrationRun::RequireStoppable(const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const std::string live_xml,
                      services_.hypervisor.DomainXml(uuid_, Hypervisor::Xml::kLive));
  VR_ASSIGN_OR_RETURN(const std::string old_xml, migration_.OldXml());
  VR_ASSIGN_OR_RETURN(const xml::Domain live, xml::ParseDomain(live_xml));
  VR_ASSIGN_OR_RETURN(const xml::Domain old, xml::ParseDomain(old_xml));
  VR_ASSIGN_OR_RETURN(std::vector<Blocker> blockers, services_.hypervisor.Activity(uuid_, live));
  if (auto lost = DiskLost(live, old)) blockers.push_back(*std::move(lost));
  if (blockers.empty()) {
    const DomainSummary domain = {"", uuid_, DomainState::kRunning, true};
    blockers = CheckMoveBack(services_, domain, live, old, stop);
    if (stop.stop_requested()) return absl::CancelledError("interrupted");
  }
  if (blockers.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("it cannot be shut down now: ", BlockersText(blockers), "; not rolled back"));
}

// What a guest that is off would not boot with is not put back.
absl::Status MigrationRun::RequireBootable(const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const std::string saved_xml,
                      services_.hypervisor.DomainXml(uuid_, Hypervisor::Xml::kInactive));
  VR_ASSIGN_OR_RETURN(const std::string old_xml, migration_.OldXml());
  VR_ASSIGN_OR_RETURN(const xml::Domain saved, xml::ParseDomain(saved_xml));
  VR_ASSIGN_OR_RETURN(const xml::Domain old, xml::ParseDomain(old_xml));
  const DomainSummary domain = {"", uuid_, DomainState::kShutOff, true};
  const std::vector<Blocker> blockers = CheckMoveBack(services_, domain, saved, old, stop);
  if (stop.stop_requested()) return absl::CancelledError("interrupted");
  if (blockers.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("it would not boot: ", BlockersText(blockers), "; not rolled back"));
}

absl::Status MigrationRun::RestoreOldXml() {
  VR_ASSIGN_OR_RETURN(const std::string old_xml, migration_.OldXml());
  VR_ASSIGN_OR_RETURN(const std::string current,
                      services_.hypervisor.DomainXml(uuid_, Hypervisor::Xml::kInactiveWithSecrets));
  if (current == old_xml) return absl::OkStatus();
  if (const absl::Status defined = services_.hypervisor.Define(old_xml); !defined.ok()) {
    return Annotate(defined, absl::StrCat("the old definition could not be put back; it is in '",
                                          migration_.old_xml_path(), "'"));
  }
  VR_ASSIGN_OR_RETURN(const std::string difference, DifferenceFrom(old_xml));
  if (difference.empty()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("libvirt stored something else (", difference,
                                          ") than the old definition, which is in '",
                                          migration_.old_xml_path(), "'"));
}

// A guest that lives is asked to go; only one that we started and that is dead loses its power: no
// agent answers, and its disks stand still. What cannot be told, and one that is paused, counts as
// alive.
absl::Status MigrationRun::StopForRollback(const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const bool off, IsOff());
  if (off) return absl::OkStatus();
  if (place().may_power_off) {
    VR_ASSIGN_OR_RETURN(const DomainState state, services_.hypervisor.State(uuid_));
    if (state == DomainState::kCrashed) return services_.hypervisor.PowerOff(uuid_);
    const auto before = DiskRequests();
    bool lives = state != DomainState::kRunning || !before.ok() || MissingMount(stop).ok() ||
                 AnswersPing(stop);
    for (const absl::Time end = services_.now() + kDeathWatch; !lives && services_.now() < end;) {
      if (stop.stop_requested()) return absl::CancelledError("interrupted");
      services_.sleep(kPoll * 4);
      const auto now = DiskRequests();
      lives = !now.ok() || *now != *before;
    }
    if (!lives) return services_.hypervisor.PowerOff(uuid_);
  } else {
    VR_RETURN_IF_ERROR(WaitUntilItIsThere(stop));
  }
  return ShutDownAndWait(/*ask=*/true, stop);
}

// A start that is not over yet; a domain that stays paused is left to the shutdown's time.
absl::Status MigrationRun::WaitUntilItIsThere(const std::stop_token& stop) {
  for (const absl::Time end = services_.now() + kStarting; services_.now() < end;) {
    VR_ASSIGN_OR_RETURN(const DomainState state, services_.hypervisor.State(uuid_));
    if (state != DomainState::kPaused) break;
    if (stop.stop_requested()) return absl::CancelledError("interrupted");
    services_.sleep(kPoll);
  }
  return absl::OkStatus();
}

bool MigrationRun::AnswersPing(const std::stop_token& stop) {
  return services_.hypervisor
      .QemuAgentCommand(uuid_, R"({"execute":"guest-ping"})", kRunAgentTimeout, stop)
      .ok();
}

}  // namespace virt_reclaim
