#include "host/freemap/ntfs_format.h"

#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {
namespace {

constexpr uint32_t kMaxClusterBytes = 2U << 20;
constexpr uint32_t kEnd = 0xffffffff;
constexpr size_t kResidentHeader = 24;
constexpr size_t kRunsHeader = 64;
constexpr uint64_t kMaxVcn = uint64_t{1} << 48;  // more than any volume's clusters

// Powers of two are written as such, or from 2^1 to 2^31 as a negative exponent: 0xf6 is 2^10.
std::optional<uint32_t> Exponent(uint8_t value) {
  const uint32_t exponent = 256U - value;
  if (value < 0x80 || exponent > 31) return std::nullopt;
  return 1U << exponent;
}

// What both boot sectors must have the same. Boot code differs in practice, and so does the count
// of sectors before the partition, which tools correct in the first one only.
bool SameGeometry(Bytes a, Bytes b) {
  return Equal(Part(a, 3, 21), Part(b, 3, 21)) && Equal(Part(a, 40, 40), Part(b, 40, 40)) &&
         Equal(Part(a, 510, 2), Part(b, 510, 2));
}

absl::StatusOr<uint32_t> SectorBytes(Bytes boot) {
  if (!StartsWith(boot, 3, "NTFS    ", 8) || !StartsWith(boot, 510, "\x55\xaa", 2))
    return DamagedError("no boot sector");
  const uint32_t bytes = LittleEndian<uint16_t>(boot, 11);
  if (!std::has_single_bit(bytes) || bytes < 512 || bytes > 4096)
    return DamagedError("impossible sector size");
  // Fields of FAT that must be zero here: reserved, FATs, root entries, sectors, sectors of a FAT.
  if (!AllZero(Part(boot, 14, 7)) || !AllZero(Part(boot, 22, 2)) || !AllZero(Part(boot, 32, 4)))
    return DamagedError("the boot sector speaks of FAT");
  return bytes;
}

}  // namespace

absl::StatusOr<NtfsGeometry> ReadNtfsBoot(const ByteSource& source, FilesystemFacts& facts) {
  VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> boot, source.ReadBytes(0, kNtfsBlock));
  VR_ASSIGN_OR_RETURN(const uint32_t sector, SectorBytes(boot));
  facts.uuid = absl::StrFormat("%016X", LittleEndian<uint64_t>(boot, 72));
  const std::optional<uint32_t> per_cluster =
      boot[13] > 0x80 ? Exponent(boot[13]) : std::optional<uint32_t>(boot[13]);
  if (!per_cluster || !std::has_single_bit(*per_cluster) ||
      *per_cluster > kMaxClusterBytes / sector) {
    return DamagedError("impossible cluster size");
  }
  NtfsGeometry geometry;
  geometry.cluster_bytes = sector * *per_cluster;
  facts.block_bytes = geometry.cluster_bytes;
  // The last sector of the partition, with the copy, is not counted.
  const uint64_t sectors = LittleEndian<uint64_t>(boot, 40);
  if (sectors == 0 || sectors > (uint64_t{1} << 62) / sector)
    return DamagedError("impossible size");
  facts.size_bytes = (sectors + 1) * sector;
  if (facts.size_bytes > source.size()) return StateError("it is larger than what holds it");
  geometry.clusters = sectors / *per_cluster;
  const std::optional<uint32_t> record =
      boot[64] >= 0x80 ? Exponent(boot[64])
                       : std::optional<uint32_t>(boot[64] * geometry.cluster_bytes);
  if (!record || (*record != 1024 && *record != 2048 && *record != 4096))
    return UnknownError("records of an unknown size");
  geometry.record_bytes = *record;
  geometry.mft = LittleEndian<uint64_t>(boot, 48);
  geometry.mirror = LittleEndian<uint64_t>(boot, 56);
  if (geometry.mft == 0 || geometry.mirror == 0 || geometry.mft >= geometry.clusters ||
      geometry.mirror >= geometry.clusters || geometry.mft == geometry.mirror) {
    return DamagedError("its MFT lies nowhere");
  }
  VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> copy,
                      source.ReadBytes(sectors * sector, kNtfsBlock));
  if (!SameGeometry(boot, copy)) return DamagedError("the two boot sectors differ");
  return geometry;
}

absl::Status ApplyNtfsFixups(std::span<uint8_t> record) {
  const size_t blocks = record.size() / kNtfsBlock;
  const size_t at = LittleEndian<uint16_t>(record, 4);
  const size_t count = LittleEndian<uint16_t>(record, 6);
  if (record.size() % kNtfsBlock != 0 || count != blocks + 1 || at % 2 != 0 || at < 8 ||
      at + 2 * count > kNtfsBlock - 2) {
    return DamagedError("wrong fixups");
  }
  const uint16_t number = LittleEndian<uint16_t>(record, at);
  for (size_t i = 0; i < blocks; ++i) {
    const size_t end = (i + 1) * kNtfsBlock - 2;
    if (LittleEndian<uint16_t>(record, end) != number)
      return DamagedError("half written, as its fixups say");
    record[end] = record[at + 2 + 2 * i];
    record[end + 1] = record[at + 3 + 2 * i];
  }
  return absl::OkStatus();
}

absl::StatusOr<NtfsRecord> NtfsRecord::Parse(std::vector<uint8_t> bytes, uint64_t number) {
  const auto damaged = [number](absl::string_view what) {
    return DamagedError(absl::StrCat("record ", number, " of the MFT: ", what));
  };
  if (!StartsWith(bytes, 0, "FILE", 4)) return damaged("is none");
  if (const absl::Status status = ApplyNtfsFixups(bytes); !status.ok())
    return damaged(status.message());
  const size_t fixups = LittleEndian<uint16_t>(bytes, 4);
  const size_t first = LittleEndian<uint16_t>(bytes, 20);
  const size_t used = LittleEndian<uint32_t>(bytes, 24);
  if (used > bytes.size() || used % 8 != 0 || LittleEndian<uint32_t>(bytes, 28) != bytes.size() ||
      first % 8 != 0 || first < fixups + 2 * size_t{LittleEndian<uint16_t>(bytes, 6)} ||
      first + 8 > used) {
    return damaged("impossible sizes");
  }
  NtfsRecord record(std::move(bytes));
  // Version 3.1 says whose record it is; mkntfs numbers what is not in use as 0.
  if (record.in_use() && fixups >= 48 &&
      LittleEndian<uint32_t>(record.bytes_, 44) != static_cast<uint32_t>(number)) {
    return damaged("belongs elsewhere");
  }
  return record;
}

absl::StatusOr<NtfsAttribute> NtfsRecord::ParseAttribute(size_t at, size_t length) const {
  const Bytes bytes = Part(bytes_, at, length);
  NtfsAttribute attribute;
  attribute.type = static_cast<NtfsType>(LittleEndian<uint32_t>(bytes, 0));
  attribute.named = bytes[9] != 0;
  attribute.flags = LittleEndian<uint16_t>(bytes, 12);
  attribute.resident = bytes[8] == 0;
  if (bytes[8] > 1 ||
      (attribute.named && LittleEndian<uint16_t>(bytes, 10) + 2 * size_t{bytes[9]} > length)) {
    return DamagedError("an attribute's name or form");
  }
  if (attribute.resident) {
    const size_t size = LittleEndian<uint32_t>(bytes, 16);
    const size_t value = LittleEndian<uint16_t>(bytes, 20);
    if (value > length || size > length - value) return DamagedError("an attribute's value");
    attribute.value = Part(bytes, value, size);
    return attribute;
  }
  if (length < kRunsHeader) return DamagedError("an attribute is cut short");
  attribute.first_vcn = LittleEndian<uint64_t>(bytes, 16);
  const uint64_t last = LittleEndian<uint64_t>(bytes, 24);
  const size_t pairs = LittleEndian<uint16_t>(bytes, 32);
  // An empty one ends at -1.
  attribute.clusters = last + 1 - attribute.first_vcn;
  if (attribute.first_vcn > kMaxVcn || attribute.clusters > kMaxVcn || pairs < kRunsHeader ||
      pairs >= length) {
    return DamagedError("an attribute's bounds");
  }
  attribute.pairs = Part(bytes, pairs, length - pairs);
  if (attribute.first_vcn != 0) return attribute;
  attribute.allocated = LittleEndian<uint64_t>(bytes, 40);
  attribute.size = LittleEndian<uint64_t>(bytes, 48);
  attribute.initialized = LittleEndian<uint64_t>(bytes, 56);
  return attribute;
}

absl::Status NtfsRecord::ForEach(
    const std::function<absl::Status(const NtfsAttribute&)>& visit) const {
  const Bytes all = used();
  uint32_t last = 0;
  for (size_t at = LittleEndian<uint16_t>(bytes_, 20);;) {
    if (all.size() - at < 4) return DamagedError("a record has no end");
    const uint32_t type = LittleEndian<uint32_t>(all, at);
    if (type == kEnd) return absl::OkStatus();
    if (all.size() - at < kResidentHeader) return DamagedError("a record has no end");
    const size_t length = LittleEndian<uint32_t>(all, at + 4);
    if (length < kResidentHeader || length % 8 != 0 || length > all.size() - at)
      return DamagedError("an attribute's length");
    if (type == 0 || type < last) return DamagedError("attributes out of order");
    last = type;
    VR_ASSIGN_OR_RETURN(const NtfsAttribute attribute, ParseAttribute(at, length));
    VR_RETURN_IF_ERROR(visit(attribute));
    at += length;
  }
}

absl::StatusOr<std::optional<NtfsAttribute>> NtfsRecord::Find(NtfsType type, uint64_t vcn) const {
  std::optional<NtfsAttribute> found;
  VR_RETURN_IF_ERROR(ForEach([&](const NtfsAttribute& attribute) -> absl::Status {
    if (attribute.type != type || attribute.named || attribute.first_vcn != vcn)
      return absl::OkStatus();
    if (found) return DamagedError("an attribute is there twice");
    found = attribute;
    return absl::OkStatus();
  }));
  return found;
}

absl::Status DecodeNtfsRuns(const NtfsAttribute& attribute, const NtfsGeometry& geometry,
                            const std::function<absl::Status(const NtfsRun&)>& visit) {
  const Bytes pairs = attribute.pairs;
  uint64_t cluster = 0;
  uint64_t left = attribute.clusters;
  size_t at = 0;
  while (at < pairs.size() && pairs[at] != 0) {
    const size_t count_bytes = pairs[at] & 0xf;
    const size_t delta_bytes = pairs[at] >> 4;
    if (count_bytes == 0 || count_bytes > 8 || delta_bytes > 8 ||
        count_bytes + delta_bytes >= pairs.size() - at) {
      return DamagedError("a run's form");
    }
    uint64_t count = 0;
    for (size_t i = count_bytes; i > 0; --i) count = count << 8 | pairs[at + i];
    if (count == 0 || count > left) return DamagedError("a run's length");
    NtfsRun run = {std::nullopt, count};
    if (delta_bytes != 0) {
      // Signed, from the run before; wraps as two's complement does, and is judged by its sum.
      uint64_t delta = (pairs[at + count_bytes + delta_bytes] & 0x80) != 0 ? ~uint64_t{0} : 0;
      for (size_t i = delta_bytes; i > 0; --i) delta = delta << 8 | pairs[at + count_bytes + i];
      cluster += delta;
      if (cluster >= geometry.clusters || count > geometry.clusters - cluster)
        return DamagedError("a run leads outside");
      run.cluster = cluster;
    }
    VR_RETURN_IF_ERROR(visit(run));
    left -= count;
    at += 1 + count_bytes + delta_bytes;
  }
  if (at == pairs.size() || left != 0) return DamagedError("runs and their sum disagree");
  return absl::OkStatus();
}

}  // namespace virt_reclaim::freemap
