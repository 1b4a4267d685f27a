#include "host/model/assessment.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "xml-tools/rewrite.h"

namespace virt_reclaim {
namespace {

void AddImageBlockers(const DiskFacts& disk, std::vector<Blocker>& blockers) {
  if (disk.xml.source.path.empty()) {
    blockers.push_back({Reason::kNoMedium, ""});
  } else if (disk.xml.source.type == "block") {
    blockers.push_back({Reason::kBlockDevice, Printable(disk.xml.source.path)});
  } else if (absl::IsNotFound(disk.image_error)) {
    blockers.push_back({Reason::kImageMissing, Printable(disk.xml.source.path)});
  } else if (!disk.image_error.ok()) {
    blockers.push_back({Reason::kImageUnreadable, Printable(disk.image_error.message())});
  } else if (disk.xml.source.type != "file") {
    blockers.push_back({Reason::kNoLocalImage, Printable(disk.xml.source.type)});
  }
}

void AddPathBlockers(const xml::Domain& domain, const xml::Disk& disk,
                     std::vector<Blocker>& blockers) {
  switch (xml::DiscardPathOf(domain, disk)) {
    case xml::DiscardPath::kPasses:
      break;
    case xml::DiscardPath::kMachineTooOld:
      blockers.push_back({Reason::kMachineTooOld, Printable(domain.machine)});
      break;
    case xml::DiscardPath::kBusDrops:
      blockers.push_back({Reason::kBusDropsDiscard, Printable(disk.bus)});
      break;
    case xml::DiscardPath::kUnknown:
      blockers.push_back({Reason::kMachineUnknown, Printable(domain.machine)});
      break;
  }
  if (disk.discard != "unmap") {
    blockers.push_back({Reason::kDiscardIgnored,
                        disk.discard.empty() ? "discard is not set" : Printable(disk.discard)});
  }
}

std::optional<uint64_t> Estimate(const DiskFacts& disk) {
  if (!disk.guest || !disk.usage.allocation) return std::nullopt;
  uint64_t in_use = 0;
  if (__builtin_add_overflow(disk.guest->used, disk.guest->unknown, &in_use)) in_use = UINT64_MAX;
  const uint64_t allocated = *disk.usage.allocation;
  const uint64_t estimate = std::min(disk.guest->free, allocated > in_use ? allocated - in_use : 0);
  // What lies in the images below an overlay stays there.
  const bool overlay = disk.chain.size() > 1;
  return overlay ? std::min(estimate, disk.chain.front().usage.allocation.value_or(0)) : estimate;
}

}  // namespace

bool IsOther(const xml::Disk& disk) { return disk.device != "disk"; }

std::optional<Blocker> BlockerOf(GuestObstacle obstacle, const std::string& device) {
  switch (obstacle) {
    case GuestObstacle::kDiskNotSupported:
      return Blocker{Reason::kGuestNotSupported, device};
    case GuestObstacle::kDmCrypt:
      return Blocker{Reason::kDmCrypt, device};
    case GuestObstacle::kLayerNotSupported:
    case GuestObstacle::kPartial:
      return Blocker{Reason::kGuestLayer, device};
    case GuestObstacle::kTypeNotSupported:
      return Blocker{Reason::kFilesystemNotSupported, device};
    case GuestObstacle::kReadOnly:
      return Blocker{Reason::kReadOnly, device};
    default:
      return std::nullopt;
  }
}

Assessment Assess(const xml::Domain& domain, const DiskFacts& disk) {
  Assessment assessment;
  if (IsOther(disk.xml)) {
    assessment.blockers.push_back({Reason::kNotADisk, Printable(disk.xml.device)});
    return assessment;
  }
  if (disk.xml.read_only) assessment.blockers.push_back({Reason::kReadOnly, ""});
  AddImageBlockers(disk, assessment.blockers);
  AddPathBlockers(domain, disk.xml, assessment.blockers);
  if (disk.guest) {
    auto blocker = BlockerOf(disk.guest->obstacle, disk.guest->obstacle_device);
    // The guest's kernel only repeats what the machine type or the bus decided.
    const bool explained = xml::DiscardPathOf(domain, disk.xml) != xml::DiscardPath::kPasses;
    if (blocker && !(explained && blocker->reason == Reason::kGuestNotSupported)) {
      assessment.blockers.push_back(*std::move(blocker));
    }
  }
  assessment.reclaimable = Estimate(disk);
  return assessment;
}

}  // namespace virt_reclaim
