// XFS, versions 4 and 5: the free space btrees of each allocation group. Free is what the btree by
// block (bnobt) lists; the btree by size (cntbt) must list the same. Blocks of the AGFL are in
// neither, and so in use. Source: the kernel's fs/xfs/libxfs/xfs_format.h, xfs_alloc_btree.c,
// xfs_btree.c.
#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "host/freemap/checksum.h"
#include "host/freemap/readers.h"
#include "host/freemap/refusal.h"
#include "host/freemap/xfs_format.h"

namespace virt_reclaim::freemap {
namespace {

constexpr uint32_t kNull = 0xffffffff;
constexpr uint32_t kMaxLevels = 9;  // XFS_BTREE_MAXLEVELS
constexpr size_t kShortHeader = 16;
constexpr size_t kShortHeaderV5 = 56;

struct TreeKind {
  const char* name;
  const char* magic;
  const char* magic_v5;
  bool by_size;
  size_t root_at;  // in the AGF
  size_t levels_at;
};
constexpr TreeKind kByBlock = {"bnobt", "ABTB", "AB3B", false, 16, 28};
constexpr TreeKind kBySize = {"cntbt", "ABTC", "AB3C", true, 20, 32};

// An order-independent fingerprint of records: equal sums mean equal sets, but for a forger, who
// can write two equal trees anyway.
uint64_t Mix(uint64_t value) {
  value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
  value = (value ^ value >> 27) * 0x94d049bb133111eb;
  return value ^ value >> 31;
}

struct Totals {
  uint64_t records = 0;
  uint64_t blocks = 0;
  uint64_t longest = 0;
  uint64_t fingerprint = 0;
  bool operator==(const Totals&) const = default;
};

struct Record {
  uint32_t start = 0;
  uint32_t count = 0;
};

// One allocation group.
class Group {
 public:
  Group(const ByteSource& source, const XfsGeometry& geometry, uint32_t number)
      : source_(source),
        g_(geometry),
        number_(number),
        blocks_(geometry.GroupBlocks(number)),
        header_blocks_((4 * uint64_t{geometry.sector_bytes} + geometry.block_bytes - 1) >>
                       geometry.block_log) {}

  absl::Status Read(FreeList& free);
  // What the superblock counts as free: the AGFL and the btrees' own blocks included.
  uint64_t counted() const { return counted_; }

 private:
  absl::Status Damaged(absl::string_view what) const {
    return DamagedError(absl::StrCat("allocation group ", number_, ": ", what));
  }
  absl::Status ReadHeader();
  absl::Status ReadFreeBlocks(uint32_t first, uint32_t last, uint32_t count);
  absl::Status CheckBlock(Bytes block, const TreeKind& kind, uint32_t at, uint32_t level,
                          uint32_t records) const;
  absl::Status Walk(const TreeKind& kind, FreeList* free, Totals& totals);
  absl::Status WalkBlock(const TreeKind& kind, uint32_t at, uint32_t level, FreeList* free,
                         Totals& totals);
  absl::Status TakeRecord(const TreeKind& kind, const Record& record, FreeList* free,
                          Totals& totals);
  absl::Status CheckUsed();

  const ByteSource& source_;
  const XfsGeometry& g_;
  uint32_t number_;
  uint64_t blocks_;
  uint64_t header_blocks_;  // sb, AGF, AGI, AGFL: never free
  std::vector<uint8_t> agf_;
  uint64_t counted_ = 0;
  std::vector<uint64_t> used_;  // blocks that hold structures

  // Of the walk under way.
  struct Level {
    uint32_t last = kNull;   // the block visited last
    uint32_t right = kNull;  // its right sibling
  };
  std::vector<Level> levels_;
  bool any_record_ = false;
  Record last_record_;
};

absl::Status Group::ReadHeader() {
  VR_ASSIGN_OR_RETURN(agf_,
                      source_.ReadBytes(g_.ByteOf(number_, 0) + g_.sector_bytes, g_.sector_bytes));
  if (!StartsWith(agf_, 0, "XAGF", 4)) return Damaged("no AGF");
  if (g_.v5 && (Crc32cWithout(agf_, 216) != LittleEndian<uint32_t>(agf_, 216) ||
                !Equal(Part(agf_, 64, 16), g_.meta_uuid))) {
    return Damaged("bad checksum of the AGF");
  }
  if (BigEndian<uint32_t>(agf_, 4) != 1 || BigEndian<uint32_t>(agf_, 8) != number_ ||
      BigEndian<uint32_t>(agf_, 12) != blocks_) {
    return Damaged("the AGF belongs elsewhere");
  }
  const uint32_t list = BigEndian<uint32_t>(agf_, 48);
  VR_RETURN_IF_ERROR(
      ReadFreeBlocks(BigEndian<uint32_t>(agf_, 40), BigEndian<uint32_t>(agf_, 44), list));
  // With lazy counters (all of v5, nearly all of v4) the btrees' blocks count as free too.
  counted_ = uint64_t{BigEndian<uint32_t>(agf_, 52)} + list + BigEndian<uint32_t>(agf_, 60);
  // The other btrees' roots, where there are any.
  if (g_.v5) {
    if (BigEndian<uint32_t>(agf_, 36) != 0) used_.push_back(BigEndian<uint32_t>(agf_, 24));
    if (BigEndian<uint32_t>(agf_, 92) != 0) used_.push_back(BigEndian<uint32_t>(agf_, 88));
  }
  VR_ASSIGN_OR_RETURN(
      const std::vector<uint8_t> agi,
      source_.ReadBytes(g_.ByteOf(number_, 0) + 2 * uint64_t{g_.sector_bytes}, g_.sector_bytes));
  if (!StartsWith(agi, 0, "XAGI", 4) || BigEndian<uint32_t>(agi, 8) != number_)
    return Damaged("no AGI");
  if (g_.v5 && Crc32cWithout(agi, 312) != LittleEndian<uint32_t>(agi, 312))
    return Damaged("bad checksum of the AGI");
  used_.push_back(BigEndian<uint32_t>(agi, 20));
  return absl::OkStatus();
}

// The AGFL: a ring of blocks kept back for the btrees.
absl::Status Group::ReadFreeBlocks(uint32_t first, uint32_t last, uint32_t count) {
  VR_ASSIGN_OR_RETURN(
      const std::vector<uint8_t> agfl,
      source_.ReadBytes(g_.ByteOf(number_, 0) + 3 * uint64_t{g_.sector_bytes}, g_.sector_bytes));
  const size_t header = g_.v5 ? 36 : 0;
  if (g_.v5 && (!StartsWith(agfl, 0, "XAFL", 4) || BigEndian<uint32_t>(agfl, 4) != number_ ||
                !Equal(Part(agfl, 8, 16), g_.meta_uuid) ||
                Crc32cWithout(agfl, 32) != LittleEndian<uint32_t>(agfl, 32))) {
    return Damaged("bad checksum of the AGFL");
  }
  const size_t size = (agfl.size() - header) / 4;
  if (first >= size || last >= size || count > size) return Damaged("the AGFL's bounds");
  if (count != 0 && (last + size - first) % size + 1 != count) return Damaged("the AGFL's count");
  for (size_t i = 0; i < count; ++i) {
    const uint32_t block = BigEndian<uint32_t>(agfl, header + (first + i) % size * 4);
    if (block < header_blocks_ || block >= blocks_) return Damaged("a block of the AGFL");
    used_.push_back(block);
  }
  return absl::OkStatus();
}

absl::Status Group::CheckBlock(Bytes block, const TreeKind& kind, uint32_t at, uint32_t level,
                               uint32_t records) const {
  if (!StartsWith(block, 0, g_.v5 ? kind.magic_v5 : kind.magic, 4))
    return Damaged(absl::StrCat("block ", at, " is not of the ", kind.name));
  if (g_.v5) {
    if (Crc32cWithout(block, 52) != LittleEndian<uint32_t>(block, 52))
      return Damaged(absl::StrCat("bad checksum of block ", at, " of the ", kind.name));
    if (BigEndian<uint64_t>(block, 16) != g_.ByteOf(number_, at) / 512 ||
        BigEndian<uint32_t>(block, 48) != number_ || !Equal(Part(block, 32, 16), g_.meta_uuid)) {
      return Damaged(absl::StrCat("block ", at, " of the ", kind.name, " belongs elsewhere"));
    }
  }
  if (BigEndian<uint16_t>(block, 4) != level)
    return Damaged(absl::StrCat("block ", at, " of the ", kind.name, " is of another level"));
  const size_t header = g_.v5 ? kShortHeaderV5 : kShortHeader;
  const size_t room = (block.size() - header) / (level == 0 ? 8 : 12);
  // Only a tree without a record has a block without one.
  if (records > room || (records == 0 && levels_.size() > 1))
    return Damaged(absl::StrCat("block ", at, " of the ", kind.name, " is overfull or empty"));
  return absl::OkStatus();
}

absl::Status Group::TakeRecord(const TreeKind& kind, const Record& record, FreeList* free,
                               Totals& totals) {
  const bool inside = record.count != 0 && record.start >= header_blocks_ &&
                      record.start < blocks_ && record.count <= blocks_ - record.start;
  if (!inside) return Damaged(absl::StrCat("a record of the ", kind.name, " points nowhere"));
  const Record& last = last_record_;
  if (any_record_) {
    // Two runs that touch would be one.
    const bool ordered = kind.by_size ? last.count < record.count || (last.count == record.count &&
                                                                      last.start < record.start)
                                      : uint64_t{last.start} + last.count < record.start;
    if (!ordered) return Damaged(absl::StrCat("the ", kind.name, " is not in order"));
  }
  any_record_ = true;
  last_record_ = record;
  ++totals.records;
  totals.blocks += record.count;
  totals.longest = std::max<uint64_t>(totals.longest, record.count);
  totals.fingerprint += Mix(uint64_t{record.start} << 32 | record.count);
  if (free == nullptr) return absl::OkStatus();
  free->Add(g_.ByteOf(number_, record.start), uint64_t{record.count} << g_.block_log);
  const auto next = std::ranges::lower_bound(used_, uint64_t{record.start});
  if (next != used_.end() && *next < uint64_t{record.start} + record.count)
    return Damaged("a block of its own structures is free");
  return absl::OkStatus();
}

// Depth is bounded by the level, which falls by one; width by the order of the records, which no
// loop can keep.
absl::Status Group::WalkBlock(const TreeKind& kind, uint32_t at, uint32_t level, FreeList* free,
                              Totals& totals) {
  if (at < header_blocks_ || at >= blocks_)
    return Damaged(absl::StrCat("the ", kind.name, " points nowhere"));
  VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> block,
                      source_.ReadBytes(g_.ByteOf(number_, at), g_.block_bytes));
  const uint32_t records = BigEndian<uint16_t>(block, 6);
  VR_RETURN_IF_ERROR(CheckBlock(block, kind, at, level, records));
  Level& here = levels_[level];
  const bool first_here = here.last == kNull;
  if (BigEndian<uint32_t>(block, 8) != here.last || (!first_here && here.right != at))
    return Damaged(absl::StrCat("the ", kind.name, " has wrong siblings"));
  here = {at, BigEndian<uint32_t>(block, 12)};
  const size_t header = g_.v5 ? kShortHeaderV5 : kShortHeader;
  const size_t room = (block.size() - header) / 12;
  for (uint32_t i = 0; i < records; ++i) {
    const Record record = {BigEndian<uint32_t>(block, header + size_t{i} * 8),
                           BigEndian<uint32_t>(block, header + size_t{i} * 8 + 4)};
    if (level == 0) {
      VR_RETURN_IF_ERROR(TakeRecord(kind, record, free, totals));
      continue;
    }
    const uint32_t child = BigEndian<uint32_t>(block, header + room * 8 + size_t{i} * 4);
    VR_RETURN_IF_ERROR(WalkBlock(kind, child, level - 1, free, totals));
  }
  return absl::OkStatus();
}

absl::Status Group::Walk(const TreeKind& kind, FreeList* free, Totals& totals) {
  const uint32_t levels = BigEndian<uint32_t>(agf_, kind.levels_at);
  if (levels == 0 || levels > kMaxLevels) return Damaged("impossible depth of a btree");
  levels_.assign(levels, {});
  any_record_ = false;
  last_record_ = {};
  VR_RETURN_IF_ERROR(
      WalkBlock(kind, BigEndian<uint32_t>(agf_, kind.root_at), levels - 1, free, totals));
  for (const Level& level : levels_) {
    if (level.right != kNull) return Damaged(absl::StrCat("the ", kind.name, " has no end"));
  }
  return absl::OkStatus();
}

absl::Status Group::Read(FreeList& free) {
  VR_RETURN_IF_ERROR(ReadHeader());
  used_.push_back(BigEndian<uint32_t>(agf_, kByBlock.root_at));
  used_.push_back(BigEndian<uint32_t>(agf_, kBySize.root_at));
  const uint64_t ag_mask = (uint64_t{1} << g_.ag_block_log) - 1;
  if (const uint64_t root = g_.root_inode >> g_.inode_log; root >> g_.ag_block_log == number_)
    used_.push_back(root & ag_mask);
  if (g_.log_start >> g_.ag_block_log == number_) {
    for (uint64_t i = 0; i < g_.log_blocks; ++i) used_.push_back((g_.log_start & ag_mask) + i);
  }
  std::ranges::sort(used_);
  Totals by_size;
  Totals by_block;
  VR_RETURN_IF_ERROR(Walk(kBySize, nullptr, by_size));
  VR_RETURN_IF_ERROR(Walk(kByBlock, &free, by_block));
  if (by_size != by_block) return Damaged("its two free space btrees disagree");
  if (by_block.blocks != BigEndian<uint32_t>(agf_, 52) ||
      by_block.longest != BigEndian<uint32_t>(agf_, 56)) {
    return Damaged("the AGF counts its free blocks otherwise");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadXfs(const ByteSource& source, const ReadOptions& options, FilesystemFacts& facts,
                     FreeList& free) {
  VR_ASSIGN_OR_RETURN(const XfsGeometry geometry, ReadXfsSuperblock(source, options, facts));
  VR_RETURN_IF_ERROR(CheckXfsLogClean(source, geometry));
  uint64_t counted = 0;
  for (uint32_t number = 0; number < geometry.ag_count; ++number) {
    Group group(source, geometry, number);
    VR_RETURN_IF_ERROR(group.Read(free));
    counted += group.counted();
  }
  if (counted != geometry.free_blocks)
    return DamagedError("the superblock counts the free blocks otherwise");
  return absl::OkStatus();
}

}  // namespace virt_reclaim::freemap
