// btrfs on one device, profiles single and DUP. Free is what no extent of the extent tree has, and
// what no chunk has. The free space cache and tree are not read: they may be stale.
#include <algorithm>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "host/freemap/btrfs_tree.h"
#include "host/freemap/readers.h"
#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {
namespace {

constexpr uint64_t kRootTree = 1;
constexpr uint64_t kExtentTree = 2;
constexpr uint64_t kDeviceTree = 4;
constexpr uint64_t kBalance = ~uint64_t{0} - 3;  // -4
constexpr uint8_t kRootItem = 132;
constexpr uint8_t kExtentItem = 168;
constexpr uint8_t kMetadataItem = 169;
constexpr uint8_t kBlockGroupItem = 192;
constexpr uint8_t kDeviceExtent = 204;
constexpr uint8_t kDeviceReplace = 250;
constexpr uint8_t kTemporaryItem = 248;
constexpr size_t kRootItemBytes = 239;  // the oldest; newer ones are longer
constexpr uint64_t kReplaceStarted = 1;
constexpr uint64_t kReplaceSuspended = 4;

class BtrfsMap {
 public:
  BtrfsMap(const ByteSource& source, const BtrfsSuper& super, FreeList& free)
      : super_(super), trees_(source, super), free_(free) {}

  absl::Status Read() {
    VR_RETURN_IF_ERROR(trees_.LoadChunks());
    VR_RETURN_IF_ERROR(FindRoots());
    VR_RETURN_IF_ERROR(ReadDevice());
    VR_RETURN_IF_ERROR(ReadExtents());
    VR_RETURN_IF_ERROR(free_.Finish(super_.device_bytes));
    return CheckTrees();
  }

 private:
  absl::Status FindRoots();
  absl::Status ReadDevice();
  absl::Status ReadExtents();
  absl::Status TakeExtent(uint64_t logical, uint64_t length);
  absl::Status TakeGroup(const BtrfsKey& key, Bytes item);
  absl::Status NextChunk();
  absl::Status CheckTrees() const;
  void AddLogical(const BtrfsChunk& chunk, uint64_t begin, uint64_t end);
  void AddPhysical(uint64_t begin, uint64_t end);

  const BtrfsSuper& super_;
  BtrfsTrees trees_;
  FreeList& free_;
  std::optional<BtrfsRoot> extent_root_;
  std::optional<BtrfsRoot> device_root_;

  // Of the walk through the extent tree: the chunk it is in.
  size_t chunk_ = 0;
  uint64_t at_ = 0;  // logical; what is before it is dealt with
  uint64_t used_ = 0;
  std::optional<uint64_t> group_used_;
  uint64_t total_used_ = 0;
};

absl::Status BtrfsMap::FindRoots() {
  VR_RETURN_IF_ERROR(trees_.Walk(
      {kRootTree, super_.root, super_.generation, super_.root_level},
      [&](const BtrfsKey& key, Bytes item) -> absl::Status {
        if (key.object == kBalance && key.type == kTemporaryItem)
          return StateError("it is being balanced");
        if (key.type != kRootItem || (key.object != kExtentTree && key.object != kDeviceTree))
          return absl::OkStatus();
        if (item.size() < kRootItemBytes || key.offset != 0)
          return DamagedError("a tree's root is wrong");
        auto& root = key.object == kExtentTree ? extent_root_ : device_root_;
        if (root) return DamagedError("two trees where one belongs");
        root = {key.object, LittleEndian<uint64_t>(item, 176), LittleEndian<uint64_t>(item, 160),
                item[238]};
        return absl::OkStatus();
      }));
  if (!extent_root_ || !device_root_) return DamagedError("a tree is missing");
  return absl::OkStatus();
}

// The device's extents and the chunks' stripes are the same, seen from both sides; between them is
// free.
absl::Status BtrfsMap::ReadDevice() {
  uint64_t end = kBtrfsReserved;
  uint64_t extents = 0;
  VR_RETURN_IF_ERROR(
      trees_.Walk(*device_root_, [&](const BtrfsKey& key, Bytes item) -> absl::Status {
        if (key.type == kDeviceReplace && item.size() >= 40) {
          const uint64_t state = LittleEndian<uint64_t>(item, 32);
          if (state == kReplaceStarted || state == kReplaceSuspended)
            return StateError("its device is being replaced");
        }
        if (key.type != kDeviceExtent) return absl::OkStatus();
        if (item.size() != 48 || key.object != super_.device_id)
          return DamagedError("an extent of another device");
        const uint64_t logical = LittleEndian<uint64_t>(item, 16);
        const uint64_t length = LittleEndian<uint64_t>(item, 24);
        const BtrfsChunk* chunk = trees_.ChunkOf(logical, length);
        if (chunk == nullptr || chunk->logical != logical || chunk->length != length ||
            std::ranges::count(chunk->stripes, key.offset) != 1 || key.offset < end) {
          return DamagedError("an extent of the device is of no chunk");
        }
        AddPhysical(end, key.offset);
        end = key.offset + length;
        ++extents;
        return absl::OkStatus();
      }));
  AddPhysical(end, super_.device_bytes);
  uint64_t stripes = 0;
  for (const BtrfsChunk& chunk : trees_.chunks()) stripes += chunk.stripes.size();
  if (extents != stripes) return DamagedError("a chunk has no extent on the device");
  return absl::OkStatus();
}

// All but the 64 KiB at each superblock.
void BtrfsMap::AddPhysical(uint64_t begin, uint64_t end) {
  for (const uint64_t super : kBtrfsSuperblocks) {
    if (super >= end || super + kBtrfsSuperStripe <= begin) continue;
    if (begin < super) free_.Add(begin, super - begin);
    begin = std::min(end, super + kBtrfsSuperStripe);
  }
  if (begin < end) free_.Add(begin, end - begin);
}

void BtrfsMap::AddLogical(const BtrfsChunk& chunk, uint64_t begin, uint64_t end) {
  for (const uint64_t stripe : chunk.stripes)
    AddPhysical(stripe + (begin - chunk.logical), stripe + (end - chunk.logical));
}

// Ends the chunk that the walk is in.
absl::Status BtrfsMap::NextChunk() {
  const BtrfsChunk& chunk = trees_.chunks()[chunk_];
  if (group_used_ != used_)
    return DamagedError(absl::StrCat("the block group at ", chunk.logical, " counts otherwise"));
  AddLogical(chunk, at_, chunk.logical + chunk.length);
  total_used_ += used_;
  used_ = 0;
  group_used_.reset();
  if (++chunk_ < trees_.chunks().size()) at_ = trees_.chunks()[chunk_].logical;
  return absl::OkStatus();
}

absl::Status BtrfsMap::TakeExtent(uint64_t logical, uint64_t length) {
  const auto& chunks = trees_.chunks();
  while (chunk_ < chunks.size() && logical >= chunks[chunk_].logical + chunks[chunk_].length)
    VR_RETURN_IF_ERROR(NextChunk());
  if (chunk_ == chunks.size() || logical < at_ || length == 0 ||
      length % super_.sector_bytes != 0 || logical % super_.sector_bytes != 0 ||
      length > chunks[chunk_].logical + chunks[chunk_].length - logical) {
    return DamagedError("an extent overlaps another, or lies in no chunk");
  }
  AddLogical(chunks[chunk_], at_, logical);
  at_ = logical + length;
  used_ += length;
  return absl::OkStatus();
}

absl::Status BtrfsMap::TakeGroup(const BtrfsKey& key, Bytes item) {
  const auto& chunks = trees_.chunks();
  while (chunk_ < chunks.size() && key.object > chunks[chunk_].logical)
    VR_RETURN_IF_ERROR(NextChunk());
  if (chunk_ == chunks.size() || key.object != chunks[chunk_].logical ||
      key.offset != chunks[chunk_].length || item.size() != 24 ||
      LittleEndian<uint64_t>(item, 16) != chunks[chunk_].type || group_used_) {
    return DamagedError("a block group and its chunk disagree");
  }
  group_used_ = LittleEndian<uint64_t>(item, 0);
  return absl::OkStatus();
}

absl::Status BtrfsMap::ReadExtents() {
  if (!trees_.chunks().empty()) at_ = trees_.chunks().front().logical;
  VR_RETURN_IF_ERROR(
      trees_.Walk(*extent_root_, [&](const BtrfsKey& key, Bytes item) -> absl::Status {
        if (key.type == kExtentItem) return TakeExtent(key.object, key.offset);
        if (key.type == kMetadataItem) return TakeExtent(key.object, super_.node_bytes);
        if (key.type == kBlockGroupItem) return TakeGroup(key, item);
        return absl::OkStatus();  // who refers to an extent
      }));
  while (chunk_ < trees_.chunks().size()) VR_RETURN_IF_ERROR(NextChunk());
  if (total_used_ != super_.bytes_used) return DamagedError("the superblock counts otherwise");
  return absl::OkStatus();
}

// Every block that was read is in use.
absl::Status BtrfsMap::CheckTrees() const {
  for (const uint64_t logical : trees_.visited()) {
    const BtrfsChunk* chunk = trees_.ChunkOf(logical, super_.node_bytes);
    if (chunk == nullptr) return DamagedError("a block of a tree is nowhere");
    for (const uint64_t stripe : chunk->stripes) {
      if (free_.Touches(stripe + (logical - chunk->logical), super_.node_bytes))
        return DamagedError("a block of its own trees is free");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadBtrfs(const ByteSource& source, const ReadOptions& options, FilesystemFacts& facts,
                       FreeList& free) {
  VR_ASSIGN_OR_RETURN(const BtrfsSuper super, ReadBtrfsSuper(source, options, facts));
  return BtrfsMap(source, super, free).Read();
}

}  // namespace virt_reclaim::freemap
