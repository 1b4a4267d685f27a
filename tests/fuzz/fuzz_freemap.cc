// Any bytes through one reader (which: the end of the
// program's name), as the beginning of an image that
// is zero after them (or as changes of a small one): no crash, no endless loop, no memory without
// bound; what is free is sorted and inside.
#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "absl/strings/string_view.h"
#include "host/freemap/bytes.h"
#include "host/freemap/lvm_volume.h"
#include "host/freemap/partition_table.h"
#include "host/freemap/readers.h"
#include "tests/fuzz/freemap_volumes.h"
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

// Of the kinds that are hard to guess, an input of odd length changes a small volume: a place (two
// bytes) and a value, again and again. What is there twice or has a sum is put right after that.
std::vector<uint8_t> Volume(absl::string_view which, std::vector<uint8_t> input) {
  if (input.size() % 2 == 0 || (which != "ntfs" && which != "vfat" && which != "exfat"))
    return input;
  std::vector<uint8_t> volume = which == "ntfs"   ? TinyNtfsVolume()
                                : which == "vfat" ? TinyFatVolume()
                                                  : TinyExfatVolume();
  for (size_t at = 0; at + 3 <= input.size(); at += 3)
    volume[LittleEndian<uint16_t>(input, at)] = input[at + 2];
  if (which == "exfat") MendExfat(volume);
  if (which == "ntfs") {
    constexpr ptrdiff_t kCluster = 512;
    std::copy_n(volume.begin() + 16 * kCluster, 4096, volume.begin() + 40 * kCluster);
    std::copy_n(volume.begin(), kCluster, volume.begin() + 127 * kCluster);
  }
  return volume;
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
  constexpr absl::string_view kName = "fuzz_freemap_";
  const absl::string_view which =
      absl::string_view(program_invocation_short_name).substr(kName.size());
  if (which == "partitions") {
    FuzzPartitions(source);
  } else if (which == "lvm") {
    FuzzLvm(data, size, source);
  } else {
    // One of libblkid's names for what this fuzzer reads.
    const Reader reader = ReaderFor(which == "ext" ? "ext4" : which);
    if (reader == nullptr) std::abort();
    const std::vector<uint8_t> volume = Volume(which, {data, data + size});
    FuzzReader(reader, MemorySource(volume, kImageBytes));
  }
  return 0;
}
