#include "host/commands/offline_facts.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/commands/domain_turn.h"

namespace virt_reclaim {
namespace {

// Ten times what an appliance without KVM takes on a busy machine.
constexpr absl::Duration kTimeout = absl::Seconds(300);
constexpr absl::string_view kInstead = "it is off: start it, or install virt-reclaim-guestfs";

// All disks of the guest, or why they cannot all be read: one that is missing may be half of a
// volume group.
absl::StatusOr<std::vector<OfflineDisk>> DisksOf(const Services& services,
                                                 const xml::Domain& domain) {
  if (!services.hypervisor.ImagesAreLocal()) {
    return absl::FailedPreconditionError("its disks are on another machine");
  }
  if (domain.boots_host_kernel) {
    return absl::FailedPreconditionError("its kernel is a file of the host");
  }
  std::vector<OfflineDisk> disks;
  for (const xml::Disk& disk : domain.disks) {
    if (disk.device != "disk" && disk.device != "lun") continue;
    const bool local = disk.source.type == "file" || disk.source.type == "block";
    if (!local || disk.source.path.empty() || disk.source.path[0] != '/') {
      return absl::FailedPreconditionError(
          absl::StrCat("disk '", Printable(disk.target), "' is no local file"));
    }
    // As libvirt takes it when nothing is said.
    disks.push_back({disk.source.format.empty() ? "raw" : disk.source.format, disk.source.path});
  }
  if (disks.empty()) return absl::FailedPreconditionError("it has no disks");
  return disks;
}

absl::Status CheckOff(const Services& services, const DomainSummary& domain) {
  VR_ASSIGN_OR_RETURN(const DomainState state, services.hypervisor.State(domain.uuid));
  if (state == DomainState::kShutOff) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("its state is '", Name(state), "' by now"));
}

absl::StatusOr<GuestPreflight> Read(const Services& services, const DomainSummary& domain,
                                    const xml::Domain& saved, bool locked,
                                    const std::stop_token& stop) {
  if (services.offline_guest == nullptr) return absl::UnimplementedError("");
  VR_ASSIGN_OR_RETURN(const std::vector<OfflineDisk> disks, DisksOf(services, saved));
  std::optional<DomainLock> lock;
  if (!locked) {
    VR_ASSIGN_OR_RETURN(lock, LockDomain(services, domain.uuid, DomainLock::Use::kWork, stop));
  }
  VR_RETURN_IF_ERROR(CheckOff(services, domain));
  auto facts = services.offline_guest->Read(disks, kTimeout, stop);
  // Read while somebody wrote: anything may have been told.
  if (facts.ok()) VR_RETURN_IF_ERROR(CheckOff(services, domain));
  return facts;
}

}  // namespace

absl::Status ReadOfflineFacts(const Services& services, const DomainSummary& domain, bool locked,
                              const std::stop_token& stop, MigrationFacts& facts) {
  // What lies in a managed save is newer than the disks; and the domain is not touched anyway.
  if (domain.state != DomainState::kShutOff || facts.managed_save.value_or(false)) {
    facts.guest_unknown.detail = std::string(Sentence(Reason::kNotRunning));
    return absl::OkStatus();
  }
  auto guest = Read(services, domain, facts.saved, locked, stop);
  if (absl::IsCancelled(guest.status())) return guest.status();
  if (guest.ok()) {
    facts.guest = *std::move(guest);
  } else if (absl::IsUnimplemented(guest.status())) {
    facts.guest_unknown.detail = std::string(kInstead);
  } else if (absl::IsAborted(guest.status())) {
    facts.guest_unknown = {Reason::kBusy, std::string(guest.status().message())};
  } else {
    facts.guest_unknown.detail = absl::StrCat("it is off, and ", guest.status().message());
  }
  return absl::OkStatus();
}

}  // namespace virt_reclaim
