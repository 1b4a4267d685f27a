#include "host/commands/migrate.h"

#include <algorithm>
#include <array>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"

namespace virt_reclaim {
namespace {

// Managers that generate the XML at each start, so that an edit is lost or fought: metadata
// namespace (prefix) and name.
struct Manager {
  absl::string_view namespace_prefix;
  absl::string_view name;
};
constexpr std::array kManagers = std::to_array<Manager>({
    {"http://ovirt.org/vm/", "oVirt"},
    {"http://openstack.org/xmlns/libvirt/nova/", "OpenStack"},
    {"http://opennebula.org/xmlns/libvirt/", "OpenNebula"},
    {"http://kubevirt.io", "KubeVirt"},
    {"http://cloudstack.org/", "CloudStack"},
});

void AddManager(const xml::Domain& domain, std::vector<Blocker>& blockers) {
  for (const std::string& uri : domain.metadata_namespaces) {
    for (const Manager& manager : kManagers) {
      if (absl::StartsWith(uri, manager.namespace_prefix))
        blockers.push_back({Reason::kManaged, std::string(manager.name)});
    }
  }
}

// True when the running domain would still change under the rewriter: the new definition waits for
// a power cycle.
bool LiveIsOlder(const Services& services, const MigrateOptions& options,
                 const DomainSummary& domain) {
  if (domain.state != DomainState::kRunning && domain.state != DomainState::kPaused) return false;
  auto live = services.hypervisor.DomainXml(domain.uuid, Hypervisor::Xml::kLive);
  if (!live.ok()) return false;
  auto rewritten = xml::Rewrite(*live, options.rewrite);
  return rewritten.ok() && !rewritten->changes.empty();
}

absl::Status PlanInto(const Services& services, const MigrateOptions& options,
                      MigrateAction& action) {
  const std::string& uuid = action.domain.uuid;
  VR_ASSIGN_OR_RETURN(action.before,
                      services.hypervisor.DomainXml(uuid, Hypervisor::Xml::kInactive));
  VR_ASSIGN_OR_RETURN(const xml::Domain domain, xml::ParseDomain(action.before));
  auto rewritten = xml::Rewrite(action.before, options.rewrite);
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
  if (!action.domain.persistent) action.blockers.push_back({Reason::kTransient, ""});
  AddManager(domain, action.blockers);
  auto saved = services.hypervisor.HasManagedSave(uuid);
  if (saved.ok() && *saved) action.blockers.push_back({Reason::kManagedSave, ""});
  if (!saved.ok() && !absl::IsUnimplemented(saved.status())) return saved.status();
  return absl::OkStatus();
}

}  // namespace

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
    action.error = PlanInto(services, options, action);
    plan.push_back(std::move(action));
  }
  return plan;
}

}  // namespace virt_reclaim
