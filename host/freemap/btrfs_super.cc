#include <algorithm>
#include <bit>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "host/freemap/btrfs_tree.h"
#include "host/freemap/checksum.h"
#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {
namespace {

constexpr size_t kSuperBytes = 4096;
constexpr size_t kDeviceItemAt = 201;
constexpr size_t kSystemChunks = 811;
constexpr size_t kMaxSystemChunks = 2048;
constexpr uint64_t kWritten = 1;  // the one flag of a superblock in peace

// mixed_backref, default_subvol, mixed_groups, lzo, zstd, big_metadata, extended_iref,
// skinny_metadata, no_holes, metadata_uuid
constexpr uint64_t kBtrfsKnownIncompat = 0x77f & ~uint64_t{0x80};
constexpr uint64_t kMetadataUuid = 0x400;
constexpr uint64_t kBtrfsKnownRoCompat = 0x1 | 0x2 | 0x4;  // free_space_tree, its valid bit, verity

bool IsSuper(Bytes bytes, uint64_t at) {
  return StartsWith(bytes, 64, "_BHRfS_M", 8) && LittleEndian<uint64_t>(bytes, 48) == at &&
         LittleEndian<uint16_t>(bytes, 196) == 0 &&
         Crc32c(Part(bytes, kBtrfsChecksumBytes, kSuperBytes - kBtrfsChecksumBytes)) ==
             LittleEndian<uint32_t>(bytes, 0);
}

// What is noted at the same places whatever the features and checksums.
absl::Status CheckBtrfsState(Bytes sb) {
  if (LittleEndian<uint64_t>(sb, 56) != kWritten)
    return StateError("its superblock has flags of a change under way, a seed or a dump");
  // Blocks of a log tree are in no extent tree: freed, the filesystem cannot be mounted any more.
  if (LittleEndian<uint64_t>(sb, 96) != 0)
    return DirtyJournalError("its log tree wants to be replayed");
  return absl::OkStatus();
}

absl::Status CheckBtrfsFeatures(Bytes sb) {
  if (LittleEndian<uint16_t>(sb, 196) != 0) return UnknownError("its checksums are not CRC-32C");
  if (const uint64_t more = LittleEndian<uint64_t>(sb, 188) & ~kBtrfsKnownIncompat; more != 0)
    return UnknownError(absl::StrCat("incompatible features 0x", absl::Hex(more)));
  if (const uint64_t more = LittleEndian<uint64_t>(sb, 180) & ~kBtrfsKnownRoCompat; more != 0)
    return UnknownError(absl::StrCat("read-only compatible features 0x", absl::Hex(more)));
  if (LittleEndian<uint64_t>(sb, 172) != 0) return UnknownError("compatible features");
  if (LittleEndian<uint64_t>(sb, 136) != 1) return UnknownError("it lies on several devices");
  return absl::OkStatus();
}

// A copy that is newer, or that belongs to another filesystem and yet is whole.
absl::Status CheckCopies(const ByteSource& source, Bytes sb) {
  for (size_t i = 1; i < kBtrfsSuperblocks.size(); ++i) {
    const uint64_t at = kBtrfsSuperblocks[i];
    if (source.size() < at + kSuperBytes) break;
    VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> copy, source.ReadBytes(at, kSuperBytes));
    if (!IsSuper(copy, at) || !Equal(Part(copy, 32, 16), Part(sb, 32, 16))) continue;
    if (LittleEndian<uint64_t>(copy, 72) > LittleEndian<uint64_t>(sb, 72))
      return StateError("a copy of its superblock is newer");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BtrfsSuper> ReadBtrfsSuper(const ByteSource& source, const ReadOptions& /*options*/,
                                          FilesystemFacts& facts) {
  VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> sb,
                      source.ReadBytes(kBtrfsSuperblocks[0], kSuperBytes));
  if (!StartsWith(sb, 64, "_BHRfS_M", 8)) return DamagedError("no superblock");
  facts.uuid = UuidText(sb, 32);
  facts.label = Text(sb, 299, 256);
  if (LittleEndian<uint16_t>(sb, 196) == 0 && !IsSuper(sb, kBtrfsSuperblocks[0]))
    return DamagedError("bad checksum of the superblock");
  VR_RETURN_IF_ERROR(CheckBtrfsState(sb));
  VR_RETURN_IF_ERROR(CheckBtrfsFeatures(sb));
  BtrfsSuper super;
  const size_t fsid = (LittleEndian<uint64_t>(sb, 188) & kMetadataUuid) != 0 ? 571 : 32;
  std::ranges::copy(Part(sb, fsid, 16), super.fsid.begin());
  super.generation = LittleEndian<uint64_t>(sb, 72);
  super.root = LittleEndian<uint64_t>(sb, 80);
  super.chunk_root = LittleEndian<uint64_t>(sb, 88);
  super.bytes_used = LittleEndian<uint64_t>(sb, 120);
  super.sector_bytes = LittleEndian<uint32_t>(sb, 144);
  super.node_bytes = LittleEndian<uint32_t>(sb, 148);
  super.chunk_generation = LittleEndian<uint64_t>(sb, 164);
  super.root_level = sb[198];
  super.chunk_root_level = sb[199];
  super.device_id = LittleEndian<uint64_t>(sb, kDeviceItemAt);
  super.device_bytes = LittleEndian<uint64_t>(sb, kDeviceItemAt + 8);
  const auto power = [](uint32_t value) {
    return std::has_single_bit(value) && value >= 4096 && value <= 65536;
  };
  if (!power(super.sector_bytes) || !power(super.node_bytes) ||
      super.node_bytes < super.sector_bytes) {
    return DamagedError("impossible block sizes");
  }
  facts.block_bytes = super.sector_bytes;
  facts.size_bytes = super.device_bytes;
  if (LittleEndian<uint64_t>(sb, 112) != super.device_bytes)
    return DamagedError("its size and its device's disagree");
  if (super.device_bytes > source.size()) return StateError("it is larger than what holds it");
  if (super.device_bytes < 4 * kBtrfsReserved) return DamagedError("impossible size");
  const size_t chunks = LittleEndian<uint32_t>(sb, 160);
  if (chunks == 0 || chunks > kMaxSystemChunks) return DamagedError("no system chunks");
  const Bytes part = Part(sb, kSystemChunks, chunks);
  super.system_chunks.assign(part.begin(), part.end());
  VR_RETURN_IF_ERROR(CheckCopies(source, sb));
  return super;
}

}  // namespace virt_reclaim::freemap
