#include "host/freemap/exfat_boot.h"

#include <bit>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/status.h"
#include "host/freemap/bytes.h"
#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {
namespace {

constexpr size_t kExfatBootBytes = 512;
constexpr uint32_t kSectors = 12;  // of a boot region; the last has the checksum of the others
constexpr uint32_t kMaxClusters = 0xfffffff5;
constexpr size_t kFlags = 106;
constexpr size_t kInUseAt = 112;  // per cent

// What changes while it is mounted, and so is not in the checksum: the flags and the per cent.
bool Changes(size_t at) { return at == kFlags || at == kFlags + 1 || at == kInUseAt; }

bool GoodChecksum(Bytes region, uint32_t sector) {
  const size_t covered = size_t{kSectors - 1} * sector;
  uint32_t sum = 0;
  for (size_t at = 0; at < covered; ++at) {
    if (!Changes(at)) sum = std::rotr(sum, 1) + region[at];
  }
  for (size_t at = covered; at < region.size(); at += 4) {
    if (LittleEndian<uint32_t>(region, at) != sum) return false;
  }
  return true;
}

absl::Status CheckRegions(const ByteSource& source, uint32_t sector) {
  const size_t bytes = size_t{kSectors} * sector;
  VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> main, source.ReadBytes(0, bytes));
  VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> backup, source.ReadBytes(bytes, bytes));
  if (!GoodChecksum(main, sector)) return DamagedError("bad checksum of the boot region");
  if (!GoodChecksum(backup, sector)) return DamagedError("bad checksum of the second boot region");
  for (size_t at = 0; at < kExfatBootBytes; ++at) {
    if (!Changes(at) && main[at] != backup[at]) return DamagedError("the two boot regions differ");
  }
  return absl::OkStatus();
}

absl::Status CheckExfatState(uint32_t flags) {
  if ((flags & 2) != 0) return StateError("marked dirty: mounted or not cleanly unmounted");
  if ((flags & 4) != 0) return StateError("its medium failed");
  return absl::OkStatus();
}

absl::Status CheckExfatFeatures(Bytes boot) {
  if (boot[105] != 1) return UnknownError("an unknown version");
  if (boot[110] != 1) return UnknownError("two FATs, as in TexFAT");
  if ((LittleEndian<uint16_t>(boot, kFlags) & ~14U) != 0)
    return UnknownError("its second FAT is the active one, or unknown flags");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ExfatGeometry> ReadExfatBoot(const ByteSource& source, FilesystemFacts& facts) {
  VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> boot, source.ReadBytes(0, kExfatBootBytes));
  if (!StartsWith(boot, 0,
                  "\xeb\x76\x90"
                  "EXFAT   ",
                  11) ||
      !AllZero(Part(boot, 11, 53)) || !StartsWith(boot, 510, "\x55\xaa", 2)) {
    return DamagedError("no boot sector");
  }
  const uint32_t sector_log = boot[108];
  const uint32_t cluster_log = boot[109];
  if (sector_log < 9 || sector_log > 12 || cluster_log > 25 - sector_log)
    return DamagedError("impossible sizes");
  const uint32_t serial = LittleEndian<uint32_t>(boot, 100);
  facts.uuid = absl::StrFormat("%04X-%04X", serial >> 16, serial & 0xffff);
  // First: a state holds for every engine, and what is not known here goes to another.
  VR_RETURN_IF_ERROR(CheckExfatState(LittleEndian<uint16_t>(boot, kFlags)));
  VR_RETURN_IF_ERROR(CheckExfatFeatures(boot));
  const uint64_t sectors = LittleEndian<uint64_t>(boot, 72);
  const uint64_t fat = LittleEndian<uint32_t>(boot, 80);
  const uint64_t fat_sectors = LittleEndian<uint32_t>(boot, 84);
  const uint64_t heap = LittleEndian<uint32_t>(boot, 88);
  const uint32_t clusters = LittleEndian<uint32_t>(boot, 92);
  if (sectors == 0 || sectors > uint64_t{1} << 50) return DamagedError("impossible size");
  facts.size_bytes = sectors << sector_log;
  if (facts.size_bytes > source.size()) return StateError("it is larger than what holds it");
  if (fat < 2 * kSectors || fat_sectors == 0 || fat + fat_sectors > heap || heap > sectors ||
      clusters == 0 || clusters > kMaxClusters ||
      uint64_t{clusters} << cluster_log > sectors - heap) {
    return DamagedError("its parts overlap or lie outside");
  }
  ExfatGeometry geometry;
  geometry.fat_offset = fat << sector_log;
  geometry.fat_bytes = fat_sectors << sector_log;
  geometry.root = LittleEndian<uint32_t>(boot, 96);
  geometry.heap = {heap << sector_log, 1U << (sector_log + cluster_log), clusters};
  facts.block_bytes = geometry.heap.cluster_bytes;
  VR_RETURN_IF_ERROR(CheckRegions(source, 1U << sector_log));
  return geometry;
}

}  // namespace virt_reclaim::freemap
