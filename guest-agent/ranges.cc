#include "guest-agent/ranges.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/saturating_add.h"
#include "base/unique_fd.h"

namespace virt_reclaim::agent {
namespace {

constexpr uint64_t kMaxRanges = uint64_t{1} << 20;
constexpr uint64_t kEverything = std::numeric_limits<uint64_t>::max();
constexpr off_t kExt4SuperblockOffset = 1024;
constexpr uint64_t kMaxUnitBytes = uint64_t{1}
                                   << 44;  // no filesystem has larger groups (XFS: 1 TiB)

// struct xfs_fsop_geom_v1 and XFS_IOC_FSGEOMETRY_V1 of xfs_fs.h, written down here because
// <xfs/xfs_fs.h> is no kernel header package's and this is all we need of it.
struct XfsGeometryV1 {
  uint32_t block_size;
  uint32_t rt_extent_size;
  uint32_t ag_blocks;
  uint32_t ag_count;
  uint32_t log_blocks;
  uint32_t sector_size;
  uint32_t inode_size;
  uint32_t inode_max_percent;
  uint64_t data_blocks;
  uint64_t rt_blocks;
  uint64_t rt_extents;
  uint64_t log_start;
  unsigned char uuid[16];
  uint32_t stripe_unit;
  uint32_t stripe_width;
  int32_t version;
  uint32_t flags;
  uint32_t log_sector_size;
  uint32_t rt_sector_size;
  uint32_t dir_block_size;
};
constexpr unsigned long kXfsIocGeometryV1 = _IOR('X', 100, XfsGeometryV1);

std::optional<Geometry> XfsGeometry(int fd) {
  XfsGeometryV1 geometry = {};
  if (ioctl(fd, kXfsIocGeometryV1, &geometry) != 0) return std::nullopt;
  const uint64_t unit = uint64_t{geometry.block_size} * geometry.ag_blocks;
  if (unit == 0 || unit > kMaxUnitBytes) return std::nullopt;
  if (geometry.data_blocks > kEverything / geometry.block_size) return std::nullopt;
  return Geometry{unit, 0, geometry.block_size * geometry.data_blocks, true};
}

std::optional<Geometry> Ext4Geometry(const Filesystem& filesystem) {
  if (filesystem.chain.devices.empty()) return std::nullopt;
  const BlockDevice& device = filesystem.chain.devices.front();
  std::string node = absl::StrCat("/dev/", device.name);
  std::replace(node.begin(), node.end(), '!', '/');  // sysfs writes '/' of a device name so
  UniqueFd fd(open(node.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
  struct stat status = {};
  if (!fd.valid() || fstat(fd.get(), &status) != 0) return std::nullopt;
  if (!S_ISBLK(status.st_mode) || status.st_rdev != device.number) return std::nullopt;
  std::array<uint8_t, 1024> bytes = {};
  if (pread(fd.get(), bytes.data(), bytes.size(), kExt4SuperblockOffset) != ssize_t{bytes.size()})
    return std::nullopt;
  return ParseExt4Superblock(bytes);
}

}  // namespace

RangePlan::RangePlan(const Geometry& geometry, uint64_t chunk_bytes, uint64_t start)
    : offset_(geometry.offset_bytes), size_(geometry.size_bytes) {
  const uint64_t unit = geometry.unit_bytes;
  if (unit == 0) return;
  uint64_t wish = chunk_bytes;
  if (wish == 0) wish = geometry.default_is_unit ? unit : kDefaultChunkBytes;
  wish = std::max(wish, size_ / kMaxRanges);
  const uint64_t units = wish / unit + (wish % unit != 0 ? 1 : 0);
  step_ = units > kEverything / unit ? 0 : units * unit;
  if (step_ > 0 && start > offset_ && start < size_) {
    const uint64_t before = (start - offset_) / unit;
    first_ = before == 0 ? 0 : offset_ + before * unit;
  }
}

TrimRange RangePlan::At(uint64_t start) const {
  if (only_.length > 0) return only_;
  if (step_ == 0) return {start, kEverything - start};
  // The first range starts at 0, before the first unit; every other at a boundary.
  const uint64_t end = SaturatingAdd(start == 0 ? offset_ : start, step_);
  if (end >= size_) return {start, kEverything - start};
  return {start, end - start};
}

std::optional<uint64_t> RangePlan::After(const TrimRange& range) const {
  if (only_.length > 0) return std::nullopt;
  if (range.length >= kEverything - range.start) return std::nullopt;
  return range.start + range.length;
}

std::optional<Geometry> ParseExt4Superblock(std::span<const uint8_t> bytes) {
  if (bytes.size() < 1024) return std::nullopt;
  const auto u16 = [&](size_t at) {
    return static_cast<uint32_t>(bytes[at]) | static_cast<uint32_t>(bytes[at + 1]) << 8;
  };
  const auto u32 = [&](size_t at) { return u16(at) | u16(at + 2) << 16; };
  constexpr uint32_t kMagic = 0xef53;
  constexpr uint32_t kIncompat64Bit = 0x80;
  const uint32_t log_block_size = u32(24);
  const uint64_t blocks_per_group = u32(32);
  const uint64_t first_block = u32(20);
  if (u16(56) != kMagic || log_block_size > 6 || blocks_per_group == 0 || first_block > 1)
    return std::nullopt;
  const uint64_t block = uint64_t{1024} << log_block_size;
  const uint64_t high = (u32(96) & kIncompat64Bit) != 0 ? u32(336) : 0;
  const uint64_t blocks = high << 32 | u32(4);
  if (blocks > kEverything / block || blocks_per_group * block > kMaxUnitBytes) return std::nullopt;
  return Geometry{blocks_per_group * block, first_block * block, blocks * block, false};
}

Geometry ReadGeometry(const Filesystem& filesystem, int fd) {
  std::optional<Geometry> geometry;
  if (filesystem.type == "xfs") geometry = XfsGeometry(fd);
  if (filesystem.type == "ext4" || filesystem.type == "ext3" || filesystem.type == "ext2")
    geometry = Ext4Geometry(filesystem);
  return geometry.value_or(Geometry{0, 0, filesystem.size_bytes, false});
}

}  // namespace virt_reclaim::agent
