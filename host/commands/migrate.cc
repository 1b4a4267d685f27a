#include "host/commands/migrate.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/commands/migrate_images.h"
#include "host/commands/migration_guest.h"
#include "host/commands/offline_facts.h"
#include "host/services/migration_store.h"
#include "host/services/state_path.h"
#include "xml-tools/pending.h"

namespace virt_reclaim {
namespace {

constexpr absl::string_view kGuestUnchecked = "guest-unchecked";

bool IsUp(const DomainSummary& domain) {
  return domain.state == DomainState::kRunning || domain.state == DomainState::kPaused;
}

// True when the running domain would still change under the rewriter: the new definition waits for
// a power cycle.
bool LiveIsOlder(const Services& services, const MigrateOptions& options,
                 const MigrateAction& action) {
  if (!IsUp(action.domain)) return false;
  auto live = services.hypervisor.DomainXml(action.domain.uuid, Hypervisor::Xml::kLive);
  if (!live.ok()) return false;
  auto rewritten = RewriteFor(services, options, action.excluded, *live);
  return rewritten.ok() && !rewritten->changes.empty();
}

absl::Status CollectMigrationFacts(const Services& services, const MigrateAction& action,
                                   const MigrationChange& change, bool locked,
                                   const std::stop_token& stop,
                                   const MigrateProgress& reading_disks, MigrationFacts& facts) {
  const DomainSummary& domain = action.domain;
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
    facts.machines = *machines;
  }
  if (!IsUp(domain)) {
    facts.guest_is_off = true;
    facts.guest_unknown.detail = std::string(Sentence(Reason::kNotRunning));
    if (!DependsOnGuest(change)) return absl::OkStatus();
    if (reading_disks && services.offline_guest != nullptr) reading_disks(domain, "reading disks");
    return ReadOfflineFacts(services, domain, locked, stop, facts);
  }
  VR_ASSIGN_OR_RETURN(const std::string live,
                      hypervisor.DomainXml(domain.uuid, Hypervisor::Xml::kLive));
  VR_ASSIGN_OR_RETURN(facts.live, xml::ParseDomain(live));
  VR_ASSIGN_OR_RETURN(facts.pending, xml::FirstPending(action.before, live));
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
    const bool moved = std::find(change.moved_disks.begin(), change.moved_disks.end(),
                                 disk.target) != change.moved_disks.end();
    if (disk.bus == "virtio" && !moved && TouchesDisk(changes, disk.target))
      change.uses_virtio_blk = true;
  }
  return change;
}

absl::Status RewriteInto(const Services& services, const MigrateOptions& options,
                         MigrateAction& action) {
  VR_ASSIGN_OR_RETURN(xml::Rewritten rewritten,
                      RewriteFor(services, options, action.excluded, action.before));
  action.after = std::move(rewritten.text);
  action.changes = std::move(rewritten.changes);
  action.refusals = std::move(rewritten.refusals);
  action.warnings = std::move(rewritten.warnings);
  // The filter cannot look into a guest; the preflight does.
  std::erase_if(action.warnings,
                [](const xml::Refusal& warning) { return warning.reason == kGuestUnchecked; });
  return absl::OkStatus();
}

// Takes the disks out of the change whose images forbid it.
absl::Status JudgeImagesInto(const Services& services, const MigrateOptions& options,
                             StoragesBelow& storages, const std::stop_token& stop,
                             MigrateAction& action) {
  VR_ASSIGN_OR_RETURN(const JudgedImages judged,
                      JudgeImages(services, options, action, storages, stop));
  action.risks.insert(action.risks.end(), judged.risks.begin(), judged.risks.end());
  for (const xml::Refusal& refusal : judged.refusals) action.excluded.push_back(refusal.target);
  if (!action.excluded.empty()) VR_RETURN_IF_ERROR(RewriteInto(services, options, action));
  action.refusals.insert(action.refusals.end(), judged.refusals.begin(), judged.refusals.end());
  action.images = IdentitiesOf(services, judged.facts, action.changes);
  return absl::OkStatus();
}

// What the journal of the domain asks for; true when that is a way back. One that cannot be read
// stops apply before it acts.
bool GoesBack(const Services& services, const MigrateOptions& options, MigrateAction& action) {
  const MigrationStore store(services.state_directory, services.hypervisor.Uri());
  const auto latest = store.Latest(action.domain.uuid);
  if (!latest.ok() || !*latest || IsOver((*latest)->place().step)) return false;
  const MigrationStep step = (*latest)->place().step;
  // It waits for a power cycle, or for a change that is made anew.
  action.goes_on = step != MigrationStep::kDefined ||
                   (action.changes.empty() && options.power_cycle == PowerCycle::kShutdown &&
                    action.domain.state == DomainState::kRunning);
  return IsGoingBack(step);
}

// What waits for a power cycle may have waited for days, and its guest may have another kernel by
// now.
absl::Status JudgePowerCycle(const Services& services, const std::stop_token& stop,
                             MigrateAction& action) {
  const MigrationStore store(services.state_directory, services.hypervisor.Uri());
  const auto latest = store.Latest(action.domain.uuid);
  if (!latest.ok() || !*latest || (*latest)->place().step != MigrationStep::kDefined)
    return absl::OkStatus();
  const auto check = CheckPowerCycle(services, action.domain, **latest, /*locked=*/false, stop);
  if (!check.ok()) return action.goes_on ? check.status() : absl::OkStatus();
  action.unsafe_power_cycle = !check->blockers.empty();
  std::vector<Blocker>& said = action.goes_on ? action.blockers : action.risks;
  said.insert(said.end(), check->blockers.begin(), check->blockers.end());
  return absl::OkStatus();
}

absl::Status PlanInto(const Services& services, const MigrateOptions& options,
                      StoragesBelow& storages, const std::stop_token& stop, MigrateAction& action) {
  VR_ASSIGN_OR_RETURN(
      action.before, services.hypervisor.DomainXml(action.domain.uuid, Hypervisor::Xml::kInactive));
  VR_RETURN_IF_ERROR(xml::ParseDomain(action.before).status());
  if (const absl::Status status = RewriteInto(services, options, action); !status.ok()) {
    if (absl::IsNotFound(status)) return status;  // --disk names none of its disks
    action.blockers.push_back({Reason::kRewriteRefused, Printable(status.message())});
    return absl::OkStatus();
  }
  if (!action.changes.empty())
    VR_RETURN_IF_ERROR(JudgeImagesInto(services, options, storages, stop, action));
  const bool goes_back = GoesBack(services, options, action);
  if (action.changes.empty()) {
    action.power_cycle_pending = LiveIsOlder(services, options, action);
    if (!IsUp(action.domain)) return absl::OkStatus();
    return JudgePowerCycle(services, stop, action);
  }
  // Nothing that would stop a change may stop the way back from one: the guest may be off by now,
  // and nobody can be asked.
  if (goes_back) return absl::OkStatus();
  VR_ASSIGN_OR_RETURN(const MigrationJudgement judgement,
                      Preflight(services, options, action, /*locked=*/false, stop));
  action.blockers = judgement.blockers;
  action.risks.insert(action.risks.end(), judgement.risks.begin(), judgement.risks.end());
  action.fixes = judgement.fixes;
  return absl::OkStatus();
}

// Refuses what is not as it was when the plan was saved. What has been applied since is no change.
void CompareWithPlan(const PlannedDomain& planned, MigrateAction& action) {
  if (!action.error.ok() || action.changes.empty()) return;
  const auto changed = [&](absl::string_view what) {
    action.blockers.push_back({Reason::kChangedSincePlan, std::string(what)});
  };
  if (Digest(action.before) != planned.before_digest) {
    changed("its definition");
  } else if (Digest(action.after) != planned.after_digest) {
    changed("what would be changed of it");
  }
  for (const PlannedImage& image : planned.images) {
    if (std::find(action.images.begin(), action.images.end(), image) == action.images.end())
      changed(absl::StrCat("the image of ", Printable(image.target)));
  }
}

bool IsNamed(const PlannedDomain& planned, const std::string& name) {
  return planned.name == name || planned.uuid == name;
}

// One action for each domain to look at; what is in a saved plan and is gone has its blocker.
absl::StatusOr<std::vector<MigrateAction>> Select(const Services& services,
                                                  const MigrateOptions& options) {
  std::vector<MigrateAction> actions;
  const auto add = [&](const DomainSummary& domain) -> MigrateAction& {
    MigrateAction& action = actions.emplace_back();
    action.domain = domain;
    action.asked_for = !options.domains.empty() || options.plan;
    return action;
  };
  if (!options.plan) {
    VR_ASSIGN_OR_RETURN(const std::vector<DomainSummary> selected,
                        SelectDomains(services.hypervisor, options.domains));
    for (const DomainSummary& domain : selected) add(domain);
    return actions;
  }
  VR_ASSIGN_OR_RETURN(const SelectedOfPlan selected, SelectOfPlan(services, options));
  for (const DomainSummary& domain : selected.there) add(domain);
  for (const DomainSummary& domain : selected.gone)
    add(domain).blockers.push_back({Reason::kChangedSincePlan, "it is gone"});
  return actions;
}

}  // namespace

absl::StatusOr<SelectedOfPlan> SelectOfPlan(const Services& services,
                                            const MigrateOptions& options) {
  if (options.plan->hypervisor != services.hypervisor.Uri()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the plan is of '", Printable(options.plan->hypervisor), "', not of '",
                     services.hypervisor.Uri(), "'"));
  }
  const std::vector<PlannedDomain>& domains = options.plan->domains;
  for (const std::string& name : options.domains) {
    const auto is_it = [&](const PlannedDomain& planned) { return IsNamed(planned, name); };
    if (std::none_of(domains.begin(), domains.end(), is_it))
      return absl::NotFoundError(absl::StrCat("no domain '", Printable(name), "' in the plan"));
  }
  VR_ASSIGN_OR_RETURN(const std::vector<DomainSummary> all, services.hypervisor.ListDomains());
  SelectedOfPlan selected;
  for (const PlannedDomain& planned : domains) {
    const auto names_it = [&](const std::string& name) { return IsNamed(planned, name); };
    if (!options.domains.empty() &&
        std::none_of(options.domains.begin(), options.domains.end(), names_it)) {
      continue;
    }
    const auto found = std::find_if(all.begin(), all.end(), [&](const DomainSummary& domain) {
      return domain.uuid == planned.uuid;
    });
    if (found != all.end()) {
      selected.there.push_back(*found);
    } else {
      selected.gone.push_back({planned.name, planned.uuid, DomainState::kUnknown, true});
    }
  }
  return selected;
}

absl::StatusOr<std::vector<PlannedImage>> ImagesOf(const Services& services,
                                                   const DomainSummary& domain,
                                                   const std::vector<xml::Change>& changes) {
  VR_ASSIGN_OR_RETURN(const DomainFacts facts,
                      CollectDomain(services, domain, Hypervisor::Xml::kInactive));
  return IdentitiesOf(services, facts, changes);
}

absl::StatusOr<xml::Rewritten> RewriteFor(const Services& services, const MigrateOptions& options,
                                          const std::vector<std::string>& excluded,
                                          const std::string& text) {
  xml::RewriteOptions rewrite = options.rewrite;
  rewrite.excluded = excluded;
  const auto raises = [](const xml::Rewritten& rewritten) {
    return std::any_of(rewritten.changes.begin(), rewritten.changes.end(),
                       [](const xml::Change& change) { return change.what == "machine"; });
  };
  const bool raise_no_further = rewrite.machine == xml::MachinePolicy::kAuto;
  xml::Rewritten plain;
  if (raise_no_further || rewrite.machine == xml::MachinePolicy::kKeep) {
    VR_ASSIGN_OR_RETURN(plain, xml::Rewrite(text, rewrite));
    if (!raise_no_further || !raises(plain)) return plain;
  }
  VR_ASSIGN_OR_RETURN(const xml::Domain domain, xml::ParseDomain(text));
  VR_ASSIGN_OR_RETURN(const xml::HostMachines machines,
                      services.hypervisor.MachineTypes(domain.arch, domain.type));
  rewrite.known_machines = machines.names;
  VR_ASSIGN_OR_RETURN(xml::Rewritten known, xml::Rewrite(text, rewrite));
  // A host that has none that would do is the preflight's to refuse, by the name of the type.
  return raise_no_further && !raises(known) ? plain : known;
}

absl::StatusOr<MigrationJudgement> Preflight(const Services& services,
                                             const MigrateOptions& options,
                                             const MigrateAction& action, bool locked,
                                             const std::stop_token& stop) {
  MigrationFacts facts;
  VR_ASSIGN_OR_RETURN(facts.saved, xml::ParseDomain(action.before));
  MigrationChange change = ChangeOf(facts.saved, action.changes);
  VR_ASSIGN_OR_RETURN(change.after, xml::ParseDomain(action.after));
  change.fix_guest = options.fix_guest;
  change.assume = options.assume;
  change.power_cycle = options.power_cycle == PowerCycle::kShutdown;
  VR_RETURN_IF_ERROR(
      CollectMigrationFacts(services, action, change, locked, stop, options.progress, facts));
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
    // Not left out for what it is: whoever meant all domains meant it, too.
    outcome.asked_for |=
        std::any_of(action.blockers.begin(), action.blockers.end(),
                    [](const Blocker& blocker) { return blocker.reason == Reason::kBusy; });
  }
  return outcome;
}

bool HasWork(const MigrateAction& action) {
  return OutcomeOf(action).kind == OutcomeKind::kDone &&
         (!action.changes.empty() || action.goes_on);
}

bool NeedsPowerCycle(const MigrateAction& action) {
  return IsUp(action.domain) && !action.changes.empty() &&
         OutcomeOf(action).kind == OutcomeKind::kDone;
}

absl::StatusOr<std::vector<MigrateAction>> PlanMigrate(const Services& services,
                                                       const MigrateOptions& options,
                                                       const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(std::vector<MigrateAction> plan, Select(services, options));
  StoragesBelow storages(services);
  // A guest that is asked takes its time.
  ForEachInParallel(plan.size(), options.parallel, [&](size_t i) {
    MigrateAction& action = plan[i];
    if (stop.stop_requested() || !action.blockers.empty()) return;
    action.error = PlanInto(services, options, storages, stop, action);
    if (!options.plan) return;
    for (const PlannedDomain& planned : options.plan->domains) {
      if (planned.uuid == action.domain.uuid) CompareWithPlan(planned, action);
    }
  });
  if (stop.stop_requested()) return absl::CancelledError("interrupted");
  return plan;
}

PlanFile PlanFileOf(const Services& services, const MigrateOptions& options,
                    const std::vector<MigrateAction>& plan) {
  PlanFile file;
  file.hypervisor = services.hypervisor.Uri();
  file.time = services.now();
  file.rewrite = options.rewrite;
  file.fix_guest = options.fix_guest;
  file.allow_thick = options.allow_thick;
  file.assume = options.assume;
  for (const MigrateAction& action : plan) {
    if (OutcomeOf(action).kind != OutcomeKind::kDone || action.changes.empty()) continue;
    file.domains.push_back({action.domain.name, action.domain.uuid, Digest(action.before),
                            Digest(action.after), action.images});
  }
  return file;
}

}  // namespace virt_reclaim
