#include "host/model/assessment.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "host/model/discard_chain.h"

namespace virt_reclaim {
namespace {

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

absl::string_view Name(ReclaimableFrom from) {
  return from == ReclaimableFrom::kFreeMap ? "free-map" : "statfs";
}

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
  const auto bus = BusBlocker(domain, disk.xml);
  for (const auto& blocker : {ImageBlocker(disk), bus, DriverBlocker(disk.xml)}) {
    if (blocker) assessment.blockers.push_back(*blocker);
  }
  for (const ImageFile& file : disk.chain) {
    if (file.unfinished_copy)
      assessment.blockers.push_back({Reason::kUnfinishedCopy, Printable(file.path)});
  }
  if (disk.guest) {
    auto blocker = BlockerOf(disk.guest->obstacle, disk.guest->obstacle_device);
    // The guest's kernel only repeats what the machine type or the bus decided.
    if (blocker && !(bus && blocker->reason == Reason::kGuestNotSupported)) {
      assessment.blockers.push_back(*std::move(blocker));
    }
  }
  if (disk.free_and_allocated) {
    assessment.held = disk.free_and_allocated;
    assessment.from = ReclaimableFrom::kFreeMap;
  } else {
    assessment.held = Estimate(disk);
  }
  const uint32_t snapshots = disk.chain.empty() ? 0 : disk.chain.front().internal_snapshots;
  if (snapshots == 0) {
    assessment.reclaimable = assessment.held;
  } else {
    assessment.blockers.push_back(
        {Reason::kInternalSnapshots, absl::StrCat(Printable(disk.xml.target), ": ", snapshots)});
  }
  return assessment;
}

}  // namespace virt_reclaim
