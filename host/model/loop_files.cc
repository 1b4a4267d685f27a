#include "host/model/loop_files.h"

#include <algorithm>
#include <set>
#include <utility>

#include "host/model/guest_disks.h"

namespace virt_reclaim {
namespace {

constexpr int kMaxLoops = 8;  // a loop device in a file on a loop device ...
// Of one filesystem (an md of files, say); a guest can make up a hundred thousand.
constexpr size_t kMaxLoopLegs = 16;

}  // namespace

LoopFiles::LoopFiles(const GuestFacts& guest, std::vector<bool> on_disk)
    : guest_(guest), on_disk_(std::move(on_disk)), reaches_(guest.filesystems.size()) {
  for (size_t i = 0; i < guest.filesystems.size(); ++i) {
    for (const std::string& mount_point : guest.filesystems[i].mount_points)
      mounted_.insert_or_assign(mount_point, i);  // the last one lies on top
  }
}

std::vector<const GuestDevice*> LoopFiles::LoopsOf(const GuestFilesystem& filesystem) {
  std::vector<const GuestDevice*> loops;
  for (const GuestDevice& device : filesystem.devices) {
    if (device.kind == GuestDeviceKind::kLoop && !device.backing_file.empty() &&
        loops.size() < kMaxLoopLegs)
      loops.push_back(&device);
  }
  return loops;
}

std::optional<size_t> LoopFiles::HolderOf(absl::string_view path) const {
  while (!path.empty()) {
    if (const auto found = mounted_.find(path); found != mounted_.end()) return found->second;
    if (path == "/") break;
    const size_t slash = path.rfind('/');
    if (slash == absl::string_view::npos) break;
    path = slash == 0 ? absl::string_view("/") : path.substr(0, slash);
  }
  return std::nullopt;
}

bool LoopFiles::Reaches(size_t filesystem, int depth) {
  if (on_disk_[filesystem]) return true;
  if (depth >= kMaxLoops) return false;
  std::optional<bool>& known = reaches_[filesystem];
  if (known) return *known;
  known = false;  // until proved otherwise: a guest can make its loop devices go in circles
  for (const GuestDevice* loop : LoopsOf(guest_.filesystems[filesystem])) {
    const auto holder = HolderOf(loop->backing_file);
    if (!holder || !Reaches(*holder, depth + 1)) continue;
    known = true;
    break;
  }
  return *known;
}

std::vector<FilesystemInFile> FilesystemsInFiles(
    const GuestFacts& guest, const std::map<std::string, std::string>& guest_to_target,
    absl::string_view target) {
  std::vector<bool> on_disk;
  for (const GuestFilesystem& filesystem : guest.filesystems) {
    const std::vector<std::string> disks = DisksOf(filesystem);
    on_disk.push_back(std::any_of(disks.begin(), disks.end(), [&](const std::string& disk) {
      const auto found = guest_to_target.find(disk);
      return found != guest_to_target.end() && found->second == target;
    }));
  }
  LoopFiles files(guest, std::move(on_disk));
  std::vector<FilesystemInFile> in_files;
  for (const GuestFilesystem& filesystem : guest.filesystems) {
    if (filesystem.obstacle != GuestObstacle::kLoop || filesystem.mount_points.empty()) continue;
    FilesystemInFile in_file{.mount_point = filesystem.mount_points.front(), .holders = {}};
    in_file.holders_discard = true;
    std::set<std::string> holders;
    bool here = false;
    for (const GuestDevice* loop : LoopFiles::LoopsOf(filesystem)) {
      const auto holder = files.HolderOf(loop->backing_file);
      if (!holder) continue;
      const GuestFilesystem& found = guest.filesystems[*holder];
      here = here || files.Reaches(*holder);
      holders.insert(found.mount_points.front());
      in_file.holders_discard = in_file.holders_discard && found.discard_option == true;
    }
    if (!here) continue;
    in_file.holders.assign(holders.begin(), holders.end());
    in_files.push_back(std::move(in_file));
  }
  return in_files;
}

}  // namespace virt_reclaim
