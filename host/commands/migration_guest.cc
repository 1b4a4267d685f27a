#include "host/commands/migration_guest.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/commands/migrate_images.h"
#include "host/commands/migration_run.h"
#include "host/commands/offline_facts.h"
#include "host/model/same_definition.h"

namespace virt_reclaim {
namespace {

constexpr absl::Duration kPreflightTimeout = absl::Minutes(1);
constexpr absl::string_view kMovedBefore =
    "an earlier definition moves disks to another bus with the same power cycle, and rolling this "
    "migration back would not move them back";

bool HasLvm(const std::vector<GuestFilesystem>& filesystems) {
  return std::any_of(filesystems.begin(), filesystems.end(), [](const GuestFilesystem& one) {
    return std::any_of(one.devices.begin(), one.devices.end(), [](const GuestDevice& device) {
      return device.kind == GuestDeviceKind::kLvm;
    });
  });
}

// The buses in `to` of disks that are, by their images, on another one in `from`.
std::set<std::string> BusesOfMoved(const xml::Domain& from, const xml::Domain& to) {
  std::set<std::string> buses;
  for (const xml::Disk& disk : from.disks) {
    if (disk.device != "disk" || disk.source.path.empty()) continue;
    for (const xml::Disk& other : to.disks) {
      if (other.device == "disk" && other.source.path == disk.source.path && other.bus != disk.bus)
        buses.insert(other.bus);
    }
  }
  return buses;
}

bool MovesDisks(const xml::Domain& from, const xml::Domain& to) {
  return !BusesOfMoved(from, to).empty();
}

}  // namespace

void AskGuest(const Services& services, const DomainSummary& domain, bool locked,
              const std::stop_token& stop, MigrationFacts& facts) {
  const DomainFacts running = {domain, *facts.live, {}};  // its disks are not asked about
  AgentAccess access =
      locked ? OpenAgentLocked(services, running, kRunAgentTimeout, stop)
             : OpenAgent(services, running, DomainLock::Use::kLook, kPlanAgentTimeout, stop);
  if (!access.session) {
    const Blocker& blocker = *access.blocker;
    if (blocker.reason == Reason::kBusy) {
      facts.guest_unknown = blocker;
    } else {
      facts.guest_unknown.detail = std::string(Sentence(blocker.reason));
    }
    return;
  }
  facts.agent_answers = true;
  GuestAgent& agent = *access.session->agent;
  auto preflight = agent.Preflight(kPreflightTimeout, stop);
  if (preflight.ok()) {
    facts.guest = *std::move(preflight);
    if (facts.guest->lvm_issue_discards == GuestSetting::kUnknown) return;
    const auto filesystems = agent.ListFilesystems(kListingTimeout, stop);
    facts.guest_has_lvm = filesystems.ok() && HasLvm(*filesystems);
  } else {
    facts.guest_unknown.detail = absl::IsUnimplemented(preflight.status())
                                     ? "its agent is older than this program"
                                     : std::string(preflight.status().message());
  }
}

std::multiset<std::string> BusesOf(const xml::Domain& domain) {
  std::multiset<std::string> found;
  for (const xml::Disk& disk : domain.disks) found.insert(disk.bus);
  return found;
}

std::optional<Blocker> DiskLost(const xml::Domain& live, const xml::Domain& to) {
  for (const xml::Disk& disk : live.disks) {
    if (disk.device == "cdrom" || disk.device == "floppy" || disk.source.path.empty()) continue;
    const bool stays = std::any_of(to.disks.begin(), to.disks.end(), [&](const xml::Disk& other) {
      return other.source.path == disk.source.path;
    });
    if (stays) continue;
    return Blocker{Reason::kDefinitionPending,
                   absl::StrCat("it runs with '", Printable(disk.source.path), "' as ",
                                Printable(disk.target), ", which its definition does not name")};
  }
  return std::nullopt;
}

absl::StatusOr<PowerCycleCheck> CheckPowerCycle(const Services& services,
                                                const DomainSummary& domain,
                                                const StoredMigration& migration, bool locked,
                                                const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const std::string old_xml, migration.OldXml());
  VR_ASSIGN_OR_RETURN(const std::string new_xml, migration.NewXml());
  VR_ASSIGN_OR_RETURN(const std::string live_xml,
                      services.hypervisor.DomainXml(domain.uuid, Hypervisor::Xml::kLive));
  VR_ASSIGN_OR_RETURN(const xml::Domain before, xml::ParseDomain(old_xml));
  VR_ASSIGN_OR_RETURN(const xml::Domain after, xml::ParseDomain(new_xml));
  MigrationFacts facts;
  VR_ASSIGN_OR_RETURN(facts.live, xml::ParseDomain(live_xml));
  PowerCycleCheck check;
  if (SameWhereItMatters(after, *facts.live)) return check;
  check.answered = true;
  if (auto lost = DiskLost(*facts.live, after)) {
    check.blockers.push_back(*std::move(lost));
    return check;
  }
  // What waits may be more than this migration's own change.
  if (BusesOf(before) == BusesOf(after) && !MovesDisks(*facts.live, after)) return check;
  if (MovesDisks(*facts.live, before)) {
    check.blockers.push_back({Reason::kDefinitionPending, std::string(kMovedBefore)});
    return check;
  }
  AskGuest(services, domain, locked, stop, facts);
  check.answered = facts.guest.has_value();
  if (check.answered) {
    check.blockers = JudgeMove(*facts.guest);
  } else {
    check.blockers.push_back(facts.guest_unknown);
  }
  return check;
}

std::vector<Blocker> CheckMoveBack(const Services& services, const DomainSummary& domain,
                                   const xml::Domain& here, const xml::Domain& old,
                                   const std::stop_token& stop) {
  const std::set<std::string> buses = BusesOfMoved(here, old);
  if (buses.empty()) return {};
  MigrationFacts facts;
  const bool is_off = domain.state == DomainState::kShutOff;
  if (is_off) {
    facts.saved = here;
    if (!ReadOfflineFacts(services, domain, /*locked=*/true, stop, facts).ok()) return {};
  } else {
    facts.live = here;
    AskGuest(services, domain, /*locked=*/true, stop, facts);
  }
  if (!facts.guest) return {};
  return JudgeMoveBack(*facts.guest, is_off, buses);
}

std::string BlockersText(const std::vector<Blocker>& blockers) {
  if (blockers.empty()) return "";
  const Blocker& first = blockers.front();
  std::string text(Code(first.reason));
  if (!first.detail.empty()) absl::StrAppend(&text, " (", first.detail, ")");
  if (blockers.size() > 1) absl::StrAppend(&text, " and ", blockers.size() - 1, " more");
  return text;
}

}  // namespace virt_reclaim
