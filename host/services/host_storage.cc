#include "host/services/host_storage.h"

#include <dirent.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/handle.h"
#include "base/io.h"
#include "base/mount_table.h"

namespace virt_reclaim {
namespace {

constexpr size_t kMaxDevices = 64;
constexpr uint64_t kSector = 512;  // of sysfs, whatever the device's own is
constexpr uint64_t kMaxSectors = UINT64_MAX / kSector;
constexpr size_t kMaxAttributeBytes = 4096;  // a sysfs file is at most a page

constexpr std::array kFilesystems = std::to_array<std::pair<int64_t, absl::string_view>>({
    {EXT4_SUPER_MAGIC, "ext4"},
    {XFS_SUPER_MAGIC, "xfs"},
    {BTRFS_SUPER_MAGIC, "btrfs"},
    {TMPFS_MAGIC, "tmpfs"},
    {NFS_SUPER_MAGIC, "nfs"},
    {OVERLAYFS_SUPER_MAGIC, "overlay"},
    {F2FS_SUPER_MAGIC, "f2fs"},
    {FUSE_SUPER_MAGIC, "fuse"},
    {MSDOS_SUPER_MAGIC, "vfat"},
    {EXFAT_SUPER_MAGIC, "exfat"},
    {CEPH_SUPER_MAGIC, "ceph"},
    {SMB2_SUPER_MAGIC, "cifs"},
    {CIFS_SUPER_MAGIC, "cifs"},
    {0x2fc12fc1, "zfs"},   // not in the kernel's own list
    {0x01161970, "gfs2"},  // linux/gfs2_ondisk.h
    {0x7461636f, "ocfs2"},
    {0x5346544e, "ntfs"},
    {0x7366746e, "ntfs3"},
});

std::string Attribute(const std::string& directory, absl::string_view name) {
  auto content = ReadFile(absl::StrCat(directory, "/", name), kMaxAttributeBytes);
  if (!content.ok()) return "";
  return std::string(absl::StripSuffix(*content, "\n"));
}

std::vector<std::string> Slaves(const std::string& directory) {
  std::vector<std::string> names;
  Handle<DIR, closedir> list(opendir(absl::StrCat(directory, "/slaves").c_str()));
  if (list == nullptr) return names;
  while (names.size() < kMaxDevices) {
    const dirent* entry = readdir(list.get());
    if (entry == nullptr) break;
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

HostDevice ReadDevice(const std::string& directory) {
  HostDevice device;
  device.name = directory.substr(directory.rfind('/') + 1);
  device.dm_name = Attribute(directory, "dm/name");
  device.dm_uuid = Attribute(directory, "dm/uuid");
  device.parents = Slaves(directory);
  uint32_t major = 0, minor = 0;
  const std::vector<std::string> number_parts = absl::StrSplit(Attribute(directory, "dev"), ':');
  if (number_parts.size() == 2 && absl::SimpleAtoi(number_parts[0], &major) &&
      absl::SimpleAtoi(number_parts[1], &minor)) {
    device.number = makedev(major, minor);
  }
  uint64_t sectors = 0;
  if (absl::SimpleAtoi(Attribute(directory, "size"), &sectors) && sectors <= kMaxSectors)
    device.size = sectors * kSector;
  // A partition has no queue of its own.
  const bool partition = access(absl::StrCat(directory, "/partition").c_str(), F_OK) == 0;
  const std::string queue =
      absl::StrCat(partition ? directory.substr(0, directory.rfind('/')) : directory, "/queue");
  uint64_t number = 0;
  if (absl::SimpleAtoi(Attribute(queue, "discard_max_bytes"), &number)) device.discard_max = number;
  if (absl::SimpleAtoi(Attribute(queue, "discard_granularity"), &number))
    device.discard_granularity = number;
  return device;
}

}  // namespace

std::vector<HostDevice> ReadHostDevices(dev_t number, const std::string& sysfs) {
  std::vector<HostDevice> devices;
  std::vector<std::string> open{
      RealPath(absl::StrCat(sysfs, "/dev/block/", major(number), ":", minor(number)))};
  for (size_t next = 0; next < open.size() && devices.size() < kMaxDevices; ++next) {
    const std::string directory = open[next];
    if (directory.empty()) continue;
    devices.push_back(ReadDevice(directory));
    for (const std::string& name : devices.back().parents) {
      const std::string below = RealPath(absl::StrCat(directory, "/slaves/", name));
      if (std::find(open.begin(), open.end(), below) == open.end()) open.push_back(below);
    }
  }
  return devices;
}

std::string NfsVersion(dev_t device, const std::string& mountinfo) {
  const auto mounts = ReadMountTable(mountinfo);
  if (!mounts.ok()) return "";
  const std::string number = absl::StrCat(major(device), ":", minor(device));
  for (const Mount& mount : *mounts) {
    if (mount.device != number || !absl::StartsWith(mount.filesystem, "nfs")) continue;
    for (absl::string_view option : absl::StrSplit(mount.options, ',')) {
      if (absl::ConsumePrefix(&option, "vers=")) return std::string(option);
    }
  }
  return "";
}

std::string FilesystemType(const std::string& path) {
  struct statfs status = {};
  if (statfs(path.c_str(), &status) != 0) return "";
  const auto type = static_cast<int64_t>(status.f_type);
  for (const auto& [magic, name] : kFilesystems) {
    if (magic == type) return std::string(name);
  }
  return absl::StrCat("0x", absl::Hex(type));
}

}  // namespace virt_reclaim
