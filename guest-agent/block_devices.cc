#include "guest-agent/block_devices.h"

#include <dirent.h>
#include <stdlib.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/handle.h"
#include "base/io.h"

namespace virt_reclaim::agent {
namespace {

constexpr size_t kMaxAttributeBytes =
    8192;  // a sysfs file is at most a page; backing_file is a path
constexpr uint64_t kSector =
    512;  // the unit of `size` and `start`, whatever the device's own sector is
constexpr size_t kMaxIdBytes = 256;

std::string Attribute(const std::string& directory, absl::string_view name) {
  auto content = ReadFile(absl::StrCat(directory, "/", name), kMaxAttributeBytes);
  if (!content.ok()) return "";
  // Loop and md names may hold anything but the newline the kernel adds.
  if (!content->empty() && content->back() == '\n') content->pop_back();
  return *std::move(content);
}

uint64_t Number(const std::string& directory, absl::string_view name) {
  uint64_t value = 0;
  return absl::SimpleAtoi(Attribute(directory, name), &value) ? value : 0;
}

std::optional<dev_t> ParseDeviceNumber(absl::string_view text) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ':');
  unsigned major_part = 0;
  unsigned minor_part = 0;
  if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &major_part) ||
      !absl::SimpleAtoi(parts[1], &minor_part)) {
    return std::nullopt;
  }
  return makedev(major_part, minor_part);
}

std::string Directory(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos || slash == 0 ? "/" : path.substr(0, slash);
}

std::string BaseName(const std::string& path) { return path.substr(path.rfind('/') + 1); }

// Names in `path`, sorted; at most `limit` + 1, so that the caller sees that there are more.
std::vector<std::string> List(const std::string& path, size_t limit = kMaxDevices) {
  std::vector<std::string> names;
  Handle<DIR, closedir> directory(opendir(path.c_str()));
  if (directory == nullptr) return names;
  while (names.size() <= limit) {
    const dirent* entry = readdir(directory.get());
    if (entry == nullptr) break;
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<dev_t> DevicesIn(const std::string& path) {
  std::vector<dev_t> numbers;
  for (const std::string& name : List(path)) {
    if (const auto number = ParseDeviceNumber(Attribute(absl::StrCat(path, "/", name), "dev"))) {
      numbers.push_back(*number);
    }
  }
  return numbers;
}

bool IsScsiAddress(absl::string_view name) {
  const std::vector<absl::string_view> parts = absl::StrSplit(name, ':');
  return parts.size() == 4 && std::all_of(parts.begin(), parts.end(), [](absl::string_view part) {
           uint64_t value = 0;
           return absl::SimpleAtoi(part, &value);
         });
}

std::string Identifier(absl::string_view text) {
  return std::string(absl::StripAsciiWhitespace(text.substr(0, text.find('\0'))))
      .substr(0, kMaxIdBytes);
}

// "ata3" in a path is the kernel's third port; which of its controller's that is the port says
// itself (Documentation/ABI/testing/sysfs-ata, port_no).
uint32_t AtaPort(const std::string& sysfs, absl::string_view bus_path) {
  for (const absl::string_view part : absl::StrSplit(bus_path, '/')) {
    uint32_t number = 0;
    if (part.substr(0, 3) != "ata" || !absl::SimpleAtoi(part.substr(3), &number)) continue;
    const std::string text = Attribute(absl::StrCat(sysfs, "/class/ata_port/", part), "port_no");
    return absl::SimpleAtoi(text, &number) ? number : 0;
  }
  return 0;
}

void FillDiskIdentity(const std::string& sysfs, const std::string& directory, BlockDevice& device) {
  const std::string node = absl::StrCat(directory, "/device");
  device.serial = Identifier(Attribute(directory, "serial"));                        // virtio-blk
  if (device.serial.empty()) device.serial = Identifier(Attribute(node, "serial"));  // nvme, mmc
  if (device.serial.empty()) {
    // SCSI "unit serial number" page: four bytes of header, then the serial (SPC-4 7.8.15).
    const std::string page = Attribute(node, "vpd_pg80");
    if (page.size() > 4) device.serial = Identifier(absl::string_view(page).substr(4));
  }
  device.wwid = Identifier(Attribute(directory, "wwid"));  // nvme
  if (device.wwid.empty()) device.wwid = Identifier(Attribute(node, "wwid"));
  if (const std::string address = BaseName(RealPath(node)); IsScsiAddress(address))
    device.scsi_address = address;

  const std::string prefix = absl::StrCat(RealPath(sysfs), "/devices/");
  std::string path = Directory(directory);
  if (BaseName(path) == "block") path = Directory(path);
  if (absl::string_view(path).substr(0, prefix.size()) != prefix) return;
  path.erase(0, prefix.size());
  if (path != "virtual" && path.rfind("virtual/", 0) != 0) device.bus_path = path;
  device.ata_port = AtaPort(sysfs, device.bus_path);
}

DeviceKind DmKind(absl::string_view uuid) {
  if (uuid.substr(0, 6) == "CRYPT-") return DeviceKind::kDmCrypt;
  if (uuid.substr(0, 4) == "LVM-") return DeviceKind::kLvm;
  return DeviceKind::kDmOther;
}

struct Found {
  BlockDevice device;
  std::vector<dev_t> parents;
};

std::optional<Found> ReadDevice(const std::string& sysfs, dev_t number) {
  const std::string directory =
      RealPath(absl::StrCat(sysfs, "/dev/block/", DeviceNumberString(number)));
  if (directory.empty()) return std::nullopt;
  Found found;
  BlockDevice& device = found.device;
  device.name = BaseName(directory);
  device.number = number;
  device.size_bytes = Number(directory, "size") * kSector;
  std::string queue = absl::StrCat(directory, "/queue");
  if (access(absl::StrCat(directory, "/partition").c_str(), F_OK) == 0) {
    device.kind = DeviceKind::kPartition;
    device.start_bytes = Number(directory, "start") * kSector;
    const std::string disk = Directory(directory);
    queue = absl::StrCat(disk, "/queue");  // a partition has no queue of its own
    if (const auto parent = ParseDeviceNumber(Attribute(disk, "dev"))) found.parents = {*parent};
  } else {
    found.parents = DevicesIn(absl::StrCat(directory, "/slaves"));
    device.dm_name = Attribute(directory, "dm/name");
    device.dm_uuid = Attribute(directory, "dm/uuid");
    device.md_level = Attribute(directory, "md/level");
    device.backing_file = Attribute(directory, "loop/backing_file");
    if (access(absl::StrCat(directory, "/dm").c_str(), F_OK) == 0) {
      device.kind = DmKind(device.dm_uuid);
    } else if (access(absl::StrCat(directory, "/md").c_str(), F_OK) == 0) {
      device.kind = DeviceKind::kMd;
    } else if (access(absl::StrCat(directory, "/loop").c_str(), F_OK) == 0) {
      device.kind = DeviceKind::kLoop;
    } else if (found.parents.empty()) {
      device.kind = DeviceKind::kDisk;
      FillDiskIdentity(sysfs, directory, device);
    }
  }
  device.discard_max_bytes = Number(queue, "discard_max_bytes");
  device.discard_granularity_bytes = Number(queue, "discard_granularity");
  return found;
}

// The ways down from one device: is there one that reaches a disk, and is there one where discards
// are dropped?
struct Ways {
  bool pass = false;
  const BlockDevice* culprit = nullptr;
  const BlockDevice* loop_device = nullptr;
};

class Judge {
 public:
  explicit Judge(const DeviceChain& chain) {
    for (const BlockDevice& device : chain.devices) by_name_.emplace(device.name, &device);
  }

  // Each device is judged once, so that the work is linear and a cycle ends.
  Ways Below(const BlockDevice& device) {
    const auto [it, inserted] = known_.try_emplace(&device);
    if (!inserted) return it->second;
    Ways ways;
    bool below_takes = false;
    bool has_parents = false;
    for (const std::string& name : device.parents) {
      const auto parent = by_name_.find(name);
      // Thin pools send discards to their data device only; the metadata device's limits do not
      // matter.
      if (parent == by_name_.end() || parent->second->dm_uuid.ends_with("-tmeta")) continue;
      has_parents = true;
      below_takes = below_takes || parent->second->discard_max_bytes > 0;
      const Ways below = Below(*parent->second);
      ways.pass = ways.pass || below.pass;
      if (ways.culprit == nullptr) ways.culprit = below.culprit;
      if (ways.loop_device == nullptr) ways.loop_device = below.loop_device;
    }
    if (device.kind == DeviceKind::kLoop) ways.loop_device = &device;
    if (device.discard_max_bytes == 0) {
      ways.pass = false;
      // It drops them by itself, or it inherits the zero from the device below that is the culprit.
      if (below_takes || !has_parents || ways.culprit == nullptr) ways.culprit = &device;
    } else if (!has_parents) {
      ways.pass = true;
    }
    known_[&device] = ways;
    return ways;
  }

 private:
  std::map<absl::string_view, const BlockDevice*> by_name_;
  std::map<const BlockDevice*, Ways> known_;
};

Obstacle ObstacleOf(const BlockDevice& culprit) {
  switch (culprit.kind) {
    case DeviceKind::kDisk:
    case DeviceKind::kPartition:
      return Obstacle::kDiskNotSupported;
    case DeviceKind::kDmCrypt:
      return Obstacle::kDmCrypt;
    default:
      return Obstacle::kLayerNotSupported;
  }
}

}  // namespace

absl::string_view DeviceKindName(DeviceKind kind) {
  switch (kind) {
    case DeviceKind::kDisk:
      return "disk";
    case DeviceKind::kPartition:
      return "partition";
    case DeviceKind::kDmCrypt:
      return "dm-crypt";
    case DeviceKind::kLvm:
      return "lvm";
    case DeviceKind::kDmOther:
      return "dm";
    case DeviceKind::kMd:
      return "md";
    case DeviceKind::kLoop:
      return "loop";
    case DeviceKind::kUnknown:
      break;
  }
  return "unknown";
}

std::string DeviceNumberString(dev_t number) {
  return absl::StrCat(major(number), ":", minor(number));
}

DeviceChain ReadDeviceChain(std::span<const dev_t> tops, const std::string& sysfs) {
  DeviceChain chain;
  std::map<dev_t, std::string> names;  // of every device met; empty: not in sysfs
  std::vector<std::vector<dev_t>> parents;
  const auto add = [&](dev_t number) {
    if (names.contains(number)) return;
    if (chain.devices.size() == kMaxDevices) {
      chain.truncated = true;
      return;
    }
    auto found = ReadDevice(sysfs, number);
    names[number] = found ? found->device.name : "";
    if (!found) return;
    chain.devices.push_back(std::move(found->device));
    parents.push_back(std::move(found->parents));
  };
  for (const dev_t top : tops) add(top);
  chain.tops = chain.devices.size();
  // Breadth first; `chain.devices` is the queue. What was met before is not added again, so cycles
  // end.
  for (size_t next = 0; next < chain.devices.size(); ++next) {
    for (const dev_t parent : std::vector<dev_t>(parents[next])) {
      add(parent);
      const auto name = names.find(parent);
      if (name == names.end() || name->second.empty()) continue;
      std::vector<std::string>& list = chain.devices[next].parents;
      if (std::find(list.begin(), list.end(), name->second) == list.end())
        list.push_back(name->second);
    }
  }
  return chain;
}

std::vector<dev_t> BtrfsMembers(absl::string_view uuid, const std::string& sysfs) {
  if (uuid.empty() || uuid.find('/') != absl::string_view::npos || uuid[0] == '.') return {};
  return DevicesIn(absl::StrCat(sysfs, "/fs/btrfs/", uuid, "/devices"));
}

std::vector<dev_t> AllBlockDevices(size_t limit, const std::string& sysfs) {
  std::vector<dev_t> numbers;
  for (const std::string& name : List(absl::StrCat(sysfs, "/dev/block"), limit)) {
    if (numbers.size() == limit) break;
    if (const auto number = ParseDeviceNumber(name)) numbers.push_back(*number);
  }
  return numbers;
}

Verdict JudgeChain(const DeviceChain& chain) {
  Judge judge(chain);
  bool pass = false;
  const BlockDevice* culprit = nullptr;
  const BlockDevice* loop_device = nullptr;
  for (size_t i = 0; i < chain.tops; ++i) {
    const Ways ways = judge.Below(chain.devices[i]);
    pass = pass || ways.pass;
    if (culprit == nullptr) culprit = ways.culprit;
    if (loop_device == nullptr) loop_device = ways.loop_device;
  }
  if (loop_device != nullptr) return {Obstacle::kLoop, loop_device->name};
  if (culprit == nullptr) return {};
  return {pass ? Obstacle::kPartial : ObstacleOf(*culprit), culprit->name};
}

}  // namespace virt_reclaim::agent
