#include "host/commands/discard_probe.h"

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/escape.h"
#include "base/range.h"
#include "base/saturating_add.h"
#include "base/status.h"
#include "host/model/guest_disks.h"
#include "host/model/image_judge.h"

namespace virt_reclaim {
namespace {

// Far above what a guest writes by itself in a second, and what a qcow2 image's own tables change.
constexpr uint64_t kMarkerBytes = 16 * kMiB;
constexpr uint64_t kRepeatBytes = 64 * kMiB;
// The rest are the edges of blocks. At both ends of a marker a cluster may stay.
uint64_t EnoughOf(uint64_t bytes, uint64_t cluster) {
  return (bytes - std::min(bytes / 2, 2 * cluster)) / 10 * 9;
}
constexpr absl::Duration kProbeCallTimeout = absl::Minutes(1);
// XFS of newer kernels returns from FITRIM before its discards are done.
constexpr absl::Duration kPatience = absl::Seconds(10);
constexpr absl::Duration kStep = absl::Milliseconds(100);

// Whether a file of it may lie on one of its disks and not on another. A mirror writes to all its
// legs, and raid1 is the only one known here.
bool SpreadsOverDisks(const GuestFilesystem& filesystem) {
  std::set<absl::string_view> parents;
  for (const GuestDevice& device : filesystem.devices) {
    const bool mirror = device.kind == GuestDeviceKind::kMd && device.md_level == "raid1";
    if (device.parents.size() > 1 && !mirror) return true;
    parents.insert(device.parents.begin(), device.parents.end());
  }
  const auto roots =
      std::count_if(filesystem.devices.begin(), filesystem.devices.end(),
                    [&](const GuestDevice& device) { return !parents.contains(device.name); });
  return roots > 1;  // btrfs
}

bool IsWanted(const xml::Disk& disk, const ProbeOptions& options) {
  const auto& targets = options.targets;
  return disk.device == "disk" && (options.hopeless || disk.discard == "unmap") &&
         (targets.empty() ||
          std::find(targets.begin(), targets.end(), disk.target) != targets.end());
}

class Prober {
 public:
  Prober(const Services& services, const DomainFacts& domain, GuestAgent& agent,
         const ProbeOptions& options, const std::stop_token& stop)
      : services_(services), domain_(domain), agent_(agent), options_(options), stop_(stop) {}

  std::vector<ProbedDisk> Probe() {
    std::vector<ProbedDisk> probed;
    GuestFacts guest;
    auto filesystems = agent_.ListFilesystems(kProbeCallTimeout, stop_);
    if (filesystems.ok()) guest.filesystems = *std::move(filesystems);
    guest_to_target_ = MatchGuestDisks(domain_.live, guest);
    for (const DiskFacts& disk : domain_.disks) {
      if (!IsWanted(disk.xml, options_)) continue;
      ProbedDisk result;
      result.target = disk.xml.target;
      const GuestFilesystem* filesystem = FindFilesystem(guest, disk.xml.target);
      if (filesystem == nullptr) {
        result.detail =
            options_.hopeless
                ? "no filesystem of the guest on this disk can be written to"
                : "no filesystem of the guest that lies on this disk alone can be trimmed";
      } else if (const absl::Status status = ProbeDisk(disk, *filesystem, result); !status.ok()) {
        result.detail = Printable(status.message());
      }
      if (options_.files) ProbeFilesOn(disk, guest, result);
      probed.push_back(std::move(result));
    }
    return probed;
  }

 private:
  // How well a filesystem shows what becomes of a disk's discards, from 0; empty: not at all.
  std::optional<int> Rank(const GuestFilesystem& filesystem) const {
    const bool alone = DisksOf(filesystem).size() == 1;
    if (filesystem.mount_points.empty()) return std::nullopt;
    if (filesystem.obstacle == GuestObstacle::kNone && alone) return 0;
    if (!options_.hopeless) return std::nullopt;
    switch (filesystem.obstacle) {
      case GuestObstacle::kNone:
      case GuestObstacle::kPartial:
        return 1;
      case GuestObstacle::kDmCrypt:
      case GuestObstacle::kLayerNotSupported:
      case GuestObstacle::kDiskNotSupported:
        return alone ? 2 : 3;
      default:
        return std::nullopt;
    }
  }

  const GuestFilesystem* FindFilesystem(const GuestFacts& guest, const std::string& target) const {
    const GuestFilesystem* best = nullptr;
    int best_rank = 0;
    for (const GuestFilesystem& filesystem : guest.filesystems) {
      const std::vector<std::string> disks = DisksOf(filesystem);
      const bool here = std::any_of(disks.begin(), disks.end(), [&](const std::string& disk) {
        const auto found = guest_to_target_.find(disk);
        return found != guest_to_target_.end() && found->second == target;
      });
      const auto rank = Rank(filesystem);
      if (!here || !rank || (best != nullptr && *rank >= best_rank)) continue;
      best = &filesystem;
      best_rank = *rank;
    }
    return best;
  }

  absl::StatusOr<uint64_t> Allocation(const DiskFacts& disk) const {
    if (!disk.chain.empty()) return services_.images.Allocation(disk.chain);
    // libvirt's word for it is the size of the device.
    if (disk.xml.source.type == "block")
      return absl::UnavailableError("the allocation of a block device is not known");
    VR_ASSIGN_OR_RETURN(const Usage usage,
                        services_.hypervisor.BlockUsage(domain_.summary.uuid, disk.xml.target));
    if (!usage.allocation) return absl::UnavailableError("the allocation is not known");
    return *usage.allocation;
  }

  bool IsSpared(const DiskFacts& disk) const {
    return JudgeImage(disk, /*storage=*/{}, /*allow_thick=*/!options_.spare_thick)
        .refusal.has_value();
  }

  void ProbeFilesOn(const DiskFacts& disk, const GuestFacts& guest, ProbedDisk& result) {
    if (IsSpared(disk)) return;
    result.files = ProbeFiles(
        services_, agent_, FilesystemsInFiles(guest, guest_to_target_, disk.xml.target),
        [&] { return Allocation(disk); }, stop_);
  }

  absl::Status ProbeDisk(const DiskFacts& disk, const GuestFilesystem& filesystem,
                         ProbedDisk& result) {
    if (IsSpared(disk))
      return absl::UnavailableError("the image is preallocated, and a probe would thin it");
    VR_ASSIGN_OR_RETURN(const Round first, Measure(disk, filesystem, kMarkerBytes));
    if (first.elsewhere)
      return absl::UnavailableError("the marker may have been written to another disk");
    if (first.certain) return Tell(first, result);
    // Whatever else the guest writes or discards meanwhile is in the image's allocation, too: by
    // chance it looks right once, hardly twice.
    auto second = Measure(disk, filesystem, kRepeatBytes);
    if (absl::IsFailedPrecondition(second.status()))  // too little is free there
      second = Measure(disk, filesystem, kMarkerBytes);
    VR_RETURN_IF_ERROR(second.status());
    if (second->elsewhere || second->reaches == first.reaches) return Tell(first, result);
    return absl::UnavailableError(
        "two measurements do not agree: the guest writes to or frees on this disk meanwhile");
  }

  // One marker, written and discarded.
  struct Round {
    bool reaches = false;
    bool certain = false;    // nobody else's writes and discards are in it
    bool elsewhere = false;  // it may lie on another disk
    std::string detail;
  };
  static absl::Status Tell(const Round& round, ProbedDisk& result) {
    result.reaches = round.reaches;
    result.detail = round.detail;
    return absl::OkStatus();
  }

  absl::StatusOr<Round> Measure(const DiskFacts& disk, const GuestFilesystem& filesystem,
                                uint64_t size) {
    const std::string& mount_point = filesystem.mount_points.front();
    VR_ASSIGN_OR_RETURN(const uint64_t before, Allocation(disk));
    VR_ASSIGN_OR_RETURN(const GuestMarker marker,
                        agent_.WriteMarker(mount_point, size, kProbeCallTimeout, stop_));
    const auto full = Allocation(disk);
    const std::vector<Range> extents = ExtentsOf(marker, disk);
    const uint64_t held = HeldOf(extents, disk).value_or(0);
    // Whatever was measured, and whoever wants to stop: the marker has to go.
    VR_ASSIGN_OR_RETURN(const GuestMarkerDiscard discarded,
                        agent_.DiscardMarker(mount_point, marker, kProbeCallTimeout, {}));
    VR_RETURN_IF_ERROR(full.status());
    Round round;
    if (!discarded.error_name.empty()) {
      round.certain = true;
      round.detail = absl::StrCat("the guest cannot trim it: ", discarded.error_name);
      return round;
    }
    round.certain = held >= EnoughOf(size, 0);
    const uint64_t cluster = disk.chain.empty() ? 0 : disk.chain.front().granularity;
    const uint64_t enough = round.certain ? EnoughOf(held, 0) : EnoughOf(size, cluster);
    uint64_t gone = 0;
    for (const absl::Time limit = services_.now() + kPatience; services_.now() < limit;) {
      if (round.certain) {
        VR_ASSIGN_OR_RETURN(const uint64_t now, HeldOf(extents, disk));
        gone = std::max(gone, held - std::min(held, now));
      } else {
        VR_ASSIGN_OR_RETURN(const uint64_t now, Allocation(disk));
        gone = std::max(gone, *full - std::min(*full, now));
      }
      round.reaches = gone >= enough;
      if (round.reaches) return round;
      if (stop_.stop_requested()) return absl::CancelledError("interrupted");
      services_.sleep(kStep);
    }
    const uint64_t grown = *full > before ? *full - before : 0;
    round.elsewhere = !round.certain && SpreadsOverDisks(filesystem) && grown < enough;
    round.detail =
        absl::StrCat("of a marker of ", FormatByteSize(size), " the host got back ",
                     FormatByteSize(gone), "; the image had grown by ", FormatByteSize(grown),
                     ", the guest says it trimmed ", FormatByteSize(discarded.trimmed));
    return round;
  }

  // Where the marker lies in the image, sorted. Empty: not known. Of a raw image the guest's
  // offsets are the file's; other formats' maps are stale while QEMU has them open.
  std::vector<Range> ExtentsOf(const GuestMarker& marker, const DiskFacts& disk) const {
    const auto target = guest_to_target_.find(marker.disk);
    if (disk.chain.empty()) return {};
    const ImageFile& top = disk.chain.front();
    const bool raw =
        top.external_data ? top.data && top.data->raw : top.format == "raw" || top.format.empty();
    if (!raw || target == guest_to_target_.end() || target->second != disk.xml.target) return {};
    std::vector<Range> ranges;
    for (const GuestMarker::Extent& extent : marker.extents) {
      const uint64_t end = SaturatingAdd(extent.offset, extent.length);
      if (end > disk.usage.capacity.value_or(0)) return {};  // cannot be
      ranges.push_back({extent.offset, end});
    }
    std::sort(ranges.begin(), ranges.end(),
              [](const Range& a, const Range& b) { return a.begin < b.begin; });
    std::vector<Range> joined;
    for (const Range& range : ranges) {
      if (range.begin == range.end) continue;
      if (!joined.empty() && range.begin < joined.back().end) return {};  // cannot be
      AppendJoined(joined, range);
    }
    return joined;
  }

  // How much of them the image has storage for.
  absl::StatusOr<uint64_t> HeldOf(const std::vector<Range>& extents, const DiskFacts& disk) const {
    if (extents.empty()) return absl::UnavailableError("it is not known where the marker lies");
    return services_.images.AllocatedWithin(disk.chain.front(), extents, {});
  }

  const Services& services_;
  const DomainFacts& domain_;
  GuestAgent& agent_;
  const ProbeOptions& options_;
  const std::stop_token& stop_;
  std::map<std::string, std::string> guest_to_target_;
};

}  // namespace

std::vector<ProbedDisk> ProbeDiscards(const Services& services, const DomainFacts& domain,
                                      GuestAgent& agent, const ProbeOptions& options,
                                      const std::stop_token& stop) {
  return Prober(services, domain, agent, options, stop).Probe();
}

std::vector<ProbedDisk> NotProbed(const DomainFacts& domain, const ProbeOptions& options,
                                  const std::string& why) {
  std::vector<ProbedDisk> disks;
  for (const DiskFacts& disk : domain.disks) {
    if (IsWanted(disk.xml, options)) disks.push_back({disk.xml.target, std::nullopt, why});
  }
  return disks;
}

}  // namespace virt_reclaim
