#include "host/commands/migrate.h"

#include <algorithm>
#include <array>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/escape.h"
#include "base/io.h"
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

// A directory name from a URI: what is not a letter, digit, dot or dash becomes %XX.
std::string DirectoryName(absl::string_view uri) {
  std::string name;
  for (const char c : uri) {
    const auto byte = static_cast<unsigned char>(c);
    if (absl::ascii_isalnum(byte) || c == '-' || c == '.') {
      name += c;
    } else {
      name += absl::StrFormat("%%%02X", byte);
    }
  }
  constexpr size_t kNameMax = 255;
  return name.substr(0, kNameMax);
}

absl::StatusOr<std::string> SaveBackup(const Services& services, const std::string& uuid,
                                       const std::string& secret_xml) {
  const std::string directory = absl::StrCat(services.state_directory, "/xml/",
                                             DirectoryName(services.hypervisor.Uri()), "/", uuid);
  VR_RETURN_IF_ERROR(MakeDirectories(directory));
  const std::string stamp =
      absl::FormatTime("%Y%m%dT%H%M%E6SZ", services.now(), absl::UTCTimeZone());
  const std::string path = absl::StrCat(directory, "/", stamp, ".xml");
  VR_RETURN_IF_ERROR(WriteFileDurably(path, secret_xml, 0600));  // it may hold passwords
  return path;
}

// libvirt adds elements of its own; what we changed must read as we wrote it, and nothing may be
// left to change.
absl::Status CheckStored(const Services& services, const MigrateOptions& options,
                         const MigrateAction& action) {
  VR_ASSIGN_OR_RETURN(
      const std::string stored,
      services.hypervisor.DomainXml(action.domain.uuid, Hypervisor::Xml::kInactive));
  VR_ASSIGN_OR_RETURN(const xml::Domain wanted, xml::ParseDomain(action.after));
  VR_ASSIGN_OR_RETURN(const xml::Domain found, xml::ParseDomain(stored));
  VR_ASSIGN_OR_RETURN(const xml::Rewritten again, xml::Rewrite(stored, options.rewrite));
  const bool same_disks = std::equal(wanted.disks.begin(), wanted.disks.end(), found.disks.begin(),
                                     found.disks.end(), [](const xml::Disk& a, const xml::Disk& b) {
                                       return a.target == b.target && a.bus == b.bus &&
                                              a.discard == b.discard &&
                                              a.source.path == b.source.path;
                                     });
  if (!same_disks || wanted.machine != found.machine || !again.changes.empty()) {
    return absl::DataLossError("libvirt stored something else than what was defined");
  }
  return absl::OkStatus();
}

absl::Status ApplyInto(const Services& services, const MigrateOptions& options,
                       const MigrateAction& action, MigratedDomain& migrated) {
  Hypervisor& hypervisor = services.hypervisor;
  const std::string& uuid = action.domain.uuid;
  VR_ASSIGN_OR_RETURN(const DomainLock lock, DomainLock::Take(services.lock_directory, uuid));
  VR_ASSIGN_OR_RETURN(const std::string now,
                      hypervisor.DomainXml(uuid, Hypervisor::Xml::kInactive));
  if (now != action.before)
    return absl::FailedPreconditionError("its definition changed since it was planned");
  VR_ASSIGN_OR_RETURN(const std::string secret,
                      hypervisor.DomainXml(uuid, Hypervisor::Xml::kInactiveWithSecrets));
  VR_ASSIGN_OR_RETURN(const xml::Rewritten rewritten, xml::Rewrite(secret, options.rewrite));
  if (rewritten.changes.size() != action.changes.size()) {
    return absl::FailedPreconditionError("its definition changed since it was planned");
  }
  VR_ASSIGN_OR_RETURN(migrated.backup, SaveBackup(services, uuid, secret));
  VR_RETURN_IF_ERROR(hypervisor.Define(rewritten.text));
  if (absl::Status stored = CheckStored(services, options, action); !stored.ok()) {
    const absl::Status restored = hypervisor.Define(secret);
    return Annotate(stored,
                    restored.ok()
                        ? "the old definition was put back"
                        : absl::StrCat("the old definition is in '", migrated.backup,
                                       "' and could not be put back (", restored.message(), ")"));
  }
  migrated.changes = rewritten.changes;
  migrated.needs_power_cycle =
      action.domain.state == DomainState::kRunning || action.domain.state == DomainState::kPaused;
  return absl::OkStatus();
}

MigratedDomain ApplyDomain(const Services& services, const MigrateOptions& options,
                           const MigrateAction& action, const std::stop_token& stop) {
  MigratedDomain migrated;
  migrated.domain = action.domain;
  migrated.outcome = OutcomeOf(action);
  if (migrated.outcome.kind != OutcomeKind::kDone) return migrated;
  if (action.changes.empty()) {
    migrated.needs_power_cycle = action.power_cycle_pending;
    if (action.power_cycle_pending)
      migrated.outcome.reasons.push_back({Reason::kPowerCyclePending, ""});
  } else if (stop.stop_requested()) {
    migrated.outcome.kind = OutcomeKind::kCancelled;
  } else if (absl::Status status = ApplyInto(services, options, action, migrated);
             absl::IsAborted(status)) {
    migrated.outcome.kind = OutcomeKind::kSkipped;
    migrated.outcome.asked_for = true;
    migrated.outcome.reasons.push_back({Reason::kBusy, std::string(status.message())});
  } else if (!status.ok()) {
    migrated.outcome.kind = OutcomeKind::kFailed;
    migrated.outcome.error = status;
  }
  return migrated;
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

std::vector<MigratedDomain> ApplyMigrate(const Services& services, const MigrateOptions& options,
                                         const std::vector<MigrateAction>& plan,
                                         const std::stop_token& stop) {
  std::vector<MigratedDomain> migrated;
  for (const MigrateAction& action : plan)
    migrated.push_back(ApplyDomain(services, options, action, stop));
  return migrated;
}

}  // namespace virt_reclaim
