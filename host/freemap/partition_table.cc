// Sources: UEFI specification 2.10, chapter 5 (GPT, and the MBR in front of it); the kernel's
// block/partitions/msdos.c (what Linux makes of extended partitions).
#include "host/freemap/partition_table.h"

#include <algorithm>
#include <array>
#include <limits>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "host/freemap/bytes.h"
#include "host/freemap/checksum.h"
#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {
namespace {

constexpr uint64_t kMbrSector = 512;
constexpr size_t kMbrEntries = 446;
constexpr size_t kMbrEntryBytes = 16;
constexpr size_t kMaxLogical = 128;  // of an EBR chain
constexpr uint8_t kProtective = 0xee;
constexpr uint8_t kDynamicDisk = 0x42;
constexpr uint32_t kMaxGptEntries = 1024;

bool IsExtended(uint8_t type) { return type == 0x05 || type == 0x0f || type == 0x85; }

struct MbrEntry {
  uint8_t type = 0;
  uint64_t start = 0;  // sectors
  uint64_t count = 0;
  bool used() const { return type != 0 && count != 0; }
};

absl::StatusOr<std::array<MbrEntry, 4>> ReadMbrSector(const ByteSource& disk, uint64_t sector) {
  VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes,
                      disk.ReadBytes(sector * kMbrSector, kMbrSector));
  if (bytes[510] != 0x55 || bytes[511] != 0xaa) return DamagedError("no partition table");
  std::array<MbrEntry, 4> entries;
  for (size_t i = 0; i < entries.size(); ++i) {
    const size_t at = kMbrEntries + i * kMbrEntryBytes;
    if ((bytes[at] & 0x7f) != 0) return DamagedError("an impossible entry in the partition table");
    entries[i] = {bytes[at + 4], LittleEndian<uint32_t>(bytes, at + 8),
                  LittleEndian<uint32_t>(bytes, at + 12)};
  }
  return entries;
}

// Follows the chain of extended boot records inside [start, start + count), sectors.
absl::Status ReadExtended(const ByteSource& disk, const MbrEntry& extended,
                          std::vector<Partition>& found) {
  std::set<uint64_t> seen;
  uint32_t number = 5;
  for (uint64_t at = extended.start; true;) {
    if (!seen.insert(at).second || seen.size() > kMaxLogical)
      return DamagedError("the chain of logical partitions does not end");
    VR_ASSIGN_OR_RETURN(const auto entries, ReadMbrSector(disk, at));
    if (entries[2].used() || entries[3].used())
      return DamagedError("a logical partition's record has more than two entries");
    const uint64_t end = extended.start + extended.count;
    if (const MbrEntry& data = entries[0]; data.used()) {
      if (IsExtended(data.type) || data.start == 0 || data.start >= end - at ||
          data.count > end - at - data.start) {
        return DamagedError("a logical partition lies outside of the extended one");
      }
      found.push_back({number++, (at + data.start) * kMbrSector, data.count * kMbrSector, ""});
    }
    const MbrEntry& next = entries[1];
    if (!next.used()) return absl::OkStatus();
    if (!IsExtended(next.type) || next.start >= extended.count)
      return DamagedError("the chain of logical partitions leads outside");
    at = extended.start + next.start;
  }
}

absl::StatusOr<std::vector<Partition>> ReadMbr(const ByteSource& disk) {
  VR_ASSIGN_OR_RETURN(const auto entries, ReadMbrSector(disk, 0));
  std::vector<Partition> found;
  const uint64_t sectors = disk.size() / kMbrSector;
  std::vector<Partition> extents;  // also the extended one, for the overlaps
  bool extended = false;
  for (size_t i = 0; i < entries.size(); ++i) {
    const MbrEntry& entry = entries[i];
    if (!entry.used()) continue;
    if (entry.type == kProtective) return DamagedError("a GPT is announced and is not there");
    if (entry.start == 0 || entry.start >= sectors || entry.count > sectors - entry.start)
      return DamagedError(absl::StrCat("partition ", i + 1, " lies outside of the disk"));
    const Partition partition = {static_cast<uint32_t>(i + 1), entry.start * kMbrSector,
                                 entry.count * kMbrSector,
                                 entry.type == kDynamicDisk ? "a Windows dynamic disk" : ""};
    extents.push_back(partition);
    if (!IsExtended(entry.type)) {
      found.push_back(partition);
      continue;
    }
    if (extended) return DamagedError("two extended partitions");
    extended = true;
    VR_RETURN_IF_ERROR(ReadExtended(disk, entry, found));
  }
  std::ranges::sort(extents, {}, &Partition::offset);
  for (size_t i = 1; i < extents.size(); ++i) {
    if (extents[i].offset < extents[i - 1].offset + extents[i - 1].length)
      return DamagedError("two partitions overlap");
  }
  return found;
}

struct GptHeader {
  std::vector<uint8_t> entries;
  std::array<uint8_t, 16> disk_guid = {};
  uint64_t other = 0;  // LBA of the other header
  uint64_t first = 0;  // usable LBAs
  uint64_t last = 0;
  uint32_t entry_bytes = 0;
  uint32_t count = 0;
};

absl::StatusOr<GptHeader> ReadGptHeader(const ByteSource& disk, uint64_t sector_bytes,
                                        uint64_t lba) {
  const uint64_t sectors = disk.size() / sector_bytes;
  if (lba == 0 || lba >= sectors) return DamagedError("the second GPT lies outside of the disk");
  VR_ASSIGN_OR_RETURN(std::vector<uint8_t> bytes, disk.ReadBytes(lba * sector_bytes, sector_bytes));
  const uint32_t header_bytes = LittleEndian<uint32_t>(bytes, 12);
  if (!StartsWith(bytes, 0, "EFI PART", 8) || header_bytes < 92 || header_bytes > sector_bytes)
    return DamagedError("one of the two GPTs is not there");
  const uint32_t crc = LittleEndian<uint32_t>(bytes, 16);
  std::fill_n(bytes.begin() + 16, 4, uint8_t{0});
  if (Crc32(Part(bytes, 0, header_bytes)) != crc) return DamagedError("bad checksum of a GPT");
  if (LittleEndian<uint32_t>(bytes, 8) != 0x00010000)
    return UnknownError("an unknown GPT revision");
  if (LittleEndian<uint64_t>(bytes, 24) != lba) return DamagedError("a GPT lies elsewhere");
  GptHeader header;
  header.other = LittleEndian<uint64_t>(bytes, 32);
  header.first = LittleEndian<uint64_t>(bytes, 40);
  header.last = LittleEndian<uint64_t>(bytes, 48);
  std::ranges::copy(Part(bytes, 56, 16), header.disk_guid.begin());
  const uint64_t entries_lba = LittleEndian<uint64_t>(bytes, 72);
  header.count = LittleEndian<uint32_t>(bytes, 80);
  header.entry_bytes = LittleEndian<uint32_t>(bytes, 84);
  if (header.entry_bytes < 128 || header.entry_bytes > 512 || header.entry_bytes % 8 != 0 ||
      header.count == 0 || header.count > kMaxGptEntries || header.first > header.last ||
      header.last >= sectors || entries_lba >= sectors) {
    return DamagedError("an impossible GPT");
  }
  VR_ASSIGN_OR_RETURN(header.entries, disk.ReadBytes(entries_lba * sector_bytes,
                                                     size_t{header.count} * header.entry_bytes));
  if (Crc32(header.entries) != LittleEndian<uint32_t>(bytes, 88))
    return DamagedError("bad checksum of a GPT's entries");
  return header;
}

// Types that say "not a filesystem of its own", whatever may seem to lie there. GUIDs as on disk.
const char* InUseByType(Bytes guid) {
  struct Known {
    uint8_t guid[16];
    const char* what;
  };
  static constexpr Known kKnown[] = {
      {{0xaa, 0xc8, 0x08, 0x58, 0x8f, 0x7e, 0xe0, 0x42, 0x85, 0xd2, 0xe1, 0xe9, 0x04, 0x34, 0xcf,
        0xb3},
       "a Windows dynamic disk"},
      {{0xa0, 0x60, 0x9b, 0xaf, 0x31, 0x14, 0x62, 0x4f, 0xbc, 0x68, 0x33, 0x11, 0x71, 0x4a, 0x69,
        0xad},
       "a Windows dynamic disk"},
      {{0x8f, 0xaf, 0x5c, 0xe7, 0x80, 0xf6, 0xee, 0x4c, 0xaf, 0xa3, 0xb0, 0x01, 0xe5, 0x6e, 0xfc,
        0x2d},
       "a Windows storage space"},
  };
  for (const Known& known : kKnown) {
    if (Equal(guid, known.guid)) return known.what;
  }
  return "";
}

absl::StatusOr<std::vector<Partition>> PartitionsOf(const GptHeader& header, uint64_t sector) {
  std::vector<Partition> found;
  for (uint32_t i = 0; i < header.count; ++i) {
    const Bytes entry = Part(header.entries, size_t{i} * header.entry_bytes, header.entry_bytes);
    if (AllZero(Part(entry, 0, 16))) continue;
    const uint64_t first = LittleEndian<uint64_t>(entry, 32);
    const uint64_t last = LittleEndian<uint64_t>(entry, 40);
    if (first > last || first < header.first || last > header.last)
      return DamagedError(absl::StrCat("partition ", i + 1, " lies outside of the disk"));
    found.push_back(
        {i + 1, first * sector, (last - first + 1) * sector, InUseByType(Part(entry, 0, 16))});
  }
  return found;
}

absl::StatusOr<std::vector<Partition>> ReadGpt(const ByteSource& disk) {
  VR_ASSIGN_OR_RETURN(const auto mbr, ReadMbrSector(disk, 0));
  for (const MbrEntry& entry : mbr) {
    if (entry.used() && entry.type != kProtective)
      return StateError("an MBR and a GPT describe the disk: not clear which one holds");
  }
  uint64_t sector = 0;
  for (const uint64_t tried : {uint64_t{512}, uint64_t{4096}}) {
    if (disk.size() < 3 * tried) continue;
    VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> magic, disk.ReadBytes(tried, 8));
    if (!StartsWith(magic, 0, "EFI PART", 8)) continue;
    if (sector != 0) return StateError("two GPTs, for sectors of 512 and of 4096 bytes");
    sector = tried;
  }
  if (sector == 0) return DamagedError("the first GPT is not there");
  VR_ASSIGN_OR_RETURN(const GptHeader header, ReadGptHeader(disk, sector, 1));
  VR_ASSIGN_OR_RETURN(const GptHeader backup, ReadGptHeader(disk, sector, header.other));
  if (backup.other != 1 || backup.entries != header.entries || backup.first != header.first ||
      backup.last != header.last || backup.disk_guid != header.disk_guid) {
    return DamagedError("the two GPTs differ");
  }
  return PartitionsOf(header, sector);
}

}  // namespace

absl::StatusOr<std::vector<Partition>> ReadPartitionTable(const ByteSource& disk,
                                                          absl::string_view table) {
  // libblkid takes the sectors of a file for 512 bytes long, and of a GPT for 4096 sees the MBR in
  // front.
  if (table != "dos" && table != "gpt" && table != "PMBR")
    return UnknownError(absl::StrCat("a partition table of type ", table));
  absl::StatusOr<std::vector<Partition>> found = table == "dos" ? ReadMbr(disk) : ReadGpt(disk);
  VR_RETURN_IF_ERROR(found.status());
  if (found->size() > kMaxPartitions) return TooLargeError("too many partitions");
  std::ranges::sort(*found, {}, &Partition::offset);
  uint64_t end = 0;
  for (const Partition& partition : *found) {
    if (partition.offset < end) return DamagedError("two partitions overlap");
    if (partition.offset > disk.size() || partition.length > disk.size() - partition.offset)
      return DamagedError("a partition lies outside of the disk");
    end = partition.offset + partition.length;
  }
  return found;
}

}  // namespace virt_reclaim::freemap
