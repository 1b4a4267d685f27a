#include "host/commands/discard_probe.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/model/guest_disks.h"

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
         const std::stop_token& stop)
      : services_(services), domain_(domain), agent_(agent), stop_(stop) {}

  std::vector<ProbedDisk> Probe() {
    std::vector<ProbedDisk> probed;
    GuestFacts guest;
    auto filesystems = agent_.ListFilesystems(kCallTimeout, stop_);
    if (filesystems.ok()) guest.filesystems = *std::move(filesystems);
    const auto guest_to_target = MatchGuestDisks(domain_.live, guest);
    for (const DiskFacts& disk : domain_.disks) {
      if (disk.xml.device != "disk" || disk.xml.discard != "unmap") continue;
      ProbedDisk result;
      result.target = disk.xml.target;
      const GuestFilesystem* filesystem = FindFilesystem(guest, guest_to_target, disk.xml.target);
      if (filesystem == nullptr) {
        result.detail = "no filesystem of the guest that lies on this disk alone can be trimmed";
      } else if (const absl::Status status = ProbeDisk(disk, *filesystem, result); !status.ok()) {
        result.detail = Printable(status.message());
      }
      probed.push_back(std::move(result));
    }
    return probed;
  }

 private:
  static const GuestFilesystem* FindFilesystem(
      const GuestFacts& guest, const std::map<std::string, std::string>& guest_to_target,
      const std::string& target) {
    for (const GuestFilesystem& filesystem : guest.filesystems) {
      const std::vector<std::string> disks = DisksOf(filesystem);
      if (filesystem.obstacle != GuestObstacle::kNone || filesystem.mount_points.empty() ||
          disks.size() != 1) {
        continue;
      }
      const auto found = guest_to_target.find(disks.front());
      if (found != guest_to_target.end() && found->second == target) return &filesystem;
    }
    return nullptr;
  }

  absl::StatusOr<uint64_t> Allocation(const DiskFacts& disk) const {
    if (!disk.chain.empty()) return services_.images.Allocation(disk.chain);
    VR_ASSIGN_OR_RETURN(const Usage usage,
                        services_.hypervisor.BlockUsage(domain_.summary.uuid, disk.xml.target));
    if (!usage.allocation) return absl::UnavailableError("the allocation is not known");
    return *usage.allocation;
  }

  absl::Status ProbeDisk(const DiskFacts& disk, const GuestFilesystem& filesystem,
                         ProbedDisk& result) {
    const std::string& mount_point = filesystem.mount_points.front();
    VR_RETURN_IF_ERROR(Allocation(disk).status());  // before anything is written
    VR_ASSIGN_OR_RETURN(const GuestMarker marker,
                        agent_.WriteMarker(mount_point, kMarkerBytes, kCallTimeout, stop_));
    const auto full = Allocation(disk);
    // Whatever was measured: the marker has to go.
    VR_ASSIGN_OR_RETURN(const GuestMarkerDiscard discarded,
                        agent_.DiscardMarker(mount_point, marker, kCallTimeout, stop_));
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
    result.reaches = false;
    result.detail = absl::StrCat("of a marker of ", FormatByteSize(kMarkerBytes),
                                 " the host got back ", FormatByteSize(*full - lowest));
    return absl::OkStatus();
  }

  const Services& services_;
  const DomainFacts& domain_;
  GuestAgent& agent_;
  const std::stop_token& stop_;
};

}  // namespace

std::vector<ProbedDisk> ProbeDiscards(const Services& services, const DomainFacts& domain,
                                      GuestAgent& agent, const std::stop_token& stop) {
  return Prober(services, domain, agent, stop).Probe();
}

}  // namespace virt_reclaim
