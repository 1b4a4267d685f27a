#include "host/punch/qcow2_clusters.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/byte_size.h"
#include "base/handle.h"
#include "host/punch/read_at.h"

namespace virt_reclaim::punch {
namespace {

constexpr uint32_t kMagic = 0x514649fb;  // "QFI\xfb"
constexpr size_t kVersion2Header = 72;
constexpr uint32_t kSmallestClusterBits = 9;
constexpr uint32_t kLargestClusterBits = 21;
constexpr uint64_t kExternalData = uint64_t{1} << 2;  // incompatible features
constexpr uint64_t kExtendedL2 = uint64_t{1} << 4;
constexpr uint64_t kSector = 512;

constexpr uint64_t kMaxL2Bytes = kGiB;      // 8 TiB of clusters of 64 KiB
constexpr uint64_t kMaxL2Tables = 1 << 18;  // each may be a seek: half a minute of a slow disk
constexpr size_t kMaxRanges = 64 * kMiB / sizeof(Range);
constexpr size_t kChunkBytes = 64 * kKiB;
constexpr uint64_t kTableAlignment = 4096;  // of O_DIRECT

bool Inside(uint64_t offset, uint64_t bytes, uint64_t file_bytes) {
  return offset <= file_bytes && bytes <= file_bytes - offset;
}

// Each once: a hostile L1 table could name the same one four million times.
std::vector<uint64_t> L2Tables(const ReadBytes& read, const Qcow2Tables& tables,
                               uint64_t file_bytes) {
  const uint64_t cluster = uint64_t{1} << tables.cluster_bits;
  std::vector<uint64_t> found;
  ForEachTableEntry(
      read, tables.l1_offset, tables.l1_entries * kQcow2EntryBytes, kQcow2EntryBytes,
      [&](uint64_t entry) {
        const uint64_t offset = entry & kQcow2OffsetMask;
        if (offset != 0 && offset % cluster == 0 && Inside(offset, cluster, file_bytes)) {
          found.push_back(offset);
        }
        return true;
      });
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  found.resize(std::min<uint64_t>({found.size(), kMaxL2Bytes / cluster, kMaxL2Tables}));
  return found;
}

// Sorted; joined where they touch or overlap, as neighbours do that share a sector.
void Settle(std::vector<Range>& ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& one, const Range& other) { return one.begin < other.begin; });
  std::vector<Range> joined;
  for (const Range& range : ranges) {
    if (!joined.empty() && range.begin <= joined.back().end) {
      joined.back().end = std::max(joined.back().end, range.end);
    } else {
      joined.push_back(range);
    }
  }
  ranges = std::move(joined);
}

}  // namespace

uint64_t BigEndian(std::span<const unsigned char> bytes) {
  uint64_t value = 0;
  for (const unsigned char byte : bytes) value = value << 8 | byte;
  return value;
}

bool ForEachTableEntry(const ReadBytes& read, uint64_t offset, uint64_t bytes, uint64_t stride,
                       const std::function<bool(uint64_t)>& entry) {
  std::vector<unsigned char> chunk;
  while (bytes > 0) {
    chunk.resize(std::min<uint64_t>(bytes, kChunkBytes));
    if (!read(offset, chunk)) return false;
    for (size_t at = 0; at + kQcow2EntryBytes <= chunk.size(); at += stride) {
      if (!entry(BigEndian(std::span(chunk).subspan(at, kQcow2EntryBytes)))) return false;
    }
    offset += chunk.size();
    bytes -= chunk.size();
  }
  return true;
}

std::optional<Qcow2Tables> ParseQcow2Start(absl::string_view start, uint64_t file_bytes) {
  const std::span bytes(reinterpret_cast<const unsigned char*>(start.data()), start.size());
  const auto number = [&](size_t at, size_t width) { return BigEndian(bytes.subspan(at, width)); };
  if (start.size() < kVersion2Header || number(0, 4) != kMagic) return std::nullopt;
  const uint64_t version = number(4, 4);
  if (version != 2 && (version != 3 || start.size() < kQcow2StartBytes)) return std::nullopt;
  Qcow2Tables tables;
  tables.cluster_bits = static_cast<uint32_t>(number(20, 4));
  if (tables.cluster_bits < kSmallestClusterBits || tables.cluster_bits > kLargestClusterBits)
    return std::nullopt;
  tables.l1_entries = static_cast<uint32_t>(number(36, 4));
  tables.l1_offset = number(40, 8);
  const uint64_t l1_bytes = tables.l1_entries * kQcow2EntryBytes;
  if (l1_bytes > kQcow2MaxL1Bytes || !Inside(tables.l1_offset, l1_bytes, file_bytes))
    return std::nullopt;
  const uint64_t incompatible = version == 2 ? 0 : number(72, 8);
  if ((incompatible & kExternalData) != 0) return std::nullopt;
  if ((incompatible & kExtendedL2) != 0) tables.l2_entry_bytes = 16;
  return tables;
}

std::optional<Range> CompressedCluster(uint64_t entry, uint32_t cluster_bits, uint64_t file_bytes) {
  if ((entry & kQcow2Compressed) == 0) return std::nullopt;
  const uint32_t offset_bits = 62 - (cluster_bits - 8);
  const uint64_t offset = entry & ((uint64_t{1} << offset_bits) - 1);
  const uint64_t more_sectors = (entry & (kQcow2Compressed - 1)) >> offset_bits;
  if (offset >= file_bytes) return std::nullopt;
  const uint64_t end = RoundDown(offset, kSector) + (more_sectors + 1) * kSector;
  return Range{offset, std::min(end, file_bytes)};
}

std::vector<Range> FindCompressedClusters(const ReadBytes& read, uint64_t file_bytes) {
  std::vector<Range> found;
  if (file_bytes < kVersion2Header) return found;
  std::vector<unsigned char> start(std::min<uint64_t>(kQcow2StartBytes, file_bytes));
  if (!read(0, start)) return found;
  const auto tables = ParseQcow2Start(
      absl::string_view(reinterpret_cast<const char*>(start.data()), start.size()), file_bytes);
  if (!tables) return found;
  for (const uint64_t offset : L2Tables(read, *tables, file_bytes)) {
    const bool whole = ForEachTableEntry(
        read, offset, uint64_t{1} << tables->cluster_bits, tables->l2_entry_bytes,
        [&](uint64_t entry) {
          const auto range = CompressedCluster(entry, tables->cluster_bits, file_bytes);
          if (!range) return true;
          if (!found.empty() && found.back().begin <= range->begin &&
              range->begin <= found.back().end) {
            found.back().end = std::max(found.back().end, range->end);  // written one by one
          } else if (found.size() < kMaxRanges) {
            found.push_back(*range);
          }
          return true;
        });
    if (!whole) break;
  }
  Settle(found);
  return found;
}

std::vector<Range> FindCompressedClusters(int fd, uint64_t file_bytes) {
  constexpr size_t kBuffer = kChunkBytes + 2 * kTableAlignment;
  const Handle<void, free> memory(aligned_alloc(kTableAlignment, kBuffer));
  if (memory == nullptr) return {};
  memset(memory.get(), 0, kBuffer);  // see ImageReader::Buffer
  const auto read = [&](uint64_t offset, std::span<unsigned char> bytes) {
    const uint64_t from = RoundDown(offset, kTableAlignment);
    const uint64_t length = RoundUp(offset + bytes.size(), kTableAlignment) - from;
    if (length > kBuffer) return false;
    const ssize_t got = ReadAt(fd, memory.get(), length, from);
    if (got < 0 || static_cast<uint64_t>(got) < offset - from + bytes.size()) return false;
    memcpy(bytes.data(), static_cast<const char*>(memory.get()) + (offset - from), bytes.size());
    return true;
  };
  return FindCompressedClusters(read, file_bytes);
}

}  // namespace virt_reclaim::punch
