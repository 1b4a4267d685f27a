#include "host/model/guest_layers.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "host/model/assessment.h"
#include "host/model/guest_disks.h"

namespace virt_reclaim {
namespace {

constexpr int kMaxLoops = 8;  // a loop device in a file on a loop device ...

bool IsUnder(absl::string_view path, absl::string_view directory) {
  return directory == "/" || path == directory ||
         (absl::StartsWith(path, directory) && path.size() > directory.size() &&
          path[directory.size()] == '/');
}

// The filesystem a file of the guest lies in: the one mounted longest along its path.
const GuestFilesystem* HolderOf(const GuestFacts& guest, const std::string& path) {
  const GuestFilesystem* holder = nullptr;
  size_t longest = 0;
  for (const GuestFilesystem& filesystem : guest.filesystems) {
    for (const std::string& mount_point : filesystem.mount_points) {
      if (!IsUnder(path, mount_point) || mount_point.size() < longest) continue;
      holder = &filesystem;
      longest = mount_point.size();
    }
  }
  return holder;
}

const GuestDevice* LoopOf(const GuestFilesystem& filesystem) {
  for (const GuestDevice& device : filesystem.devices) {
    if (device.kind == GuestDeviceKind::kLoop && !device.backing_file.empty()) return &device;
  }
  return nullptr;
}

// What concerns the filesystem alone, whatever lies below.
bool IsOwnObstacle(GuestObstacle obstacle) {
  return obstacle == GuestObstacle::kReadOnly || obstacle == GuestObstacle::kTypeNotSupported;
}

// The metadata of a thin pool sees no discards, so that its limits do not matter.
bool IsThinMetadata(const GuestDevice& device) { return absl::EndsWith(device.dm_uuid, "-tmeta"); }

std::string Describe(const GuestDevice& device) {
  switch (device.kind) {
    case GuestDeviceKind::kDmCrypt:
      return "dm-crypt";
    case GuestDeviceKind::kLvm:
      if (absl::EndsWith(device.dm_uuid, "-tpool")) return "LVM thin pool";
      return absl::EndsWith(device.dm_uuid, "-tdata") ? "data of an LVM thin pool" : "LVM";
    case GuestDeviceKind::kDmOther:
      return "device-mapper";
    case GuestDeviceKind::kMd:
      return device.md_level.empty() ? "md" : absl::StrCat("md ", device.md_level);
    case GuestDeviceKind::kLoop:
      return absl::StrCat("loop in ", device.backing_file);
    default:
      return "block device";
  }
}

std::string Limits(const GuestDevice& device) {
  if (!device.discard_max) return "";
  if (*device.discard_max == 0) return ", takes no discards";
  std::string text = absl::StrCat(", discards of up to ", FormatByteSize(*device.discard_max));
  if (device.discard_granularity > 0)
    absl::StrAppend(&text, " in units of ", FormatByteSize(device.discard_granularity));
  return text;
}

// Collects the layers of one disk. Filesystems may share devices; each is judged once.
class Builder {
 public:
  Builder(const xml::Domain& live, const GuestFacts& guest, std::string target,
          const std::optional<Blocker>& host_reason)
      : guest_(guest),
        targets_(MatchGuestDisks(live, guest)),
        target_(std::move(target)),
        host_reason_(host_reason) {}

  std::vector<Layer> Build() {
    for (const GuestFilesystem& filesystem : guest_.filesystems) AddFilesystem(filesystem, 0);
    // What cannot be trimmed by its own nature matters for the disk only when there is nothing
    // else on it.
    const bool all = std::all_of(filesystems_.begin(), filesystems_.end(), [](const Layer& layer) {
      return layer.verdict == LayerVerdict::kDrops;
    });
    for (Layer& layer : filesystems_) {
      if (!all && layer.verdict == LayerVerdict::kDrops) layer.verdict = LayerVerdict::kPartly;
    }
    std::vector<Layer> layers = std::move(filesystems_);
    if (layers.empty()) {
      Layer none;
      none.name = "-";
      none.detail = "no mounted filesystem of the guest is known to lie on this disk";
      layers.push_back(std::move(none));
    }
    layers.insert(layers.end(), devices_.begin(), devices_.end());
    layers.insert(layers.end(), disks_.begin(), disks_.end());
    return layers;
  }

 private:
  void AddFilesystem(const GuestFilesystem& filesystem, int depth) {
    const std::set<std::string> way = WayToTarget(filesystem);
    const GuestDevice* loop = LoopOf(filesystem);
    if (way.empty() && loop == nullptr) return;
    if (way.empty()) {
      // Read-only images on loop devices (snap packages) are no business of anybody's.
      if (IsOwnObstacle(filesystem.obstacle) || !LiesOnTarget(*loop, depth)) return;
    }
    filesystems_.push_back(JudgeFilesystem(filesystem));
    for (const GuestDevice& device : filesystem.devices) {
      const bool is_loop = &device == loop && way.empty();
      if (!is_loop && !way.contains(device.name)) continue;
      if (!seen_.insert(device.name).second) continue;
      if (device.is_disk) {
        disks_.push_back(JudgeDisk(filesystem, device));
      } else if (device.kind != GuestDeviceKind::kPartition && !IsThinMetadata(device)) {
        devices_.push_back(JudgeDevice(filesystem, device));
      }
    }
  }

  bool LiesOnTarget(const GuestDevice& loop, int depth) const {
    const GuestFilesystem* holder = HolderOf(guest_, loop.backing_file);
    if (holder == nullptr || depth >= kMaxLoops) return false;
    if (!WayToTarget(*holder).empty()) return true;
    const GuestDevice* next = LoopOf(*holder);
    return next != nullptr && next != &loop && LiesOnTarget(*next, depth + 1);
  }

  // The devices of the filesystem through which its discards come to the target, with the disk.
  std::set<std::string> WayToTarget(const GuestFilesystem& filesystem) const {
    std::set<std::string> way;
    for (const GuestDevice& device : filesystem.devices) {
      const auto found = targets_.find(device.name);
      if (device.is_disk && found != targets_.end() && found->second == target_)
        way.insert(device.name);
    }
    if (way.empty()) return way;
    for (bool more = true; more;) {  // at most as often as there are devices
      more = false;
      for (const GuestDevice& device : filesystem.devices) {
        const bool leads =
            std::any_of(device.parents.begin(), device.parents.end(),
                        [&](const std::string& parent) { return way.contains(parent); });
        if (leads && way.insert(device.name).second) more = true;
      }
    }
    return way;
  }

  static Layer JudgeFilesystem(const GuestFilesystem& filesystem) {
    Layer layer;
    layer.kind = LayerKind::kFilesystem;
    layer.name =
        filesystem.mount_points.empty() ? filesystem.source : filesystem.mount_points.front();
    layer.detail = filesystem.type;
    if (filesystem.discard_option)
      absl::StrAppend(&layer.detail, *filesystem.discard_option ? ", mounted with discard"
                                                                : ", mounted with nodiscard");
    if (filesystem.discard_option == false)
      layer.remarks.push_back({Reason::kMountedNodiscard, layer.name});
    if (IsOwnObstacle(filesystem.obstacle)) {
      layer.verdict = LayerVerdict::kDrops;
      layer.reasons.push_back(*BlockerOf(filesystem.obstacle, layer.name));
    } else if (filesystem.obstacle != GuestObstacle::kUnknown) {
      layer.verdict = LayerVerdict::kOk;  // what else there is, the devices below it say
    }
    return layer;
  }

  // As the kernel says; else as the agent judged.
  static std::optional<bool> Takes(const GuestFilesystem& filesystem, const GuestDevice& device) {
    if (device.discard_max) return *device.discard_max > 0;
    if (filesystem.obstacle == GuestObstacle::kNone) return true;
    if (filesystem.obstacle_device == device.name) return false;
    if (filesystem.obstacle == GuestObstacle::kDiskNotSupported && device.is_disk &&
        DisksOf(filesystem).size() == 1) {
      return false;
    }
    return std::nullopt;
  }

  static Layer JudgeDevice(const GuestFilesystem& filesystem, const GuestDevice& device) {
    Layer layer;
    layer.kind = LayerKind::kGuestDevice;
    layer.name =
        device.dm_name.empty() ? device.name : absl::StrCat(device.dm_name, " (", device.name, ")");
    layer.detail = absl::StrCat(Describe(device), Limits(device));
    if (device.kind == GuestDeviceKind::kLoop) {
      layer.verdict = LayerVerdict::kPartly;
      layer.reasons.push_back({Reason::kLoopDevice, device.backing_file});
      return layer;
    }
    const auto takes = Takes(filesystem, device);
    if (!takes) return layer;
    if (*takes) {
      layer.verdict = LayerVerdict::kOk;
      return layer;
    }
    bool below_takes = false;
    for (const GuestDevice& below : filesystem.devices) {
      const bool is_below = std::find(device.parents.begin(), device.parents.end(), below.name) !=
                            device.parents.end();
      if (is_below && !IsThinMetadata(below))
        below_takes = below_takes || Takes(filesystem, below).value_or(false);
    }
    if (!below_takes && filesystem.obstacle_device != device.name) {
      // It may pass them on or not: nobody can tell while it has none to pass on.
      absl::StrAppend(&layer.detail, ", as what lies below it");
      return layer;
    }
    layer.verdict = LayerVerdict::kDrops;
    const bool crypt = device.kind == GuestDeviceKind::kDmCrypt;
    layer.reasons.push_back({crypt ? Reason::kDmCrypt : Reason::kGuestLayer,
                             crypt && !device.dm_name.empty() ? device.dm_name
                             : crypt                          ? device.name
                                     : absl::StrCat(layer.name, ", ", Describe(device))});
    return layer;
  }

  Layer JudgeDisk(const GuestFilesystem& filesystem, const GuestDevice& device) const {
    Layer layer;
    layer.kind = LayerKind::kGuestDisk;
    layer.name = device.name;
    layer.detail = absl::StrCat("disk", Limits(device));
    const auto takes = Takes(filesystem, device);
    if (!takes) return layer;
    layer.verdict = *takes ? LayerVerdict::kOk : LayerVerdict::kDrops;
    if (!*takes)
      layer.reasons.push_back(
          host_reason_.value_or(Blocker{Reason::kGuestNotSupported, device.name}));
    return layer;
  }

  const GuestFacts& guest_;
  const std::map<std::string, std::string> targets_;  // guest's name -> target
  const std::string target_;
  const std::optional<Blocker>& host_reason_;
  std::vector<Layer> filesystems_, devices_, disks_;
  std::set<std::string> seen_;
};

}  // namespace

std::vector<Layer> GuestLayers(const xml::Domain& live, const GuestFacts& guest,
                               const std::string& target,
                               const std::optional<Blocker>& host_reason) {
  return Builder(live, guest, target, host_reason).Build();
}

}  // namespace virt_reclaim
