// `virt-reclaim migrate plan|apply|verify|rollback|status`: the smallest change of a domain's
// definition that lets discards reach the host, made, proved, and undone where it does not work.
//
// plan reads. apply begins a migration for each domain (migration_run.h): the old XML is saved, the
// new one defined with validation, what libvirt stored is read back and compared; where asked the
// guest is shut down, started and verified, and rolled back when it does not come back as it was.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_MIGRATE_H_
#define VIRT_RECLAIM_HOST_COMMANDS_MIGRATE_H_

#include <functional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "host/commands/collect.h"
#include "host/commands/migration_run.h"
#include "host/model/daily_window.h"
#include "host/model/migration_judge.h"
#include "host/model/outcome.h"
#include "host/services/plan_file.h"
#include "xml-tools/rewrite.h"

namespace virt_reclaim {

enum class PowerCycle {
  kNever,     // only define; a running domain goes on as it is until its next shutdown and start
  kShutdown,  // shut a running guest down cleanly, start it, verify
  kWhenOff,   // only domains that are off
};

// Hears what is being done for which domain; called from several threads at once.
using MigrateProgress = std::function<void(const DomainSummary&, absl::string_view step)>;

struct MigrateOptions {
  std::vector<std::string> domains;  // empty: all (of the plan, when there is one)
  // A saved plan: its domains only, and only what is as it was then. Its policies are to be in the
  // fields below.
  std::optional<PlanFile> plan;
  xml::RewriteOptions rewrite;
  bool fix_guest = false;    // let the agent prepare a guest for a bus change
  bool allow_thick = false;  // preallocated images, too
  bool assume = false;       // what is not known of a guest is good; never for a bus change
  PowerCycle power_cycle = PowerCycle::kNever;
  MigrationRunOptions run;
  // How many domains are looked at, or go through their power cycles, side by side.
  size_t parallel = 8;
  // How many domains make a batch; after each the pause, and the count of failures is looked at.
  size_t batch = 1;
  std::optional<size_t> max_failures;  // no further batch after more than these; empty: no limit
  absl::Duration pause;                // between batches
  std::optional<DailyWindow> window;   // in which a batch may begin, in the host's time zone
  MigrateProgress progress;            // may be empty
};

// The plan for one domain, with what it was planned against.
struct MigrateAction {
  DomainSummary domain;
  std::string before;  // persistent XML without secrets: the identity, and what a diff may show
  std::string after;
  std::vector<xml::Change> changes;    // empty: nothing to do
  std::vector<xml::Refusal> refusals;  // disks that stay as they are
  std::vector<std::string> excluded;   // the targets of those that their images exclude
  std::vector<PlannedImage> images;    // of the disks that change
  std::vector<xml::Refusal> warnings;  // of disks that change, and yet may not pass discards
  std::vector<Blocker> blockers;       // not empty: the domain is not touched
  std::vector<Blocker> risks;          // to be known before it is
  std::vector<Blocker> fixes;          // what the agent is to put right in the guest before
  absl::Status error;                  // not OK: it could not be examined
  bool asked_for = false;              // the user named this domain
  bool power_cycle_pending = false;    // the running domain still works under an older definition
  // And after it the guest may not find its disks: why is among the risks; blockers, if it goes on.
  bool unsafe_power_cycle = false;
  bool goes_on = false;  // apply takes a migration further that was begun before
};

struct MigratedDomain {
  DomainSummary domain;
  Outcome outcome;
  std::vector<xml::Change> changes;     // made
  std::string backup;                   // path of the old XML
  std::optional<MigrationPlace> place;  // where its migration stands; empty: none was begun
  std::vector<ProbedDisk> probed;       // whether discards reach the host; empty: not looked at
  bool needs_power_cycle = false;
};

// xml::Rewrite with what this host has; the disks in `excluded` stay as they are.
absl::StatusOr<xml::Rewritten> RewriteFor(const Services& services, const MigrateOptions& options,
                                          const std::vector<std::string>& excluded,
                                          const std::string& text);

// The domains of the saved plan that `options` asks for. FailedPrecondition when it is a plan of
// another hypervisor, NotFound for a name that is not in it.
struct SelectedOfPlan {
  std::vector<DomainSummary> there, gone;
};
absl::StatusOr<SelectedOfPlan> SelectOfPlan(const Services& services,
                                            const MigrateOptions& options);

// The images of the disks that `changes` are about, by their identity now.
absl::StatusOr<std::vector<PlannedImage>> ImagesOf(const Services& services,
                                                   const DomainSummary& domain,
                                                   const std::vector<xml::Change>& changes);

// The preflight: facts of the domain, its host and its guest, judged against the action's changes.
// `locked`: the caller holds the domain's lock. The disks of a guest that is off are read when the
// judgement depends on it, which takes half a minute.
absl::StatusOr<MigrationJudgement> Preflight(const Services& services,
                                             const MigrateOptions& options,
                                             const MigrateAction& action, bool locked,
                                             const std::stop_token& stop);

// What the plan says, for the exit status: a domain that cannot be examined has failed, one with
// blockers is skipped.
Outcome OutcomeOf(const MigrateAction& action);

// Whether apply would do anything to the domain.
bool HasWork(const MigrateAction& action);
// The change would wait for a power cycle.
bool NeedsPowerCycle(const MigrateAction& action);

// FailedPrecondition: the saved plan in `options` is of another hypervisor.
absl::StatusOr<std::vector<MigrateAction>> PlanMigrate(const Services& services,
                                                       const MigrateOptions& options,
                                                       const std::stop_token& stop);

// The plan as it can be saved: of the domains that would be changed.
PlanFile PlanFileOf(const Services& services, const MigrateOptions& options,
                    const std::vector<MigrateAction>& plan);

// What an earlier call left unfinished is finished first, then batch by batch. A stop request is
// honoured between two steps of a domain, and nothing more is begun. In the order of the plan.
std::vector<MigratedDomain> ApplyMigrate(const Services& services, const MigrateOptions& options,
                                         const std::vector<MigrateAction>& plan,
                                         const std::stop_token& stop);

// For each selected domain that has a migration: goes on with it, or looks again whether the guest
// is as it was. A domain that still runs under its old definition is skipped (power-cycle-pending).
absl::StatusOr<std::vector<MigratedDomain>> VerifyMigrated(const Services& services,
                                                           const MigrateOptions& options,
                                                           const std::stop_token& stop);

// Puts the old definition of each selected domain back. A running guest keeps the new one until its
// next power cycle, unless `options` has one done; then `fix_guest` has the agent put the guest's
// files back, too, once it is on its old bus again.
absl::StatusOr<std::vector<MigratedDomain>> RollBackMigrated(const Services& services,
                                                             const MigrateOptions& options,
                                                             const std::stop_token& stop);

// Where each selected domain's last migration stands. Changes nothing. A rolled back or unfinished
// one counts as failed. Of all domains: also those that are gone in the middle of one.
absl::StatusOr<std::vector<MigratedDomain>> MigrationStatus(const Services& services,
                                                            const MigrateOptions& options);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_MIGRATE_H_
