// RealProbes(): the questions of filesystems.h put to the living system. None of them writes; none
// is asked of network filesystems.
#include <blkid/blkid.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/handle.h"
#include "base/io.h"
#include "base/unique_fd.h"
#include "guest-agent/filesystems.h"

namespace virt_reclaim::agent {
namespace {

constexpr size_t kMaxUdevRecordBytes = size_t{256} << 10;
constexpr size_t kMaxCompared = 1024;  // devices with which one is compared

std::optional<SpaceUsage> Space(const std::string& mount_point) {
  struct statvfs usage = {};
  if (statvfs(mount_point.c_str(), &usage) != 0) return std::nullopt;
  const auto bytes = [&](uint64_t blocks) { return blocks * usage.f_frsize; };
  const uint64_t free_blocks = std::min<uint64_t>(usage.f_bfree, usage.f_blocks);
  return SpaceUsage{bytes(usage.f_blocks), bytes(usage.f_blocks - free_blocks), bytes(free_blocks)};
}

std::string BtrfsUuid(const std::string& mount_point) {
  UniqueFd fd(open(mount_point.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
  btrfs_ioctl_fs_info_args info = {};
  if (!fd.valid() || ioctl(fd.get(), BTRFS_IOC_FS_INFO, &info) != 0) return "";
  std::string uuid;
  for (size_t i = 0; i < sizeof info.fsid; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) uuid += '-';
    uuid += absl::StrFormat("%02x", info.fsid[i]);
  }
  return uuid;
}

// udev_device(7) has no text format to rely on; libudev reads the same file with the same
// "E:KEY=value" lines. Empty ids when there is no record.
DeviceIds UdevIds(dev_t device) {
  DeviceIds ids;
  const auto record =
      ReadFile(absl::StrCat("/run/udev/data/b", DeviceNumberString(device)), kMaxUdevRecordBytes);
  if (!record.ok()) return ids;
  const std::pair<absl::string_view, std::string*> keys[] = {
      {"E:ID_FS_TYPE=", &ids.type},
      {"E:ID_FS_USAGE=", &ids.usage},
      {"E:ID_FS_UUID=", &ids.uuid},
      {"E:ID_PART_ENTRY_UUID=", &ids.part_uuid}};
  for (const absl::string_view line : absl::StrSplit(*record, '\n')) {
    for (const auto& [key, value] : keys) {
      if (line.substr(0, key.size()) == key) *value = std::string(line.substr(key.size()));
    }
  }
  return ids;
}

DeviceIds ProbedIds(dev_t device, const std::string& name) {
  DeviceIds ids;
  // Without udev: devtmpfs names the node as the kernel does ('!' stands for '/').
  std::string node = absl::StrCat("/dev/", name);
  for (char& c : node) c = c == '!' ? '/' : c;
  UniqueFd fd(open(node.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
  struct stat status = {};
  if (!fd.valid() || fstat(fd.get(), &status) != 0) return ids;
  if (!S_ISBLK(status.st_mode) || status.st_rdev != device) return ids;
  Handle<blkid_struct_probe, blkid_free_probe> probe(blkid_new_probe());
  if (probe == nullptr || blkid_probe_set_device(probe.get(), fd.get(), 0, 0) != 0) return ids;
  blkid_probe_enable_superblocks(probe.get(), 1);
  blkid_probe_set_superblocks_flags(probe.get(),
                                    BLKID_SUBLKS_UUID | BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE);
  blkid_probe_enable_partitions(probe.get(), 1);
  blkid_probe_set_partitions_flags(probe.get(), BLKID_PARTS_ENTRY_DETAILS);
  if (blkid_do_safeprobe(probe.get()) != 0) return ids;
  const std::pair<const char*, std::string*> keys[] = {{"TYPE", &ids.type},
                                                       {"USAGE", &ids.usage},
                                                       {"UUID", &ids.uuid},
                                                       {"PART_ENTRY_UUID", &ids.part_uuid}};
  for (const auto& [key, value] : keys) {
    const char* found = nullptr;
    if (blkid_probe_lookup_value(probe.get(), key, &found, nullptr) == 0) *value = found;
  }
  return ids;
}

DeviceIds Identify(dev_t device, const std::string& name) {
  DeviceIds ids = UdevIds(device);
  return ids.uuid.empty() && ids.part_uuid.empty() ? ProbedIds(device, name) : ids;
}

// Of a device that some name means: sysfs knows its own.
std::string KernelName(dev_t device) {
  const DeviceChain chain = ReadDeviceChain(std::span(&device, 1));
  return chain.devices.empty() ? "" : chain.devices.front().name;
}

}  // namespace

SystemProbes RealProbes() {
  SystemProbes probes;
  probes.space = Space;
  probes.btrfs_uuid = BtrfsUuid;
  probes.device_uuid = [](dev_t device, const std::string& name) {
    std::string uuid = UdevIds(device).uuid;
    return uuid.empty() ? ProbedIds(device, name).uuid : uuid;
  };
  return probes;
}

std::optional<DeviceIds> IdentifyRealDevice(const std::string& path) {
  struct stat status = {};
  if (stat(path.c_str(), &status) != 0 || !S_ISBLK(status.st_mode)) return std::nullopt;
  const std::string name = KernelName(status.st_rdev);
  if (name.empty()) return std::nullopt;
  DeviceIds ids = Identify(status.st_rdev, name);
  for (const dev_t other : AllBlockDevices(kMaxCompared)) {
    if (ids.uuid.empty() && ids.part_uuid.empty()) break;
    if (other == status.st_rdev) continue;
    const DeviceIds others = Identify(other, KernelName(other));
    // The members of a btrfs share one on purpose, and any of them will do.
    if (others.uuid == ids.uuid && ids.type != "btrfs") ids.uuid.clear();
    if (others.part_uuid == ids.part_uuid) ids.part_uuid.clear();
  }
  return ids;
}

}  // namespace virt_reclaim::agent
