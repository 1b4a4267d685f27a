#include "host/model/guest_layers.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/byte_size.h"
#include "host/model/assessment.h"
#include "host/model/guest_disks.h"
#include "host/model/loop_files.h"

namespace virt_reclaim {
namespace {

// Of each kind, of one disk: nobody reads more, and a guest can make up a hundred thousand.
constexpr size_t kMaxLayers = 200;

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

// What is wrong first; of too many only the worst, and the next one stands for the rest.
void KeepTheWorst(std::vector<Layer>& layers) {
  if (layers.size() <= kMaxLayers) return;
  const auto rank = [](const Layer& layer) {
    switch (layer.verdict) {
      case LayerVerdict::kDrops:
        return 0;
      case LayerVerdict::kPartly:
        return 1;
      case LayerVerdict::kUnknown:
        return 2;
      case LayerVerdict::kOk:
        break;
    }
    return 3;
  };
  std::stable_sort(layers.begin(), layers.end(),
                   [&](const Layer& a, const Layer& b) { return rank(a) < rank(b); });
  layers[kMaxLayers].name = absl::StrCat("(", layers.size() - kMaxLayers, " more)");
  layers[kMaxLayers].detail.clear();
  layers.resize(kMaxLayers + 1);
}

// Collects the layers of one disk. Filesystems may share devices; each is judged once. What the
// guest tells may be made up, in any number: each filesystem and device is looked at a few times
// only.
class Builder {
 public:
  Builder(const GuestFacts& guest, const std::map<std::string, std::string>& guest_to_target,
          std::string target, const std::optional<Blocker>& host_reason)
      : guest_(guest),
        targets_(guest_to_target),
        target_(std::move(target)),
        host_reason_(host_reason),
        ways_(WaysToTarget()),
        files_(guest, AreOnTarget()) {}

  std::vector<Layer> Build() {
    for (size_t i = 0; i < guest_.filesystems.size(); ++i) AddFilesystem(i);
    // What cannot be trimmed by its own nature matters for the disk only when there is nothing
    // else on it.
    const bool all = std::all_of(filesystems_.begin(), filesystems_.end(), [](const Layer& layer) {
      return layer.verdict == LayerVerdict::kDrops;
    });
    for (Layer& layer : filesystems_) {
      if (!all && layer.verdict == LayerVerdict::kDrops) layer.verdict = LayerVerdict::kPartly;
    }
    if (filesystems_.empty()) {
      Layer none;
      none.name = "-";
      none.detail = "no mounted filesystem of the guest is known to lie on this disk";
      filesystems_.push_back(std::move(none));
    }
    std::vector<Layer> layers;
    for (std::vector<Layer>* part : {&filesystems_, &devices_, &disks_}) {
      KeepTheWorst(*part);
      std::move(part->begin(), part->end(), std::back_inserter(layers));
    }
    return layers;
  }

 private:
  void AddFilesystem(size_t index) {
    const GuestFilesystem& filesystem = guest_.filesystems[index];
    const Way& way = ways_[index];
    const Way through = WayThroughLoops(filesystem);
    if (way.empty() && through.empty()) return;
    // Read-only images on loop devices (snap packages) are no business of anybody's.
    if (way.empty() && IsOwnObstacle(filesystem.obstacle)) return;
    filesystems_.push_back(JudgeFilesystem(filesystem));
    Way both = way;
    both.insert(through.begin(), through.end());
    for (const GuestDevice& device : filesystem.devices) {
      if (!both.contains(device.name) || !seen_.insert(device.name).second) continue;
      if (device.is_disk) {
        disks_.push_back(JudgeDisk(filesystem, device));
      } else if (device.kind != GuestDeviceKind::kPartition && !IsThinMetadata(device)) {
        Layer layer = JudgeDevice(filesystem, device, both);
        // What lies in the file is lost; what lies beside it on the disk comes back all the same.
        if (!way.contains(device.name) && layer.verdict == LayerVerdict::kDrops)
          layer.verdict = LayerVerdict::kPartly;
        devices_.push_back(std::move(layer));
      }
    }
  }

  // The devices of a filesystem through which its discards come to the target, with the disk.
  using Way = std::set<std::string>;
  Way WayToTarget(const GuestFilesystem& filesystem) const {
    return UpFrom(filesystem, [&](const GuestDevice& device) {
      const auto found = targets_.find(device.name);
      return device.is_disk && found != targets_.end() && found->second == target_;
    });
  }

  std::vector<Way> WaysToTarget() const {
    std::vector<Way> ways;
    for (const GuestFilesystem& filesystem : guest_.filesystems)
      ways.push_back(WayToTarget(filesystem));
    return ways;
  }
  std::vector<bool> AreOnTarget() const {
    std::vector<bool> on_target;
    for (const Way& way : ways_) on_target.push_back(!way.empty());
    return on_target;
  }

  // The same with loop devices in place of the disk, in files that lie on the target.
  Way WayThroughLoops(const GuestFilesystem& filesystem) {
    std::set<const GuestDevice*> loops;
    for (const GuestDevice* loop : LoopFiles::LoopsOf(filesystem)) {
      const auto holder = files_.HolderOf(loop->backing_file);
      if (holder && files_.Reaches(*holder)) loops.insert(loop);
    }
    return UpFrom(filesystem, [&](const GuestDevice& device) { return loops.contains(&device); });
  }

  // Those that `is_start` chooses, and all above them.
  template <typename IsStart>
  static Way UpFrom(const GuestFilesystem& filesystem, IsStart is_start) {
    Way way;
    std::vector<absl::string_view> open;
    for (const GuestDevice& device : filesystem.devices) {
      if (is_start(device) && way.insert(device.name).second) open.push_back(device.name);
    }
    if (open.empty()) return way;
    std::multimap<absl::string_view, absl::string_view> above;
    for (const GuestDevice& device : filesystem.devices) {
      for (const std::string& parent : device.parents) above.emplace(parent, device.name);
    }
    while (!open.empty()) {
      const auto [begin, end] = above.equal_range(open.back());
      open.pop_back();
      for (auto entry = begin; entry != end; ++entry) {
        if (way.insert(std::string(entry->second)).second) open.push_back(entry->second);
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

  static Layer JudgeDevice(const GuestFilesystem& filesystem, const GuestDevice& device,
                           const Way& way) {
    Layer layer;
    layer.kind = LayerKind::kGuestDevice;
    layer.name =
        device.dm_name.empty() ? device.name : absl::StrCat(device.dm_name, " (", device.name, ")");
    layer.detail = absl::StrCat(Describe(device), Limits(device));
    if (device.kind == GuestDeviceKind::kLoop) {
      layer.verdict = LayerVerdict::kPartly;
      // Its kernel knows by the file's filesystem: one without holes.
      if (device.discard_max == 0)
        layer.reasons.push_back(
            {Reason::kGuestLayer, absl::StrCat(layer.name, ", ", layer.detail)});
      layer.reasons.push_back({Reason::kLoopDevice, device.backing_file});
      return layer;
    }
    const auto takes = Takes(filesystem, device);
    if (!takes) return layer;
    if (*takes) {
      layer.verdict = LayerVerdict::kOk;
      return layer;
    }
    const Legs legs = LegsOf(filesystem, device, way);
    const bool blamed = filesystem.obstacle_device == device.name;
    if (!legs.way_takes && (legs.way_drops || !blamed)) {
      // It may pass them on or not: nobody can tell while it has none to pass on.
      absl::StrAppend(&layer.detail, ", as what lies below it");
      return layer;
    }
    layer.verdict = LayerVerdict::kDrops;
    const bool crypt = device.kind == GuestDeviceKind::kDmCrypt;
    if (crypt) {
      layer.reasons.push_back(
          {Reason::kDmCrypt, device.dm_name.empty() ? device.name : device.dm_name});
      return layer;
    }
    const std::string others = legs.others.empty() ? ""
                                                   : absl::StrCat(": no discards below in ",
                                                                  absl::StrJoin(legs.others, ", "));
    layer.reasons.push_back(
        {Reason::kGuestLayer, absl::StrCat(layer.name, ", ", Describe(device), others)});
    return layer;
  }

  // What lies right below a device: on the way to the target, and elsewhere.
  struct Legs {
    bool way_takes = false, way_drops = false;
    std::vector<std::string> others;  // that take no discards
  };
  static Legs LegsOf(const GuestFilesystem& filesystem, const GuestDevice& device, const Way& way) {
    constexpr size_t kMostNamed = 4;
    Legs legs;
    for (const GuestDevice& below : filesystem.devices) {
      const bool is_below = std::find(device.parents.begin(), device.parents.end(), below.name) !=
                            device.parents.end();
      if (!is_below || IsThinMetadata(below)) continue;
      const auto takes = Takes(filesystem, below);
      if (way.contains(below.name)) {
        legs.way_takes = legs.way_takes || takes == true;
        legs.way_drops = legs.way_drops || takes == false;
      } else if (takes == false && legs.others.size() < kMostNamed) {
        legs.others.push_back(below.name);
      }
    }
    return legs;
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
  const std::map<std::string, std::string>& targets_;  // guest's name -> target
  const std::string target_;
  const std::optional<Blocker>& host_reason_;
  const std::vector<Way> ways_;  // of each filesystem; empty: none
  LoopFiles files_;
  std::vector<Layer> filesystems_, devices_, disks_;
  std::set<std::string> seen_;
};

}  // namespace

std::vector<Layer> GuestLayers(const GuestFacts& guest,
                               const std::map<std::string, std::string>& guest_to_target,
                               const std::string& target,
                               const std::optional<Blocker>& host_reason) {
  return Builder(guest, guest_to_target, target, host_reason).Build();
}

}  // namespace virt_reclaim
