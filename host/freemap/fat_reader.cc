// FAT12, FAT16 and FAT32: clusters whose entry is 0, the same in both FATs. FSInfo's count is not
// believed. Nothing has a checksum, and FAT12 carries no mark of being mounted, so the tree of
// directories is walked too, and nothing in it may be free. Sources: Microsoft's "FAT: General
// Overview of On-Disk Format" 1.03; the kernel's fs/fat/inode.c, include/uapi/linux/msdos_fs.h.
#include <algorithm>
#include <bit>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "host/freemap/bytes.h"
#include "host/freemap/fat_clusters.h"
#include "host/freemap/readers.h"
#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {
namespace {

constexpr size_t kBootBytes = 512;
constexpr size_t kFatChunk = 64 << 10;
// By their count of clusters the kinds are told from each other, and by nothing else.
constexpr uint64_t kFat12Clusters = 4085;
constexpr uint64_t kFat16Clusters = 65525;
constexpr uint64_t kFat32Clusters = 0x0ffffff5;

struct FatGeometry {
  FatKind kind = FatKind::k12;
  uint64_t fat_offset = 0;  // bytes
  uint64_t fat_bytes = 0;   // of one
  uint32_t fats = 0;
  uint8_t media = 0;
  uint64_t root_offset = 0;  // bytes; FAT12 and FAT16
  uint64_t root_bytes = 0;
  uint32_t root_cluster = 0;  // FAT32
  ClusterHeap heap;
};

std::string Label(Bytes bytes) {
  std::string label = Text(bytes, 0, 11);
  while (!label.empty() && label.back() == ' ') label.pop_back();
  return label == "NO NAME" ? "" : label;
}

// The mark of a clean unmount in the FAT's second entry; FAT12 has no room for one.
absl::Status CheckFatMark(FatTable& table) {
  if (table.kind() == FatKind::k12) return absl::OkStatus();
  VR_ASSIGN_OR_RETURN(const uint32_t marks, table.Raw(1));
  const int shift = table.kind() == FatKind::k16 ? 14 : 26;
  if ((marks >> shift & 3) != 3)
    return StateError("mounted, not cleanly unmounted, or with errors, as its FAT says");
  return absl::OkStatus();
}

// What only another engine may know. Linux goes by the fields, Windows by the count.
absl::Status CheckFatFeatures(Bytes boot, const FatGeometry& geometry, bool wide) {
  if (geometry.fats != 1 && geometry.fats != 2) return UnknownError("neither one FAT nor two");
  if ((geometry.kind == FatKind::k32) != wide)
    return UnknownError("not clear whether it is FAT32: its fields and its size disagree");
  if (!wide) return absl::OkStatus();
  if (LittleEndian<uint16_t>(boot, 40) != 0) return UnknownError("its FATs are not mirrored");
  if (LittleEndian<uint16_t>(boot, 42) != 0) return UnknownError("an unknown version");
  return absl::OkStatus();
}

// FAT32's fields behind the ones that all have.
absl::Status ReadBoot32(const ByteSource& source, Bytes boot, uint32_t sector, uint32_t reserved,
                        FatGeometry& geometry) {
  geometry.root_cluster = LittleEndian<uint32_t>(boot, 44);
  if (!geometry.heap.Has(geometry.root_cluster)) return DamagedError("no root directory");
  const uint32_t backup = LittleEndian<uint16_t>(boot, 50);
  if (backup == 0 || backup == 0xffff) return absl::OkStatus();  // none
  if (backup >= reserved) return DamagedError("its second boot sector is elsewhere");
  VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> copy,
                      source.ReadBytes(uint64_t{backup} * sector, kBootBytes));
  // All that says where things are; not the state, nor the count of sectors before the partition.
  if (!Equal(Part(boot, 11, 17), Part(copy, 11, 17)) ||
      !Equal(Part(boot, 32, 16), Part(copy, 32, 16)))
    return DamagedError("the two boot sectors differ");
  return absl::OkStatus();
}

absl::StatusOr<FatGeometry> ReadBoot(const ByteSource& source, FilesystemFacts& facts) {
  VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> boot, source.ReadBytes(0, kBootBytes));
  const uint32_t sector = LittleEndian<uint16_t>(boot, 11);
  const uint32_t per_cluster = boot[13];
  const uint32_t reserved = LittleEndian<uint16_t>(boot, 14);
  if (!StartsWith(boot, 510, "\x55\xaa", 2)) return DamagedError("no boot sector");
  if (!std::has_single_bit(sector) || sector < 512 || sector > 4096 ||
      !std::has_single_bit(per_cluster) || reserved == 0) {
    return DamagedError("impossible sizes");
  }
  FatGeometry geometry;
  geometry.fats = boot[16];
  geometry.media = boot[21];
  if (geometry.media != 0xf0 && geometry.media < 0xf8) return DamagedError("no medium");
  const uint32_t root_entries = LittleEndian<uint16_t>(boot, 17);
  const uint32_t sectors16 = LittleEndian<uint16_t>(boot, 19);
  const uint32_t sectors32 = LittleEndian<uint32_t>(boot, 32);
  const uint32_t fat16 = LittleEndian<uint16_t>(boot, 22);
  const bool wide = fat16 == 0;
  const uint64_t fat_sectors = wide ? LittleEndian<uint32_t>(boot, 36) : fat16;
  const uint64_t sectors = sectors16 != 0 ? sectors16 : sectors32;
  if (sectors == 0 || fat_sectors == 0 ||
      (sectors16 != 0 && sectors32 != 0 && sectors16 != sectors32))
    return DamagedError("no size, or two");
  geometry.root_bytes = uint64_t{root_entries} * kFatEntryBytes;
  if (geometry.root_bytes % sector != 0 || (root_entries == 0) != wide)
    return DamagedError("impossible root directory");
  geometry.heap.cluster_bytes = sector * per_cluster;
  facts.block_bytes = geometry.heap.cluster_bytes;
  facts.size_bytes = sectors * sector;
  facts.label = Label(Part(boot, wide ? 71 : 43, 11));
  const uint32_t serial = LittleEndian<uint32_t>(boot, wide ? 67 : 39);
  facts.uuid = absl::StrFormat("%04X-%04X", serial >> 16, serial & 0xffff);
  if (facts.size_bytes > source.size()) return StateError("it is larger than what holds it");

  geometry.fat_offset = uint64_t{reserved} * sector;
  geometry.fat_bytes = fat_sectors * sector;
  geometry.root_offset = geometry.fat_offset + geometry.fats * geometry.fat_bytes;
  geometry.heap.offset = geometry.root_offset + geometry.root_bytes;
  if (geometry.heap.offset >= facts.size_bytes) return DamagedError("no room for clusters");
  const uint64_t clusters = (facts.size_bytes - geometry.heap.offset) / geometry.heap.cluster_bytes;
  geometry.kind = clusters < kFat12Clusters   ? FatKind::k12
                  : clusters < kFat16Clusters ? FatKind::k16
                                              : FatKind::k32;
  // Linux sets the first bit while it is mounted, whatever the kind; others say so in the FAT.
  if ((boot[wide ? 65 : 37] & 3) != 0)
    return StateError("mounted or not cleanly unmounted, as its boot sector says");
  if (const absl::Status unknown = CheckFatFeatures(boot, geometry, wide); !unknown.ok()) {
    const FatKind kind = wide ? FatKind::k32 : std::min(geometry.kind, FatKind::k16);
    FatTable table(source, kind, geometry.fat_offset, geometry.fat_bytes);
    VR_RETURN_IF_ERROR(CheckFatMark(table));
    return unknown;
  }
  if (clusters == 0 || clusters >= kFat32Clusters) return DamagedError("impossible size");
  geometry.heap.count = static_cast<uint32_t>(clusters);
  if (wide) VR_RETURN_IF_ERROR(ReadBoot32(source, boot, sector, reserved, geometry));
  return geometry;
}

class FatMap {
 public:
  FatMap(const ByteSource& source, const FatGeometry& geometry, FilesystemFacts& facts,
         FreeList& free)
      : source_(source),
        g_(geometry),
        table_(source, geometry.kind, geometry.fat_offset, geometry.fat_bytes),
        walk_(table_, g_.heap, free),
        facts_(facts),
        free_(free) {}

  absl::Status Read() {
    VR_RETURN_IF_ERROR(CheckFats());
    VR_RETURN_IF_ERROR(CheckMarks());
    VR_RETURN_IF_ERROR(ReadTable());
    VR_RETURN_IF_ERROR(free_.Finish(facts_.size_bytes));
    return WalkTree();
  }

 private:
  absl::Status CheckFats() const;
  absl::Status CheckMarks();
  absl::Status ReadTable();
  absl::Status WalkTree();
  absl::Status TakeEntries(Bytes bytes, bool& ended);
  absl::Status TakeEntry(Bytes entry);

  const ByteSource& source_;
  const FatGeometry& g_;
  FatTable table_;
  ClusterWalk walk_;
  FilesystemFacts& facts_;
  FreeList& free_;
  std::vector<uint32_t> pending_;  // directories
};

absl::Status FatMap::CheckFats() const {
  if (g_.fats == 1) return absl::OkStatus();
  for (uint64_t at = 0; at < g_.fat_bytes; at += kFatChunk) {
    const size_t count = std::min<uint64_t>(kFatChunk, g_.fat_bytes - at);
    VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> first,
                        source_.ReadBytes(g_.fat_offset + at, count));
    VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> second,
                        source_.ReadBytes(g_.fat_offset + g_.fat_bytes + at, count));
    if (first != second) return DamagedError("its two FATs differ");
  }
  return absl::OkStatus();
}

// The first two entries belong to no cluster.
absl::Status FatMap::CheckMarks() {
  if (table_.entries() < uint64_t{g_.heap.count} + 2) return DamagedError("the FAT is too short");
  VR_ASSIGN_OR_RETURN(const uint32_t medium, table_.Raw(0));
  const uint32_t ones = g_.kind == FatKind::k12   ? 0xf00
                        : g_.kind == FatKind::k16 ? 0xff00
                                                  : 0x0fffff00;
  if (medium != (ones | g_.media)) return DamagedError("the FAT and the boot sector disagree");
  return CheckFatMark(table_);
}

absl::Status FatMap::ReadTable() {
  for (uint32_t cluster = 2; cluster - 2 < g_.heap.count; ++cluster) {
    VR_ASSIGN_OR_RETURN(const uint32_t value, table_.Get(cluster));
    if (value == kFatFree) {
      free_.Add(g_.heap.ByteOf(cluster), g_.heap.cluster_bytes);
    } else if (value < kFatReserved && !g_.heap.Has(value)) {
      return DamagedError("an entry of the FAT leads nowhere");
    }
  }
  return absl::OkStatus();
}

absl::Status FatMap::TakeEntry(Bytes entry) {
  constexpr uint8_t kVolume = 0x08;
  constexpr uint8_t kDirectory = 0x10;
  constexpr uint8_t kLongName = 0x0f;
  const uint8_t attributes = entry[11];
  if (attributes == kLongName || (attributes & kVolume) != 0) return absl::OkStatus();
  uint32_t first = LittleEndian<uint16_t>(entry, 26);
  // Elsewhere OS/2 has something else in these two bytes.
  if (g_.kind == FatKind::k32) first |= uint32_t{LittleEndian<uint16_t>(entry, 20)} << 16;
  if ((attributes & kDirectory) != 0) {
    if (StartsWith(entry, 0, ".          ", 11) || StartsWith(entry, 0, "..         ", 11))
      return absl::OkStatus();
    if (pending_.size() >= kMaxPendingDirectories) return TooLargeError("too many directories");
    pending_.push_back(first);
    return absl::OkStatus();
  }
  const uint32_t size = LittleEndian<uint32_t>(entry, 28);
  if (first == 0 && size == 0) return absl::OkStatus();
  VR_ASSIGN_OR_RETURN(const uint64_t clusters, walk_.Chain(first));
  if (clusters * g_.heap.cluster_bytes < size)
    return DamagedError("a file is longer than its clusters");
  return absl::OkStatus();
}

absl::Status FatMap::TakeEntries(Bytes bytes, bool& ended) {
  constexpr uint8_t kDeleted = 0xe5;
  for (size_t at = 0; at + kFatEntryBytes <= bytes.size(); at += kFatEntryBytes) {
    const uint8_t name = bytes[at];
    // Windows ends here, Linux goes on: what comes must be nobody's for both.
    ended = ended || name == 0;
    if (name == 0 || name == kDeleted) continue;
    if (ended) return DamagedError("entries behind the end of a directory");
    VR_RETURN_IF_ERROR(TakeEntry(Part(bytes, at, kFatEntryBytes)));
  }
  return absl::OkStatus();
}

absl::Status FatMap::WalkTree() {
  bool ended = false;
  if (g_.kind == FatKind::k32) {
    pending_.push_back(g_.root_cluster);
  } else {
    VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> root,
                        source_.ReadBytes(g_.root_offset, g_.root_bytes));
    VR_RETURN_IF_ERROR(TakeEntries(root, ended));
  }
  while (!pending_.empty()) {
    const uint32_t directory = pending_.back();
    pending_.pop_back();
    ended = false;
    // Its own chain first: what it lists is walked within.
    std::vector<uint32_t> clusters;
    const auto chain = walk_.Chain(directory, [&clusters](uint32_t cluster) {
      if (clusters.size() >= kMaxPendingDirectories)
        return TooLargeError("a directory is too long");
      clusters.push_back(cluster);
      return absl::OkStatus();
    });
    VR_RETURN_IF_ERROR(chain.status());
    for (const uint32_t cluster : clusters) {
      VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes,
                          source_.ReadBytes(g_.heap.ByteOf(cluster), g_.heap.cluster_bytes));
      VR_RETURN_IF_ERROR(TakeEntries(bytes, ended));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadFat(const ByteSource& source, const ReadOptions& options, FilesystemFacts& facts,
                     FreeList& free) {
  VR_ASSIGN_OR_RETURN(const FatGeometry geometry, ReadBoot(source, facts));
  if (options.strict) return UncheckedError("FAT has no checksums");
  return FatMap(source, geometry, facts, free).Read();
}

}  // namespace virt_reclaim::freemap
