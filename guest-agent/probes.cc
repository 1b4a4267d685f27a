// RealProbes(): the questions of filesystems.h put to the living system. None of them writes; none
// is asked of network filesystems.
#include <blkid/blkid.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>

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
// "E:KEY=value" lines.
std::string UdevUuid(dev_t device) {
  const auto record =
      ReadFile(absl::StrCat("/run/udev/data/b", DeviceNumberString(device)), kMaxUdevRecordBytes);
  if (!record.ok()) return "";
  constexpr absl::string_view kKey = "E:ID_FS_UUID=";
  for (const absl::string_view line : absl::StrSplit(*record, '\n')) {
    if (line.substr(0, kKey.size()) == kKey) return std::string(line.substr(kKey.size()));
  }
  return "";
}

std::string ProbedUuid(dev_t device, const std::string& name) {
  // Without udev: devtmpfs names the node as the kernel does ('!' stands for '/').
  std::string node = absl::StrCat("/dev/", name);
  for (char& c : node) c = c == '!' ? '/' : c;
  UniqueFd fd(open(node.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
  struct stat status = {};
  if (!fd.valid() || fstat(fd.get(), &status) != 0) return "";
  if (!S_ISBLK(status.st_mode) || status.st_rdev != device) return "";
  Handle<blkid_struct_probe, blkid_free_probe> probe(blkid_new_probe());
  if (probe == nullptr || blkid_probe_set_device(probe.get(), fd.get(), 0, 0) != 0) return "";
  blkid_probe_enable_superblocks(probe.get(), 1);
  blkid_probe_set_superblocks_flags(probe.get(), BLKID_SUBLKS_UUID);
  const char* uuid = nullptr;
  if (blkid_do_safeprobe(probe.get()) != 0) return "";
  if (blkid_probe_lookup_value(probe.get(), "UUID", &uuid, nullptr) != 0) return "";
  return uuid;
}

}  // namespace

SystemProbes RealProbes() {
  SystemProbes probes;
  probes.space = Space;
  probes.btrfs_uuid = BtrfsUuid;
  probes.device_uuid = [](dev_t device, const std::string& name) {
    std::string uuid = UdevUuid(device);
    return uuid.empty() ? ProbedUuid(device, name) : uuid;
  };
  return probes;
}

}  // namespace virt_reclaim::agent
