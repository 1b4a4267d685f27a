#include "host/commands/expected_mounts.h"

#include <algorithm>
#include <string>
#include <utility>

#include "host/model/guest_disks.h"

namespace virt_reclaim {

std::vector<ExpectedMount> MountsOf(const DomainFacts& domain,
                                    std::vector<GuestFilesystem> filesystems) {
  GuestFacts guest;
  guest.filesystems = std::move(filesystems);
  const auto targets = MatchGuestDisks(domain.live, guest);
  std::vector<ExpectedMount> mounts;
  for (const GuestFilesystem& filesystem : guest.filesystems) {
    if (filesystem.devices.empty()) continue;
    std::string image;
    if (const auto disks = DisksOf(filesystem); disks.size() == 1) {
      const auto target = targets.find(disks.front());
      for (const DiskFacts& disk : domain.disks) {
        if (target != targets.end() && disk.xml.target == target->second)
          image = disk.xml.source.path;
      }
    }
    for (size_t i = 0; i < filesystem.mount_points.size(); ++i) {
      const bool is_known = i < filesystem.mount_roots.size();
      mounts.push_back({filesystem.mount_points[i], filesystem.type, filesystem.uuid, image,
                        is_known ? filesystem.mount_roots[i] : ""});
    }
  }
  return mounts;
}

std::vector<ExpectedMount> OncePerFilesystem(const std::vector<ExpectedMount>& mounts) {
  std::vector<ExpectedMount> once;
  for (const ExpectedMount& mount : mounts) {
    const bool again = std::any_of(once.begin(), once.end(), [&](const ExpectedMount& other) {
      return !mount.uuid.empty() && other.uuid == mount.uuid && other.type == mount.type &&
             other.image == mount.image && (mount.root.empty() || other.root == mount.root);
    });
    if (!again) once.push_back(mount);
  }
  return once;
}

const ExpectedMount* FindMissing(const std::vector<ExpectedMount>& expected,
                                 const std::vector<ExpectedMount>& found) {
  for (const ExpectedMount& mount : expected) {
    const auto is_it = [&](const ExpectedMount& other) {
      // A clone of the disk has the same UUID.
      return other.uuid == mount.uuid && other.type == mount.type &&
             other.mount_point == mount.mount_point &&
             (other.image == mount.image || other.image.empty() || mount.image.empty());
    };
    if (std::none_of(found.begin(), found.end(), is_it)) return &mount;
  }
  return nullptr;
}

}  // namespace virt_reclaim
