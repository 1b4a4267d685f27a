// `virt-reclaim migrate plan|apply`, first form: the smallest change of a domain's definition that
// lets discards reach the host.
//
// plan reads; apply saves the old XML, defines the new one with validation, reads back what libvirt
// stored and compares, and puts the old definition back when it differs. A running domain goes on
// as it is until its next shutdown and start.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_MIGRATE_H_
#define VIRT_RECLAIM_HOST_COMMANDS_MIGRATE_H_

#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "host/commands/collect.h"
#include "host/model/outcome.h"
#include "xml-tools/rewrite.h"

namespace virt_reclaim {

struct MigrateOptions {
  std::vector<std::string> domains;  // empty: all
  xml::RewriteOptions rewrite;
};

// The plan for one domain, with what it was planned against.
struct MigrateAction {
  DomainSummary domain;
  std::string before;  // persistent XML without secrets: the identity, and what a diff may show
  std::string after;
  std::vector<xml::Change> changes;    // empty: nothing to do
  std::vector<xml::Refusal> refusals;  // disks that stay as they are
  std::vector<xml::Refusal> warnings;  // of disks that change, and yet may not pass discards
  std::vector<Blocker> blockers;       // not empty: the domain is not touched
  absl::Status error;                  // not OK: it could not be examined
  bool asked_for = false;              // the user named this domain
  bool power_cycle_pending = false;    // the running domain still works under an older definition
};

struct MigratedDomain {
  DomainSummary domain;
  Outcome outcome;
  std::vector<xml::Change> changes;  // made
  std::string backup;                // path of the old XML
  bool needs_power_cycle = false;
};

// What the plan says, for the exit status: a domain that cannot be examined has failed, one with
// blockers is skipped.
Outcome OutcomeOf(const MigrateAction& action);

absl::StatusOr<std::vector<MigrateAction>> PlanMigrate(const Services& services,
                                                       const MigrateOptions& options,
                                                       const std::stop_token& stop);

// One domain after the other. A stop request is honoured between two domains, never inside one.
std::vector<MigratedDomain> ApplyMigrate(const Services& services, const MigrateOptions& options,
                                         const std::vector<MigrateAction>& plan,
                                         const std::stop_token& stop);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_MIGRATE_H_
