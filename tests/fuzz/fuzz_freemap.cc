// Any bytes through one reader (which: VIRT_RECLAIM_FUZZ_READER), as the beginning of an image that
// is zero after them: no crash, no endless loop, no memory without bound; what is free is sorted
// and inside.
#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "absl/strings/string_view.h"
#include "host/freemap/bytes.h"
#include "host/freemap/lvm_volume.h"
#include "host/freemap/partition_table.h"
#include "host/freemap/readers.h"
#include "tests/unit/freemap_memory_source.h"

namespace {

using namespace virt_reclaim::freemap;

constexpr uint64_t kImageBytes = uint64_t{64} << 20;

void FuzzReader(Reader reader, const MemorySource& source) {
  FilesystemFacts facts;
  FreeList free(0, 1000);
  if (!reader(source, {.take_swap = true}, facts, free).ok()) return;
  if (!free.Finish(source.size()).ok()) return;
  uint64_t end = 0;
  for (const Extent& extent : free.extents()) {
    if (extent.offset < end || extent.length > source.size() - extent.offset) std::abort();
    end = extent.offset + extent.length;
  }
  if (free.free_bytes() > source.size()) std::abort();
}

// What no fuzzer guesses, put right: copies of NTFS's boot sector; checksums of exFAT's and its
// copy, for sectors of 512 bytes.
std::vector<uint8_t> Mend(absl::string_view which, std::vector<uint8_t> bytes) {
  if (which == "ntfs" && bytes.size() >= 512) {
    const uint64_t at = LittleEndian<uint64_t>(bytes, 40) % 512 * LittleEndian<uint16_t>(bytes, 11);
    bytes.resize(std::max<size_t>(bytes.size(), at + 512));
    std::copy_n(std::vector(bytes.begin(), bytes.begin() + 512).begin(), 512,
                bytes.begin() + static_cast<ptrdiff_t>(at));
  }
  constexpr size_t kRegion = size_t{12} * 512;
  if (which == "exfat" && bytes.size() >= 512) {
    bytes.resize(std::max(bytes.size(), 2 * kRegion));
    uint32_t sum = 0;
    for (size_t at = 0; at < kRegion - 512; ++at) {
      if (at != 106 && at != 107 && at != 112) sum = std::rotr(sum, 1) + bytes[at];
    }
    for (size_t at = kRegion - 512; at < kRegion; ++at)
      bytes[at] = static_cast<uint8_t>(sum >> (8 * (at % 4)));
    std::copy_n(bytes.begin(), kRegion, bytes.begin() + kRegion);
  }
  return bytes;
}

void FuzzPartitions(const MemorySource& source) {
  for (const char* table : {"dos", "gpt"}) {
    const auto found = ReadPartitionTable(source, table);
    if (!found.ok()) continue;
    uint64_t end = 0;
    for (const Partition& partition : *found) {
      if (partition.offset < end || partition.length > source.size() - partition.offset)
        std::abort();
      end = partition.offset + partition.length;
    }
  }
}

// The text alone, and the label with what it leads to.
void FuzzLvm(const uint8_t* data, size_t size, const MemorySource& source) {
  const auto group = ReadLvmGroup({reinterpret_cast<const char*>(data), size});
  if (group.ok()) {
    for (const LvmPiece& piece : group->free) {
      const uint64_t all = group->pvs.at(piece.pv).count;
      if (piece.first > all || piece.count > all - piece.first) std::abort();
    }
  }
  static_cast<void>(ReadLvmLabel(source).ok());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const MemorySource source({data, size}, kImageBytes);
  const absl::string_view which = VIRT_RECLAIM_FUZZ_READER;
  if (which == "partitions") {
    FuzzPartitions(source);
  } else if (which == "lvm") {
    FuzzLvm(data, size, source);
  } else {
    // One of libblkid's names for what this fuzzer reads.
    const Reader reader = ReaderFor(which == "ext" ? "ext4" : which);
    if (reader == nullptr) std::abort();
    const std::vector<uint8_t> mended = Mend(which, {data, data + size});
    FuzzReader(reader, MemorySource(mended, kImageBytes));
  }
  return 0;
}
