#include "host/sync/same_extents.h"

#include <linux/btrfs.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include <algorithm>
#include <cstring>

namespace virt_reclaim::sync {
namespace {

constexpr decltype(statfs::f_type) kXfsMagic = 0x58465342;  // fs/xfs/libxfs/xfs_format.h

// Its numbers are of another device. What cannot be asked counts as realtime.
bool OnRealtimeDevice(int fd) {
  struct fsxattr attributes = {};
  return ioctl(fd, FS_IOC_FSGETXATTR, &attributes) != 0 ||
         (attributes.fsx_xflags & FS_XFLAG_REALTIME) != 0;
}

}  // namespace

std::vector<Range> SamePlaces(std::span<const punch::SharedExtent> one,
                              std::span<const punch::SharedExtent> other) {
  std::vector<Range> same;
  size_t i = 0;
  size_t j = 0;
  while (i < one.size() && j < other.size()) {
    const Range a = one[i].range;
    const Range b = other[j].range;
    const Range both = {std::max(a.begin, b.begin), std::min(a.end, b.end)};
    if (both.begin < both.end &&
        one[i].physical + (both.begin - a.begin) == other[j].physical + (both.begin - b.begin)) {
      AppendJoined(same, both);
    }
    ++(a.end < b.end ? i : j);
  }
  return same;
}

bool OnSameDisk(int one, int other) {
  struct stat a;
  struct stat b;
  struct statfs fs_a;
  struct statfs fs_b;
  if (fstat(one, &a) != 0 || fstat(other, &b) != 0 || !S_ISREG(a.st_mode) || !S_ISREG(b.st_mode) ||
      fstatfs(one, &fs_a) != 0 || fstatfs(other, &fs_b) != 0 || fs_a.f_type != fs_b.f_type) {
    return false;
  }
  if (fs_a.f_type == kXfsMagic)
    return a.st_dev == b.st_dev && !OnRealtimeDevice(one) && !OnRealtimeDevice(other);
  if (fs_a.f_type != BTRFS_SUPER_MAGIC) return false;
  // A subvolume has a device number of its own.
  btrfs_ioctl_fs_info_args info_a = {};
  btrfs_ioctl_fs_info_args info_b = {};
  return ioctl(one, BTRFS_IOC_FS_INFO, &info_a) == 0 &&
         ioctl(other, BTRFS_IOC_FS_INFO, &info_b) == 0 &&
         memcmp(info_a.fsid, info_b.fsid, sizeof info_a.fsid) == 0;
}

std::vector<Range> SameExtents(int one, int other, uint64_t size_bytes) {
  if (!OnSameDisk(one, other)) return {};
  const auto a = punch::ReadSharedExtents(one, size_bytes);
  const auto b = punch::ReadSharedExtents(other, size_bytes);
  if (!a.ok() || !b.ok()) return {};
  return SamePlaces(*a, *b);
}

}  // namespace virt_reclaim::sync
