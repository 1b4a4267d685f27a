// Which ranges to hand to FITRIM one after the other, so that each filesystem really does what it
// was asked and the bytes it reports add up. Measured: ext4 trims to the end of a block group
// whatever the length, XFS whole extents of an allocation group, btrfs ranges are logical addresses
// of which ranges miss some. Pure, but for ReadGeometry. Any thread.
#ifndef VIRT_RECLAIM_GUEST_AGENT_RANGES_H_
#define VIRT_RECLAIM_GUEST_AGENT_RANGES_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "guest-agent/filesystems.h"

namespace virt_reclaim::agent {

inline constexpr uint64_t kDefaultChunkBytes = uint64_t{1} << 30;

// How a filesystem divides its space. `unit_bytes` 0: it is best trimmed in one call.
struct Geometry {
  uint64_t unit_bytes = 0;    // block group, allocation group
  uint64_t offset_bytes = 0;  // where the first unit starts (ext4 with 1 KiB blocks: 1024)
  uint64_t size_bytes = 0;    // of the whole filesystem
  bool default_is_unit =
      false;  // without a wish of the caller: one unit at a time (XFS), else kDefaultChunkBytes
};

// One FITRIM; length UINT64_MAX - start: to the end.
struct TrimRange {
  uint64_t start = 0;
  uint64_t length = 0;
};

// The ranges of one filesystem, cut at unit boundaries. Small and trivially copyable: the trim's
// child process uses it.
class RangePlan {
 public:
  // `chunk_bytes`: as TrimRequest.chunk_bytes; rounded up to units. No plan has more than 2^20
  // ranges. `start`: where to begin, rounded down to units; beyond the end: at 0.
  RangePlan(const Geometry& geometry, uint64_t chunk_bytes, uint64_t start = 0);
  // This one range, and nothing after it.
  explicit RangePlan(const TrimRange& only) : only_(only) {}

  // Where the first range starts.
  uint64_t First() const { return first_; }
  // The range that starts at `start` (First(), or where the one before ended).
  TrimRange At(uint64_t start) const;
  // The start of the range after `range`; empty when that was the last.
  std::optional<uint64_t> After(const TrimRange& range) const;

 private:
  uint64_t step_ = 0;  // 0: one range
  uint64_t offset_ = 0;
  uint64_t size_ = 0;
  uint64_t first_ = 0;
  TrimRange only_;  // length 0: there are more
};

// From an ext4 superblock (fs/ext4/ext4.h, little endian): `bytes` are at least its first 1024.
// Empty when it is none or makes no sense.
std::optional<Geometry> ParseExt4Superblock(std::span<const uint8_t> bytes);

// ext4: superblock of the device (a page cache read); XFS: XFS_IOC_FSGEOMETRY on `fd`. What cannot
// be found out is trimmed in one call: right, only without pauses.
Geometry ReadGeometry(const Filesystem& filesystem, int fd);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_RANGES_H_
