#include "host/commands/migrate.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/commands/offline_facts.h"

namespace virt_reclaim {
namespace {

constexpr absl::Duration kAgentTimeout = absl::Seconds(2);
constexpr absl::Duration kPreflightTimeout = absl::Minutes(1);

bool IsUp(const DomainSummary& domain) {
  return domain.state == DomainState::kRunning || domain.state == DomainState::kPaused;
}

// True when the running domain would still change under the rewriter: the new definition waits for
// a power cycle.
bool LiveIsOlder(const Services& services, const MigrateOptions& options,
                 const DomainSummary& domain) {
  if (!IsUp(domain)) return false;
  auto live = services.hypervisor.DomainXml(domain.uuid, Hypervisor::Xml::kLive);
  if (!live.ok()) return false;
  auto rewritten = RewriteFor(services, options, *live);
  return rewritten.ok() && !rewritten->changes.empty();
}

// Why there is nothing known of a guest, or what its agent says.
void AskGuest(const Services& services, const DomainSummary& domain, bool locked,
              const std::stop_token& stop, MigrationFacts& facts) {
  auto collected = CollectDomain(services, domain);
  if (!collected.ok()) {
    facts.guest_unknown = std::string(collected.status().message());
    return;
  }
  AgentAccess access = locked ? OpenAgentLocked(services, *collected, kAgentTimeout, stop)
                              : OpenAgent(services, *collected, kAgentTimeout, stop);
  if (!access.session) {
    facts.guest_unknown = std::string(Sentence(access.blocker->reason));
    return;
  }
  auto preflight = access.session->agent->Preflight(kPreflightTimeout, stop);
  if (preflight.ok()) {
    facts.guest = *std::move(preflight);
  } else {
    facts.guest_unknown = absl::IsUnimplemented(preflight.status())
                              ? "its agent is older than this program"
                              : std::string(preflight.status().message());
  }
}

// Whether the judgement depends on the guest, so that it is worth reading its disks.
bool NeedsGuest(const MigrationChange& change) {
  return !change.moved_disks.empty() || (change.uses_virtio_blk && !change.assume);
}

absl::Status CollectMigrationFacts(const Services& services, const DomainSummary& domain,
                                   const MigrationChange& change, bool locked,
                                   const std::stop_token& stop,
                                   const MigrateProgress& reading_disks, MigrationFacts& facts) {
  Hypervisor& hypervisor = services.hypervisor;
  facts.persistent = domain.persistent;
  const auto saved = hypervisor.HasManagedSave(domain.uuid);
  if (!saved.ok() && !absl::IsUnimplemented(saved.status())) return saved.status();
  if (saved.ok()) facts.managed_save = *saved;
  if (const auto snapshots = hypervisor.Snapshots(domain.uuid); snapshots.ok()) {
    facts.memory_snapshots = snapshots->with_memory;
    facts.checkpoints = snapshots->checkpoints;
  }
  if (const auto machines = hypervisor.MachineTypes(facts.saved.arch, facts.saved.type);
      machines.ok()) {
    facts.machine_types = *machines;
  }
  if (!IsUp(domain)) {
    facts.guest_is_off = true;
    facts.guest_unknown = std::string(Sentence(Reason::kNotRunning));
    if (!NeedsGuest(change)) return absl::OkStatus();
    if (reading_disks && services.offline_guest != nullptr) reading_disks(domain, "reading disks");
    return ReadOfflineFacts(services, domain, locked, stop, facts);
  }
  VR_ASSIGN_OR_RETURN(const std::string live,
                      hypervisor.DomainXml(domain.uuid, Hypervisor::Xml::kLive));
  VR_ASSIGN_OR_RETURN(facts.live, xml::ParseDomain(live));
  VR_ASSIGN_OR_RETURN(facts.activity, hypervisor.Activity(domain.uuid, *facts.live));
  AskGuest(services, domain, locked, stop, facts);
  return absl::OkStatus();
}

MigrationChange ChangeOf(const xml::Domain& before, const std::vector<xml::Change>& changes) {
  MigrationChange change;
  for (const xml::Change& one : changes) {
    if (one.what == "machine") change.machine = one.after;
    if (one.what == "bus") change.moved_disks.push_back(one.target);
  }
  for (const xml::Disk& disk : before.disks) {
    const auto touches = [&](const xml::Change& one) { return one.target == disk.target; };
    const bool moved = std::find(change.moved_disks.begin(), change.moved_disks.end(),
                                 disk.target) != change.moved_disks.end();
    if (disk.bus == "virtio" && !moved && std::any_of(changes.begin(), changes.end(), touches)) {
      change.uses_virtio_blk = true;
    }
  }
  return change;
}

absl::Status PlanInto(const Services& services, const MigrateOptions& options,
                      const std::stop_token& stop, MigrateAction& action) {
  const std::string& uuid = action.domain.uuid;
  VR_ASSIGN_OR_RETURN(action.before,
                      services.hypervisor.DomainXml(uuid, Hypervisor::Xml::kInactive));
  VR_ASSIGN_OR_RETURN(const xml::Domain domain, xml::ParseDomain(action.before));
  auto rewritten = RewriteFor(services, options, action.before);
  if (!rewritten.ok()) {
    action.blockers.push_back({Reason::kRewriteRefused, Printable(rewritten.status().message())});
    return absl::OkStatus();
  }
  action.after = std::move(rewritten->text);
  action.changes = std::move(rewritten->changes);
  action.refusals = std::move(rewritten->refusals);
  action.warnings = std::move(rewritten->warnings);
  if (action.changes.empty()) {
    action.power_cycle_pending = LiveIsOlder(services, options, action.domain);
    return absl::OkStatus();
  }
  VR_ASSIGN_OR_RETURN(const MigrationJudgement judgement,
                      Preflight(services, action.domain, domain, action.changes, options.fix_guest,
                                /*locked=*/false, stop, options.progress));
  action.blockers = judgement.blockers;
  action.risks = judgement.risks;
  action.fixes = judgement.fixes;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<xml::Rewritten> RewriteFor(const Services& services, const MigrateOptions& options,
                                          const std::string& text) {
  xml::RewriteOptions rewrite = options.rewrite;
  if (rewrite.machine == xml::MachinePolicy::kLatest ||
      rewrite.machine == xml::MachinePolicy::kNamed) {
    VR_ASSIGN_OR_RETURN(const xml::Domain domain, xml::ParseDomain(text));
    VR_ASSIGN_OR_RETURN(rewrite.known_machines,
                        services.hypervisor.MachineTypes(domain.arch, domain.type));
  }
  return xml::Rewrite(text, rewrite);
}

absl::StatusOr<MigrationJudgement> Preflight(const Services& services, const DomainSummary& domain,
                                             const xml::Domain& saved,
                                             const std::vector<xml::Change>& changes,
                                             bool fix_guest, bool locked,
                                             const std::stop_token& stop,
                                             const MigrateProgress& reading_disks) {
  MigrationFacts facts;
  facts.saved = saved;
  MigrationChange change = ChangeOf(saved, changes);
  change.fix_guest = fix_guest;
  VR_RETURN_IF_ERROR(
      CollectMigrationFacts(services, domain, change, locked, stop, reading_disks, facts));
  return Judge(facts, change);
}

Outcome OutcomeOf(const MigrateAction& action) {
  Outcome outcome;
  outcome.asked_for = action.asked_for;
  if (!action.error.ok()) {
    outcome.kind = OutcomeKind::kFailed;
    outcome.error = action.error;
  } else if (!action.blockers.empty()) {
    outcome.kind = OutcomeKind::kSkipped;
    outcome.reasons = action.blockers;
  }
  return outcome;
}

absl::StatusOr<std::vector<MigrateAction>> PlanMigrate(const Services& services,
                                                       const MigrateOptions& options,
                                                       const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const std::vector<DomainSummary> selected,
                      SelectDomains(services.hypervisor, options.domains));
  std::vector<MigrateAction> plan;
  for (const DomainSummary& domain : selected) {
    if (stop.stop_requested()) return absl::CancelledError("interrupted");
    MigrateAction action;
    action.domain = domain;
    action.asked_for = !options.domains.empty();
    action.error = PlanInto(services, options, stop, action);
    if (absl::IsCancelled(action.error)) return action.error;
    plan.push_back(std::move(action));
  }
  return plan;
}

}  // namespace virt_reclaim
