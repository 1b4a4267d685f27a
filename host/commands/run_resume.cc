// The end of an emergency: domains that a full storage has paused run on.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/status.h"
#include "host/commands/collect.h"
#include "host/commands/run.h"
#include "host/model/assessment.h"

namespace virt_reclaim {
namespace {

// With less than this the first that writes is paused again.
constexpr uint64_t kLeastRoom = 256 * kMiB;
// QEMU tries again at once what failed. It takes libvirt a moment to tell of the next error.
constexpr absl::Duration kTrial = absl::Seconds(2);
constexpr absl::Duration kStateEvery = absl::Milliseconds(200);

// The least room on the storages below its images; of block devices nobody knows.
absl::StatusOr<uint64_t> RoomBelow(const Services& services, const DomainSummary& domain) {
  VR_ASSIGN_OR_RETURN(const DomainFacts facts, CollectDomain(services, domain));
  uint64_t least = UINT64_MAX;
  for (const DiskFacts& disk : facts.disks) {
    // Only the file on top is written to.
    if (IsOther(disk.xml) || disk.chain.empty() || disk.xml.source.type != "file") continue;
    VR_ASSIGN_OR_RETURN(const uint64_t room, services.images.Room(disk.chain.front()));
    least = std::min(least, room);
  }
  return least;
}

absl::Status StaysUp(const Services& services, const DomainSummary& domain) {
  for (absl::Duration waited; waited < kTrial; waited += kStateEvery) {
    services.sleep(kStateEvery);
    VR_ASSIGN_OR_RETURN(const bool paused, services.hypervisor.IsPausedByIoError(domain.uuid));
    if (paused) return absl::UnavailableError("an I/O error has paused it again");
  }
  return absl::OkStatus();
}

absl::Status Resume(const Services& services, const DomainSummary& domain, Outcome& outcome) {
  VR_ASSIGN_OR_RETURN(const bool paused, services.hypervisor.IsPausedByIoError(domain.uuid));
  if (!paused) return absl::OkStatus();  // somebody was quicker
  VR_ASSIGN_OR_RETURN(const uint64_t room, RoomBelow(services, domain));
  if (room < kLeastRoom) {
    outcome.kind = OutcomeKind::kSkipped;
    outcome.asked_for = true;
    outcome.reasons.push_back({Reason::kNoRoom, absl::StrCat(FormatByteSize(room), " left")});
    return absl::OkStatus();
  }
  VR_RETURN_IF_ERROR(services.hypervisor.Resume(domain.uuid));
  return StaysUp(services, domain);
}

}  // namespace

RunItem ResumeDomain(const Services& services, const DomainSummary& domain) {
  RunItem item = DomainItem(policy::Job::kResume, domain.name);
  item.outcome.error = Resume(services, domain, item.outcome);
  if (!item.outcome.error.ok()) item.outcome.kind = OutcomeKind::kFailed;
  return item;
}

}  // namespace virt_reclaim
