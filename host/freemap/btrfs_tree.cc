#include "host/freemap/btrfs_tree.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "host/freemap/checksum.h"
#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {
namespace {

constexpr size_t kHeaderBytes = 101;
constexpr size_t kKeyBytes = 17;
constexpr size_t kItemBytes = 25;
constexpr size_t kPointerBytes = 33;
constexpr size_t kChunkBytes = 48;  // without its stripes
constexpr size_t kStripeBytes = 32;
constexpr uint8_t kMaxLevel = 7;
constexpr size_t kMaxChunks = 1'000'000;  // of 1 GiB, as a rule
constexpr size_t kMaxBlocks = 4'000'000;  // 64 GB of metadata
constexpr uint64_t kChunkTree = 3;
constexpr uint64_t kChunkObject = 256;
constexpr uint8_t kDeviceItem = 216;
constexpr uint8_t kChunkItem = 228;
constexpr uint64_t kUses = 0x7;  // data, system, metadata
constexpr uint64_t kDup = 0x20;

BtrfsKey KeyAt(Bytes bytes, size_t at) {
  return {LittleEndian<uint64_t>(bytes, at), Part(bytes, at + 8, 1)[0],
          LittleEndian<uint64_t>(bytes, at + 9)};
}

}  // namespace

absl::StatusOr<BtrfsChunk> BtrfsTrees::ParseChunk(uint64_t logical, Bytes item) const {
  if (item.size() < kChunkBytes) return DamagedError("a chunk is cut short");
  const uint64_t count = LittleEndian<uint16_t>(item, 44);
  BtrfsChunk chunk = {
      logical, LittleEndian<uint64_t>(item, 0), LittleEndian<uint64_t>(item, 24), {}};
  const uint64_t profile = chunk.type & ~kUses;
  if ((chunk.type & kUses) == 0 || (profile != 0 && profile != kDup))
    return UnknownError(absl::StrCat("a chunk of type 0x", absl::Hex(chunk.type)));
  if (count != (profile == kDup ? 2U : 1U) || item.size() != kChunkBytes + count * kStripeBytes)
    return DamagedError("a chunk with a wrong number of stripes");
  if (chunk.length == 0 || chunk.length > super_.device_bytes ||
      chunk.length % super_.sector_bytes != 0 || logical % super_.sector_bytes != 0 ||
      logical > UINT64_MAX - chunk.length) {
    return DamagedError("a chunk of an impossible size");
  }
  for (size_t i = 0; i < count; ++i) {
    const size_t at = kChunkBytes + i * kStripeBytes;
    const uint64_t offset = LittleEndian<uint64_t>(item, at + 8);
    if (LittleEndian<uint64_t>(item, at) != super_.device_id)
      return DamagedError("a chunk on another device");
    // Very old ones have chunks below 1 MiB; these are not read.
    if (offset < kBtrfsReserved || offset > super_.device_bytes - chunk.length)
      return DamagedError("a chunk lies outside of the device");
    chunk.stripes.push_back(offset);
  }
  return chunk;
}

absl::Status BtrfsTrees::AddChunk(uint64_t logical, Bytes item,
                                  std::vector<BtrfsChunk>& chunks) const {
  VR_ASSIGN_OR_RETURN(BtrfsChunk chunk, ParseChunk(logical, item));
  if (chunks.size() >= kMaxChunks) return TooLargeError("too many chunks");
  if (!chunks.empty() && chunks.back().logical + chunks.back().length > logical)
    return DamagedError("two chunks overlap");
  chunks.push_back(std::move(chunk));
  return absl::OkStatus();
}

absl::Status BtrfsTrees::LoadChunks() {
  const Bytes array = super_.system_chunks;
  for (size_t at = 0; at < array.size();) {
    if (array.size() - at < kKeyBytes + kChunkBytes) return DamagedError("the system chunks");
    const BtrfsKey key = KeyAt(array, at);
    const size_t stripes = LittleEndian<uint16_t>(array, at + kKeyBytes + 44);
    const size_t length = kChunkBytes + stripes * kStripeBytes;
    if (key.object != kChunkObject || key.type != kChunkItem ||
        array.size() - at - kKeyBytes < length) {
      return DamagedError("the system chunks");
    }
    VR_RETURN_IF_ERROR(AddChunk(key.offset, Part(array, at + kKeyBytes, length), chunks_));
    at += kKeyBytes + length;
  }
  std::vector<BtrfsChunk> all;
  size_t devices = 0;
  VR_RETURN_IF_ERROR(
      Walk({kChunkTree, super_.chunk_root, super_.chunk_generation, super_.chunk_root_level},
           [&](const BtrfsKey& key, Bytes item) -> absl::Status {
             if (key.type == kDeviceItem) {
               ++devices;
               if (key.offset != super_.device_id || item.size() < 16 ||
                   LittleEndian<uint64_t>(item, 8) != super_.device_bytes) {
                 return DamagedError("the chunk tree tells of another device");
               }
               return absl::OkStatus();
             }
             if (key.type != kChunkItem || key.object != kChunkObject)
               return UnknownError("something unknown in the chunk tree");
             return AddChunk(key.offset, item, all);
           }));
  if (devices != 1) return DamagedError("not one device in the chunk tree");
  for (const BtrfsChunk& chunk : chunks_) {
    const auto same = std::ranges::lower_bound(all, chunk.logical, {}, &BtrfsChunk::logical);
    if (same == all.end() || same->logical != chunk.logical || same->length != chunk.length ||
        same->stripes != chunk.stripes) {
      return DamagedError("the superblock's chunks differ from the chunk tree's");
    }
  }
  chunks_ = std::move(all);
  return absl::OkStatus();
}

const BtrfsChunk* BtrfsTrees::ChunkOf(uint64_t logical, uint64_t length) const {
  const auto after = std::ranges::upper_bound(chunks_, logical, {}, &BtrfsChunk::logical);
  if (after == chunks_.begin()) return nullptr;
  const BtrfsChunk& chunk = *std::prev(after);
  const uint64_t position = logical - chunk.logical;
  return position < chunk.length && length <= chunk.length - position ? &chunk : nullptr;
}

absl::StatusOr<std::vector<uint8_t>> BtrfsTrees::ReadBlock(const BtrfsRoot& block) const {
  const BtrfsChunk* chunk = ChunkOf(block.logical, super_.node_bytes);
  if (chunk == nullptr || block.logical % super_.sector_bytes != 0)
    return DamagedError(absl::StrCat("a block of tree ", block.owner, " is nowhere"));
  VR_ASSIGN_OR_RETURN(
      std::vector<uint8_t> bytes,
      source_.ReadBytes(chunk->stripes[0] + (block.logical - chunk->logical), super_.node_bytes));
  if (Crc32c(Part(bytes, kBtrfsChecksumBytes, bytes.size() - kBtrfsChecksumBytes)) !=
      LittleEndian<uint32_t>(bytes, 0)) {
    return DamagedError(absl::StrCat("bad checksum of a block of tree ", block.owner));
  }
  if (!Equal(Part(bytes, 32, 16), super_.fsid) ||
      LittleEndian<uint64_t>(bytes, 48) != block.logical ||
      LittleEndian<uint64_t>(bytes, 80) != block.generation ||
      LittleEndian<uint64_t>(bytes, 88) != block.owner || bytes[100] != block.level) {
    return DamagedError(absl::StrCat("a block of tree ", block.owner, " belongs elsewhere"));
  }
  return bytes;
}

absl::Status BtrfsTrees::Walk(const BtrfsRoot& root, const Take& take) {
  if (root.level > kMaxLevel) return DamagedError("a tree of an impossible depth");
  any_key_ = false;
  return WalkBlock(root, nullptr, take);
}

// Depth is bounded by the level, which falls by one; width by the order of the keys, which no loop
// can keep.
absl::Status BtrfsTrees::WalkBlock(const BtrfsRoot& block, const BtrfsKey* first,
                                   const Take& take) {
  if (visited_.size() >= kMaxBlocks) return TooLargeError("too much metadata");
  visited_.push_back(block.logical);
  VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, ReadBlock(block));
  const absl::Status bad = DamagedError(absl::StrCat("a block of tree ", block.owner, " is wrong"));
  const size_t count = LittleEndian<uint32_t>(bytes, 96);
  const size_t room =
      (bytes.size() - kHeaderBytes) / (block.level == 0 ? kItemBytes : kPointerBytes);
  // Only a tree without an item has a block without one.
  if (count > room || (count == 0 && (block.level != 0 || first != nullptr))) return bad;
  if (first != nullptr && KeyAt(bytes, kHeaderBytes) != *first) return bad;
  const size_t data_bytes = bytes.size() - kHeaderBytes;
  size_t data_end = data_bytes;
  for (size_t i = 0; i < count; ++i) {
    const size_t at = kHeaderBytes + i * (block.level == 0 ? kItemBytes : kPointerBytes);
    const BtrfsKey key = KeyAt(bytes, at);
    if (block.level != 0) {
      const BtrfsRoot child = {block.owner, LittleEndian<uint64_t>(bytes, at + kKeyBytes),
                               LittleEndian<uint64_t>(bytes, at + kKeyBytes + 8),
                               static_cast<uint8_t>(block.level - 1)};
      if (child.generation > super_.generation) return bad;
      VR_RETURN_IF_ERROR(WalkBlock(child, &key, take));
      continue;
    }
    if (any_key_ && key <= last_key_) return bad;
    any_key_ = true;
    last_key_ = key;
    // Items' data fill the block from its end, without gaps.
    const size_t offset = LittleEndian<uint32_t>(bytes, at + kKeyBytes);
    const size_t size = LittleEndian<uint32_t>(bytes, at + kKeyBytes + 4);
    if (offset > data_bytes || size > data_bytes || offset + size != data_end ||
        offset < count * kItemBytes) {
      return bad;
    }
    data_end = offset;
    VR_RETURN_IF_ERROR(take(key, Part(bytes, kHeaderBytes + offset, size)));
  }
  return absl::OkStatus();
}

}  // namespace virt_reclaim::freemap
