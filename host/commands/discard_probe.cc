#include "host/commands/discard_probe.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/model/guest_disks.h"
#include "host/model/image_judge.h"

namespace virt_reclaim {
namespace {

// Far above what a guest writes by itself in a second, and what a qcow2 image's own tables change.
constexpr uint64_t kMarkerBytes = 16 * kMiB;
constexpr uint64_t kEnough = kMarkerBytes / 4 * 3;
constexpr absl::Duration kCallTimeout = absl::Minutes(1);
// XFS of newer kernels returns from FITRIM before its discards are done.
constexpr absl::Duration kPatience = absl::Seconds(10);
constexpr absl::Duration kStep = absl::Milliseconds(100);

class Prober {
 public:
  Prober(const Services& services, const DomainFacts& domain, GuestAgent& agent,
         const ProbeOptions& options, const std::stop_token& stop)
      : services_(services), domain_(domain), agent_(agent), options_(options), stop_(stop) {}

  std::vector<ProbedDisk> Probe() {
    std::vector<ProbedDisk> probed;
    GuestFacts guest;
    auto filesystems = agent_.ListFilesystems(kCallTimeout, stop_);
    if (filesystems.ok()) guest.filesystems = *std::move(filesystems);
    const auto guest_to_target = MatchGuestDisks(domain_.live, guest);
    for (const DiskFacts& disk : domain_.disks) {
      if (!IsWanted(disk.xml)) continue;
      ProbedDisk result;
      result.target = disk.xml.target;
      const GuestFilesystem* filesystem = FindFilesystem(guest, guest_to_target, disk.xml.target);
      if (filesystem == nullptr) {
        result.detail =
            options_.hopeless
                ? "no filesystem of the guest on this disk can be written to"
                : "no filesystem of the guest that lies on this disk alone can be trimmed";
      } else if (const absl::Status status = ProbeDisk(disk, *filesystem, result); !status.ok()) {
        result.detail = Printable(status.message());
      }
      probed.push_back(std::move(result));
    }
    return probed;
  }

 private:
  bool IsWanted(const xml::Disk& disk) const {
    const auto& targets = options_.targets;
    return disk.device == "disk" && (options_.hopeless || disk.discard == "unmap") &&
           (targets.empty() ||
            std::find(targets.begin(), targets.end(), disk.target) != targets.end());
  }

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

  const GuestFilesystem* FindFilesystem(const GuestFacts& guest,
                                        const std::map<std::string, std::string>& guest_to_target,
                                        const std::string& target) const {
    const GuestFilesystem* best = nullptr;
    int best_rank = 0;
    for (const GuestFilesystem& filesystem : guest.filesystems) {
      const std::vector<std::string> disks = DisksOf(filesystem);
      const bool here = std::any_of(disks.begin(), disks.end(), [&](const std::string& disk) {
        const auto found = guest_to_target.find(disk);
        return found != guest_to_target.end() && found->second == target;
      });
      const auto rank = Rank(filesystem);
      if (!here || !rank || (best != nullptr && *rank >= best_rank)) continue;
      best = &filesystem;
      best_rank = *rank;
    }
    return best;
  }

  absl::StatusOr<uint64_t> Allocation(const DiskFacts& disk) const {
    if (!disk.chain.empty() && disk.chain.front().external_data)
      return absl::UnavailableError("the image keeps the guest's data in a file of its own");
    if (!disk.chain.empty()) return services_.images.Allocation(disk.chain);
    // libvirt's word for it is the size of the device.
    if (disk.xml.source.type == "block")
      return absl::UnavailableError("the allocation of a block device is not known");
    VR_ASSIGN_OR_RETURN(const Usage usage,
                        services_.hypervisor.BlockUsage(domain_.summary.uuid, disk.xml.target));
    if (!usage.allocation) return absl::UnavailableError("the allocation is not known");
    return *usage.allocation;
  }

  absl::Status ProbeDisk(const DiskFacts& disk, const GuestFilesystem& filesystem,
                         ProbedDisk& result) {
    const std::string& mount_point = filesystem.mount_points.front();
    const auto refusal =
        JudgeImage(disk, std::nullopt, /*allow_thick=*/!options_.spare_thick).refusal;
    if (refusal)
      return absl::UnavailableError("the image is preallocated, and a probe would thin it");
    VR_ASSIGN_OR_RETURN(const uint64_t before, Allocation(disk));
    VR_ASSIGN_OR_RETURN(const GuestMarker marker,
                        agent_.WriteMarker(mount_point, kMarkerBytes, kCallTimeout, stop_));
    const auto full = Allocation(disk);
    // Whatever was measured, and whoever wants to stop: the marker has to go.
    VR_ASSIGN_OR_RETURN(const GuestMarkerDiscard discarded,
                        agent_.DiscardMarker(mount_point, marker, kCallTimeout, {}));
    VR_RETURN_IF_ERROR(full.status());
    if (!discarded.error_name.empty()) {
      result.reaches = false;
      result.detail = absl::StrCat("the guest cannot trim it: ", discarded.error_name);
      return absl::OkStatus();
    }
    uint64_t lowest = *full;
    for (const absl::Time limit = services_.now() + kPatience; services_.now() < limit;) {
      VR_ASSIGN_OR_RETURN(const uint64_t now, Allocation(disk));
      lowest = std::min(lowest, now);
      if (*full - lowest >= kEnough) {
        result.reaches = true;
        return absl::OkStatus();
      }
      if (stop_.stop_requested()) return absl::CancelledError("interrupted");
      services_.sleep(kStep);
    }
    const uint64_t grown = *full > before ? *full - before : 0;
    if (DisksOf(filesystem).size() > 1 && grown < kEnough)
      return absl::UnavailableError("the marker may have been written to another disk");
    result.reaches = false;
    result.detail = absl::StrCat("of a marker of ", FormatByteSize(kMarkerBytes),
                                 " the host got back ", FormatByteSize(*full - lowest),
                                 "; the image had grown by ", FormatByteSize(grown),
                                 ", the guest says it trimmed ", FormatByteSize(discarded.trimmed));
    return absl::OkStatus();
  }

  const Services& services_;
  const DomainFacts& domain_;
  GuestAgent& agent_;
  const ProbeOptions& options_;
  const std::stop_token& stop_;
};

}  // namespace

std::vector<ProbedDisk> ProbeDiscards(const Services& services, const DomainFacts& domain,
                                      GuestAgent& agent, const ProbeOptions& options,
                                      const std::stop_token& stop) {
  return Prober(services, domain, agent, options, stop).Probe();
}

}  // namespace virt_reclaim
