#include "host/freemap/xfs_format.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "host/freemap/checksum.h"
#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {
namespace {

constexpr size_t kXfsSuperblockBytes = 512;  // the smallest sector
constexpr size_t kCrcOffset = 224;
constexpr uint64_t kMinGroupBytes = uint64_t{16} << 20;    // XFS_MIN_AG_BYTES
constexpr uint64_t kMaxGroupBytes = uint64_t{1} << 40;     // XFS_MAX_AG_BYTES
constexpr uint64_t kMaxXfsLogBytes = (uint64_t{2} << 30);  // XFS_MAX_LOG_BYTES
constexpr uint32_t kMaxXfsGroups = 100'000;                // a probe of each; mkfs makes 4 to 500

constexpr uint32_t kXfsKnownIncompat = 0x1 | 0x2 | 0x4 | 0x8 | 0x20;  // ftype ... bigtime, nrext64
constexpr uint32_t kNeedsRepair = 0x10;
constexpr uint32_t kXfsKnownRoCompat =
    0x1 | 0x2 | 0x4 | 0x8;  // finobt, rmapbt, reflink, inobtcount
constexpr uint16_t kVersionShared = 0x200;
constexpr uint16_t kVersionMoreBits = 0x8000;
constexpr uint32_t kKnownFeatures2 = 0x2 | 0x8 | 0x80 | 0x100 | 0x200;  // lazy ... crc, ftype

std::array<uint8_t, 16> Uuid(Bytes bytes, size_t offset) {
  std::array<uint8_t, 16> uuid = {};
  std::ranges::copy(Part(bytes, offset, 16), uuid.begin());
  return uuid;
}

absl::Status CheckShape(Bytes sb, const XfsGeometry& g) {
  const auto is_log = [&](uint32_t value, size_t offset) {
    return std::has_single_bit(value) && std::countr_zero(value) == sb[offset];
  };
  if (g.block_bytes < 512 || g.block_bytes > 65536 || !is_log(g.block_bytes, 120))
    return DamagedError("impossible block size");
  if (g.sector_bytes < 512 || g.sector_bytes > 32768 || !is_log(g.sector_bytes, 121))
    return DamagedError("impossible sector size");
  const uint32_t inode_bytes = BigEndian<uint16_t>(sb, 104);
  if (inode_bytes < 256 || inode_bytes > g.block_bytes || !is_log(inode_bytes, 122) ||
      sb[123] != g.block_log - sb[122] || BigEndian<uint16_t>(sb, 106) != 1U << g.inode_log) {
    return DamagedError("impossible inode size");
  }
  if (g.ag_count == 0 || g.ag_count > kMaxXfsGroups || g.ag_blocks == 0 || g.blocks == 0)
    return DamagedError("impossible number of allocation groups");
  const uint64_t group_bytes = uint64_t{g.ag_blocks} << g.block_log;
  if (group_bytes < kMinGroupBytes || group_bytes > kMaxGroupBytes)
    return DamagedError("impossible allocation group size");
  if (g.ag_block_log > 31 || g.ag_block_log != std::bit_width(g.ag_blocks - 1))
    return DamagedError("impossible allocation group size");
  const uint64_t whole = uint64_t{g.ag_blocks} * (g.ag_count - 1);
  if (g.blocks <= whole || g.blocks - whole > g.ag_blocks)
    return DamagedError("its size and its allocation groups disagree");
  if (uint64_t{g.log_blocks} << g.block_log > kMaxXfsLogBytes)
    return DamagedError("impossible log size");
  return absl::OkStatus();
}

absl::Status CheckXfsState(Bytes sb, const XfsGeometry& g) {
  if (g.v5) {
    if ((BigEndian<uint32_t>(sb, 216) & kNeedsRepair) != 0)
      return StateError("it says that it needs xfs_repair");
    if (BigEndian<uint32_t>(sb, 220) != 0)
      return DirtyJournalError("its log carries what only a replay can judge");
  }
  if (sb[126] != 0) return StateError("mkfs.xfs did not end");
  return absl::OkStatus();
}

absl::Status CheckXfsFeatures(Bytes sb, const XfsGeometry& g, uint16_t version) {
  if (g.v5) {
    const uint32_t incompat = BigEndian<uint32_t>(sb, 216) & ~kNeedsRepair;
    if (const uint32_t more = incompat & ~kXfsKnownIncompat; more != 0)
      return UnknownError(absl::StrCat("incompatible features 0x", absl::Hex(more)));
    if (const uint32_t more = BigEndian<uint32_t>(sb, 212) & ~kXfsKnownRoCompat; more != 0)
      return UnknownError(absl::StrCat("read-only compatible features 0x", absl::Hex(more)));
    if (const uint32_t more = BigEndian<uint32_t>(sb, 208); more != 0)
      return UnknownError(absl::StrCat("compatible features 0x", absl::Hex(more)));
  }
  if ((version & kVersionShared) != 0) return UnknownError("a shared superblock");
  if ((version & kVersionMoreBits) != 0 && (BigEndian<uint32_t>(sb, 200) & ~kKnownFeatures2) != 0) {
    return UnknownError("features that this does not know");
  }
  if (g.log_start == 0) return UnknownError("its log is on another device");
  // A realtime section lies on another device, but its presence changes what the log may hold.
  if (BigEndian<uint64_t>(sb, 16) != 0 || BigEndian<uint64_t>(sb, 24) != 0)
    return UnknownError("it has a realtime section");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<XfsGeometry> ReadXfsSuperblock(const ByteSource& source, const ReadOptions& options,
                                              FilesystemFacts& facts) {
  VR_ASSIGN_OR_RETURN(std::vector<uint8_t> sb, source.ReadBytes(0, kXfsSuperblockBytes));
  if (!StartsWith(sb, 0, "XFSB", 4)) return DamagedError("no superblock");
  XfsGeometry g;
  g.block_bytes = BigEndian<uint32_t>(sb, 4);
  g.blocks = BigEndian<uint64_t>(sb, 8);
  g.uuid = g.meta_uuid = Uuid(sb, 32);
  g.log_start = BigEndian<uint64_t>(sb, 48);
  g.root_inode = BigEndian<uint64_t>(sb, 56);
  g.ag_blocks = BigEndian<uint32_t>(sb, 84);
  g.ag_count = BigEndian<uint32_t>(sb, 88);
  g.log_blocks = BigEndian<uint32_t>(sb, 96);
  const uint16_t version = BigEndian<uint16_t>(sb, 100);
  g.sector_bytes = BigEndian<uint16_t>(sb, 102);
  g.block_log = sb[120];
  g.inode_log = sb[123];
  g.ag_block_log = sb[124];
  g.free_blocks = BigEndian<uint64_t>(sb, 144);
  g.v5 = (version & 0xf) == 5;
  if (!g.v5 && (version & 0xf) != 4) return UnknownError("neither version 4 nor 5");
  facts.label = Text(sb, 108, 12);
  facts.uuid = UuidText(sb, 32);
  VR_RETURN_IF_ERROR(CheckShape(sb, g));
  facts.block_bytes = g.block_bytes;
  if (g.blocks > UINT64_MAX >> g.block_log) return DamagedError("impossible size");
  facts.size_bytes = g.blocks << g.block_log;
  if (g.v5) {
    // The checksum is over the sector, whatever its size.
    VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> sector, source.ReadBytes(0, g.sector_bytes));
    if (!Equal(Part(sector, 0, kXfsSuperblockBytes), sb))
      return StateError("it changes while read");
    if (Crc32cWithout(sector, kCrcOffset) != LittleEndian<uint32_t>(sector, kCrcOffset))
      return DamagedError("bad checksum of the superblock");
    if ((BigEndian<uint32_t>(sb, 216) & 0x4) != 0) g.meta_uuid = Uuid(sb, 248);
  } else if (options.strict) {
    return UncheckedError("version 4 has no checksums");
  }
  VR_RETURN_IF_ERROR(CheckXfsState(sb, g));
  if (facts.size_bytes > source.size()) return StateError("it is larger than what holds it");
  if (const absl::Status unknown = CheckXfsFeatures(sb, g, version); !unknown.ok()) {
    // Another engine may know them; it would replay the log.
    if (g.log_start != 0) VR_RETURN_IF_ERROR(CheckXfsLogClean(source, g));
    return unknown;
  }
  return g;
}

}  // namespace virt_reclaim::freemap
