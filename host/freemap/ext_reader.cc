// ext2, ext3, ext4. libext2fs opens the filesystem and knows where its metadata lies; the bitmaps
// are read here one at a time, because libext2fs takes a group whose bitmap location is 0 or past
// the end as wholly free, and holds all bitmaps in memory (lib/ext2fs/rw_bitmaps.c). Sources: the
// kernel's Documentation/filesystems/ext4, fs/ext4/balloc.c, e2fsck/pass5.c.
#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "host/freemap/bytes.h"
#include "host/freemap/checksum.h"
#include "host/freemap/ext_channel.h"
#include "host/freemap/readers.h"
#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {
namespace {

constexpr uint64_t kSuperblockOffset = 1024;
constexpr size_t kExtSuperblockBytes = 1024;
constexpr uint64_t kMaxExtGroups = 1'000'000;  // 125 TiB of 4 KiB blocks; ~150 bytes of memory each
constexpr uint32_t kMmpMagic = 0x004d4d50;
constexpr uint32_t kMmpClean = 0xff4d4d50;

// Features with no effect on which blocks are free, or one that is handled here. Others: unknown.
constexpr uint32_t kExtKnownIncompat =
    EXT2_FEATURE_INCOMPAT_FILETYPE | EXT3_FEATURE_INCOMPAT_RECOVER | EXT2_FEATURE_INCOMPAT_META_BG |
    EXT3_FEATURE_INCOMPAT_EXTENTS | EXT4_FEATURE_INCOMPAT_64BIT | EXT4_FEATURE_INCOMPAT_MMP |
    EXT4_FEATURE_INCOMPAT_FLEX_BG | EXT4_FEATURE_INCOMPAT_EA_INODE |
    EXT4_FEATURE_INCOMPAT_CSUM_SEED | EXT4_FEATURE_INCOMPAT_LARGEDIR |
    EXT4_FEATURE_INCOMPAT_INLINE_DATA | EXT4_FEATURE_INCOMPAT_ENCRYPT |
    EXT4_FEATURE_INCOMPAT_CASEFOLD;
constexpr uint32_t kExtKnownRoCompat =
    EXT2_FEATURE_RO_COMPAT_SPARSE_SUPER | EXT2_FEATURE_RO_COMPAT_LARGE_FILE |
    EXT4_FEATURE_RO_COMPAT_HUGE_FILE | EXT4_FEATURE_RO_COMPAT_GDT_CSUM |
    EXT4_FEATURE_RO_COMPAT_DIR_NLINK | EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE |
    EXT4_FEATURE_RO_COMPAT_QUOTA | EXT4_FEATURE_RO_COMPAT_BIGALLOC |
    EXT4_FEATURE_RO_COMPAT_METADATA_CSUM | EXT4_FEATURE_RO_COMPAT_READONLY |
    EXT4_FEATURE_RO_COMPAT_PROJECT | EXT4_FEATURE_RO_COMPAT_VERITY |
    EXT4_FEATURE_RO_COMPAT_ORPHAN_PRESENT;
constexpr uint32_t kKnownCompat =
    EXT2_FEATURE_COMPAT_DIR_PREALLOC | EXT2_FEATURE_COMPAT_IMAGIC_INODES |
    EXT3_FEATURE_COMPAT_HAS_JOURNAL | EXT2_FEATURE_COMPAT_EXT_ATTR |
    EXT2_FEATURE_COMPAT_RESIZE_INODE | EXT2_FEATURE_COMPAT_DIR_INDEX |
    EXT4_FEATURE_COMPAT_SPARSE_SUPER2 | EXT4_FEATURE_COMPAT_FAST_COMMIT |
    EXT4_FEATURE_COMPAT_STABLE_INODES | EXT4_FEATURE_COMPAT_ORPHAN_FILE;

// The MMP block's own word. Whether it is one at all is judged later.
absl::Status CheckMmpState(Bytes sb, const ByteSource& source, uint64_t block_bytes) {
  const uint64_t block = LittleEndian<uint64_t>(sb, 0x168);
  if (block == 0 || block >= source.size() / block_bytes) return absl::OkStatus();
  VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, source.ReadBytes(block * block_bytes, 8));
  if (LittleEndian<uint32_t>(bytes, 0) == kMmpMagic &&
      LittleEndian<uint32_t>(bytes, 4) != kMmpClean) {
    return StateError("in use: its MMP block says so");
  }
  return absl::OkStatus();
}

// What is noted at the same places whatever the features: another engine is not to touch it either.
absl::Status CheckExtState(Bytes sb, const ByteSource& source, uint64_t block_bytes) {
  const uint32_t incompat = LittleEndian<uint32_t>(sb, 0x60);
  const uint32_t ro_compat = LittleEndian<uint32_t>(sb, 0x64);
  const uint16_t state = LittleEndian<uint16_t>(sb, 0x3a);
  if ((state & EXT2_ERROR_FS) != 0) return StateError("errors are noted in it: wants fsck");
  if ((incompat & EXT4_FEATURE_INCOMPAT_MMP) != 0)
    VR_RETURN_IF_ERROR(CheckMmpState(sb, source, block_bytes));
  // With a journal 'clean' stays set while it is mounted; this flag is all there is to see.
  if ((incompat & EXT3_FEATURE_INCOMPAT_RECOVER) != 0)
    return DirtyJournalError("its journal wants to be replayed");
  if ((state & EXT2_VALID_FS) == 0) return StateError("not cleanly unmounted");
  if ((state & EXT3_ORPHAN_FS) != 0) return StateError("orphans are being recovered");
  if (LittleEndian<uint32_t>(sb, 0xe8) != 0) return StateError("it has orphaned inodes");
  if ((ro_compat & EXT4_FEATURE_RO_COMPAT_ORPHAN_PRESENT) != 0)
    return StateError("it has orphaned inodes");
  return absl::OkStatus();
}

absl::Status CheckExtFeatures(Bytes sb) {
  if (const uint32_t more = LittleEndian<uint32_t>(sb, 0x60) & ~kExtKnownIncompat; more != 0)
    return UnknownError(absl::StrCat("incompatible features 0x", absl::Hex(more)));
  if (const uint32_t more = LittleEndian<uint32_t>(sb, 0x64) & ~kExtKnownRoCompat; more != 0)
    return UnknownError(absl::StrCat("read-only compatible features 0x", absl::Hex(more)));
  if (const uint32_t more = LittleEndian<uint32_t>(sb, 0x5c) & ~kKnownCompat; more != 0)
    return UnknownError(absl::StrCat("compatible features 0x", absl::Hex(more)));
  return absl::OkStatus();
}

// Before libext2fs allocates anything: what the superblock says about itself.
absl::Status CheckSuperblock(Bytes sb, const ByteSource& source, const ReadOptions& options,
                             FilesystemFacts& facts) {
  if (LittleEndian<uint16_t>(sb, 0x38) != EXT2_SUPER_MAGIC) return DamagedError("no superblock");
  const uint32_t log_block = LittleEndian<uint32_t>(sb, 0x18);
  if (log_block > 6) return DamagedError("impossible block size");
  const uint64_t block = uint64_t{1024} << log_block;
  const uint32_t incompat = LittleEndian<uint32_t>(sb, 0x60);
  const uint32_t ro_compat = LittleEndian<uint32_t>(sb, 0x64);
  uint64_t blocks = LittleEndian<uint32_t>(sb, 4);
  if ((incompat & EXT4_FEATURE_INCOMPAT_64BIT) != 0)
    blocks |= uint64_t{LittleEndian<uint32_t>(sb, 0x150)} << 32;
  facts.label = Text(sb, 0x78, 16);
  facts.uuid = UuidText(sb, 0x68);
  facts.block_bytes = block;
  if (blocks > UINT64_MAX / block) return DamagedError("impossible size");
  facts.size_bytes = blocks * block;
  if ((incompat & EXT3_FEATURE_INCOMPAT_JOURNAL_DEV) != 0)
    return UnknownError("the journal of another filesystem");
  if (facts.size_bytes > source.size()) return StateError("it is larger than what holds it");
  VR_RETURN_IF_ERROR(CheckExtState(sb, source, block));
  VR_RETURN_IF_ERROR(CheckExtFeatures(sb));
  const uint64_t per_group = LittleEndian<uint32_t>(sb, 0x20);
  if (per_group == 0 || blocks == 0) return DamagedError("no blocks");
  if (blocks / per_group >= kMaxExtGroups) return TooLargeError("too many block groups");
  if ((ro_compat & EXT4_FEATURE_RO_COMPAT_METADATA_CSUM) == 0 && options.strict)
    return UncheckedError("no checksums on its bitmaps");
  return absl::OkStatus();
}

struct Run {  // of blocks
  uint64_t first = 0;
  uint64_t count = 0;
  auto operator<=>(const Run&) const = default;
};

class ExtMap {
 public:
  ExtMap(const ByteSource& source, ext2_filsys fs)
      : source_(source),
        fs_(fs),
        blocks_(ext2fs_blocks_count(fs->super)),
        first_block_(fs->super->s_first_data_block),
        ratio_bits_(fs->cluster_ratio_bits),
        bitmap_bytes_(EXT2_CLUSTERS_PER_GROUP(fs->super) / 8) {}

  absl::Status Read(FreeList& free);

 private:
  absl::Status CheckMmp();
  absl::Status CollectMetadata();
  absl::Status AddTables(dgrp_t group);
  absl::Status LoadBitmap(dgrp_t group);
  absl::Status CheckTail(dgrp_t group) const;
  absl::Status ApplyMetadata(dgrp_t group);
  void AddFree(dgrp_t group, FreeList& free);

  uint64_t First(dgrp_t group) const { return ext2fs_group_first_block2(fs_, group); }
  // The last group may end inside a cluster.
  uint64_t Clusters(dgrp_t group) const {
    const auto count = static_cast<uint64_t>(ext2fs_group_blocks_count(fs_, group));
    return (count + (uint64_t{1} << ratio_bits_) - 1) >> ratio_bits_;
  }
  bool Used(uint64_t bit) const { return (bitmap_[bit / 8] >> (bit % 8) & 1) != 0; }

  const ByteSource& source_;
  ext2_filsys fs_;
  uint64_t blocks_;
  uint64_t first_block_;
  int ratio_bits_;
  size_t bitmap_bytes_;
  std::vector<Run> metadata_;  // sorted, disjoint
  size_t next_metadata_ = 0;   // the first that does not end before the current group
  std::vector<uint8_t> bitmap_;
  bool uninitialized_ = false;  // the current group's bitmap is not on disk
  uint64_t free_clusters_ = 0;  // in all groups so far
};

// libext2fs looks at it only when it opens for writing.
absl::Status ExtMap::CheckMmp() {
  if (ext2fs_has_feature_mmp(fs_->super) == 0) return absl::OkStatus();
  const uint64_t block = fs_->super->s_mmp_block;
  if (block <= first_block_ || block >= blocks_) return DamagedError("its MMP block is nowhere");
  metadata_.push_back({block, 1});
  VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes,
                      source_.ReadBytes(block * fs_->blocksize, 1024));
  if (LittleEndian<uint32_t>(bytes, 0) != kMmpMagic) return DamagedError("no MMP block");
  if (ext2fs_has_feature_metadata_csum(fs_->super) != 0 &&
      ~Crc32c(Part(bytes, 0, 1020), ~fs_->csum_seed) != LittleEndian<uint32_t>(bytes, 1020)) {
    return DamagedError("bad checksum of its MMP block");
  }
  if (LittleEndian<uint32_t>(bytes, 4) != kMmpClean)
    return StateError("in use: its MMP block says so");
  return absl::OkStatus();
}

absl::Status ExtMap::AddTables(dgrp_t group) {
  const bool flex = ext2fs_has_feature_flex_bg(fs_->super) != 0;
  const uint64_t lowest = flex ? first_block_ : First(group);
  const uint64_t end = flex ? blocks_ : ext2fs_group_last_block2(fs_, group) + 1;
  const Run tables[] = {{ext2fs_block_bitmap_loc(fs_, group), 1},
                        {ext2fs_inode_bitmap_loc(fs_, group), 1},
                        {ext2fs_inode_table_loc(fs_, group), fs_->inode_blocks_per_group}};
  for (const Run& run : tables) {
    if (run.first < lowest || run.first >= end || run.count > end - run.first)
      return DamagedError(absl::StrCat("the tables of group ", group, " are nowhere"));
    metadata_.push_back(run);
  }
  return absl::OkStatus();
}

// Where superblocks, descriptors, bitmaps and inode tables lie; none may share a block.
absl::Status ExtMap::CollectMetadata() {
  const bool meta_bg = ext2fs_has_feature_meta_bg(fs_->super) != 0;
  const uint64_t old_descriptors = meta_bg ? uint64_t{fs_->super->s_first_meta_bg}
                                           : fs_->desc_blocks + fs_->super->s_reserved_gdt_blocks;
  metadata_.reserve(size_t{fs_->group_desc_count} * 4 + 16);
  for (dgrp_t group = 0; group < fs_->group_desc_count; ++group) {
    if (ext2fs_group_desc_csum_verify(fs_, group) == 0)
      return DamagedError(absl::StrCat("bad checksum of the descriptor of group ", group));
    blk64_t super = 0;
    blk64_t old_descriptor = 0;
    blk64_t new_descriptor = 0;
    blk_t used = 0;
    ext2fs_super_and_bgd_loc2(fs_, group, &super, &old_descriptor, &new_descriptor, &used);
    if (super != 0 || group == 0) metadata_.push_back({super, 1});
    if (super == 1 && First(group) == 0) metadata_.push_back({0, 1});  // boot block, bigalloc
    if (old_descriptor != 0 && old_descriptors != 0) {
      if (old_descriptor >= blocks_) return DamagedError("descriptors past the end");
      metadata_.push_back(
          {old_descriptor, std::min<uint64_t>(old_descriptors, blocks_ - old_descriptor)});
    }
    if (new_descriptor != 0) metadata_.push_back({new_descriptor, 1});
    VR_RETURN_IF_ERROR(AddTables(group));
  }
  std::ranges::sort(metadata_);
  for (size_t i = 1; i < metadata_.size(); ++i) {
    if (metadata_[i].first < metadata_[i - 1].first + metadata_[i - 1].count)
      return DamagedError("two of its tables share a block");
  }
  return absl::OkStatus();
}

absl::Status ExtMap::LoadBitmap(dgrp_t group) {
  uninitialized_ = ext2fs_has_group_desc_csum(fs_) != 0 &&
                   ext2fs_bg_flags_test(fs_, group, EXT2_BG_BLOCK_UNINIT) != 0;
  bitmap_.assign(fs_->blocksize, 0);
  if (uninitialized_) return absl::OkStatus();
  VR_RETURN_IF_ERROR(source_.Read(ext2fs_block_bitmap_loc(fs_, group) * fs_->blocksize, bitmap_));
  if (ext2fs_block_bitmap_csum_verify(fs_, group, reinterpret_cast<char*>(bitmap_.data()),
                                      static_cast<int>(bitmap_bytes_)) == 0) {
    return DamagedError(absl::StrCat("bad checksum of the bitmap of group ", group));
  }
  return CheckTail(group);
}

// Bits past the group's end are set. A bitmap that is not one shows here.
absl::Status ExtMap::CheckTail(dgrp_t group) const {
  for (uint64_t bit = Clusters(group); bit < uint64_t{fs_->blocksize} * 8; ++bit) {
    if (bit % 8 == 0 && bitmap_[bit / 8] == 0xff) {
      bit += 7;
    } else if (!Used(bit)) {
      return DamagedError(absl::StrCat("the bitmap of group ", group, " has no proper end"));
    }
  }
  return absl::OkStatus();
}

// Metadata is marked used in a bitmap that is on disk, and makes one up where it is not.
absl::Status ExtMap::ApplyMetadata(dgrp_t group) {
  const uint64_t begin = First(group);
  const uint64_t end = ext2fs_group_last_block2(fs_, group) + 1;
  while (next_metadata_ < metadata_.size() &&
         metadata_[next_metadata_].first + metadata_[next_metadata_].count <= begin) {
    ++next_metadata_;
  }
  for (size_t i = next_metadata_; i < metadata_.size() && metadata_[i].first < end; ++i) {
    const uint64_t from = std::max(metadata_[i].first, begin);
    const uint64_t to = std::min(metadata_[i].first + metadata_[i].count, end);
    for (uint64_t block = from; block < to; ++block) {
      const uint64_t bit = (block - begin) >> ratio_bits_;
      if (uninitialized_) {
        bitmap_[bit / 8] = static_cast<uint8_t>(bitmap_[bit / 8] | 1U << (bit % 8));
      } else if (!Used(bit)) {
        return DamagedError(absl::StrCat("group ", group, " says that metadata is free"));
      }
    }
  }
  return absl::OkStatus();
}

void ExtMap::AddFree(dgrp_t group, FreeList& free) {
  const uint64_t begin = First(group);
  const uint64_t end = ext2fs_group_last_block2(fs_, group) + 1;
  const uint64_t clusters = Clusters(group);
  for (uint64_t bit = 0; bit < clusters; ++bit) {
    if (bit % 8 == 0 && bitmap_[bit / 8] == 0xff) {
      bit += 7;
      continue;
    }
    if (Used(bit)) continue;
    uint64_t stop = bit + 1;
    while (stop < clusters && (stop % 8 == 0 && bitmap_[stop / 8] == 0)) stop += 8;
    stop = std::min(stop, clusters);
    ++free_clusters_;
    free_clusters_ += stop - bit - 1;
    const uint64_t first = begin + (bit << ratio_bits_);
    const uint64_t last = std::min(begin + (stop << ratio_bits_), end);
    free.Add(first * fs_->blocksize, (last - first) * fs_->blocksize);
    bit = stop - 1;
  }
}

absl::Status ExtMap::Read(FreeList& free) {
  if (EXT2_CLUSTERS_PER_GROUP(fs_->super) % 8 != 0 || bitmap_bytes_ > fs_->blocksize)
    return DamagedError("impossible group size");
  VR_RETURN_IF_ERROR(CheckMmp());
  VR_RETURN_IF_ERROR(CollectMetadata());
  for (dgrp_t group = 0; group < fs_->group_desc_count; ++group) {
    VR_RETURN_IF_ERROR(LoadBitmap(group));
    VR_RETURN_IF_ERROR(ApplyMetadata(group));
    const uint64_t before = free_clusters_;
    AddFree(group, free);
    if (free_clusters_ - before != ext2fs_bg_free_blocks_count(fs_, group))
      return DamagedError(absl::StrCat("group ", group, " counts its free blocks otherwise"));
  }
  if (free_clusters_ << ratio_bits_ != ext2fs_free_blocks_count(fs_->super))
    return DamagedError("the superblock counts the free blocks otherwise");
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadExt(const ByteSource& source, const ReadOptions& options, FilesystemFacts& facts,
                     FreeList& free) {
  VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> sb,
                      source.ReadBytes(kSuperblockOffset, kExtSuperblockBytes));
  VR_RETURN_IF_ERROR(CheckSuperblock(sb, source, options, facts));
  VR_ASSIGN_OR_RETURN(const ExtHandle fs, OpenExt(source));
  // The device behind `source` is not ours alone: libext2fs must have seen what was judged.
  if (!Equal(sb, {reinterpret_cast<const uint8_t*>(fs->super), kExtSuperblockBytes}))
    return StateError("it changes while it is read");
  return ExtMap(source, fs.get()).Read(free);
}

}  // namespace virt_reclaim::freemap
