// Where a qcow2 image has compressed clusters: they are packed, so that no block of them is zero,
// and reading them for zeroes is for nothing. Source: QEMU, docs/interop/qcow2.txt.
//
// The image is untrusted, and may be a raw one that only begins like a qcow2 image. Nothing here is
// needed for safety: what is not found is read like all the rest. So damage is no error, and each
// number from the image has its bound.
#ifndef VIRT_RECLAIM_HOST_PUNCH_QCOW2_CLUSTERS_H_
#define VIRT_RECLAIM_HOST_PUNCH_QCOW2_CLUSTERS_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/range.h"

namespace virt_reclaim::punch {

// Of the header: where the active L1 table is, and how long entries of L2 tables are.
struct Qcow2Tables {
  uint32_t cluster_bits = 0;
  uint64_t l1_offset = 0;   // bytes from the start of the file
  uint32_t l1_entries = 0;  // of 8 bytes
  uint32_t l2_entry_bytes = 8;

  bool operator==(const Qcow2Tables&) const = default;
};

// `start`: the first kQcow2StartBytes of the file, or all of a shorter one. Empty for what is no
// qcow2 image, for one that cannot have compressed clusters (its data is in another file), and
// where a number is out of bounds. Pure; any thread.
inline constexpr size_t kQcow2StartBytes = 104;
std::optional<Qcow2Tables> ParseQcow2Start(absl::string_view start, uint64_t file_bytes);

// The bytes of the file that an entry of an L2 table, in the machine's byte order, names as a
// compressed cluster, cut at the end of the file. Empty when it names another kind, or lies
// outside. Pure; any thread.
std::optional<Range> CompressedCluster(uint64_t entry, uint32_t cluster_bits, uint64_t file_bytes);

// Reads all of the span at an offset, false when that cannot be.
using ReadBytes = std::function<bool(uint64_t offset, std::span<unsigned char> bytes)>;

// Parts of an entry of an L1 or L2 table that is not compressed, and what says that it is.
inline constexpr uint64_t kQcow2OffsetMask = 0x00fffffffffffe00;
inline constexpr uint64_t kQcow2Compressed = uint64_t{1} << 62;
inline constexpr uint64_t kQcow2EntryBytes = 8;                   // of L1 tables
inline constexpr uint64_t kQcow2MaxL1Bytes = uint64_t{32} << 20;  // QEMU's own limit, block/qcow2.h

// The number in `bytes`, at most 8 of them. Pure.
uint64_t BigEndian(std::span<const unsigned char> bytes);

// Hands out the 8-byte number at every `stride` bytes of a table, until `entry` says false. False:
// then, and when the table cannot be read.
bool ForEachTableEntry(const ReadBytes& read, uint64_t offset, uint64_t bytes, uint64_t stride,
                       const std::function<bool(uint64_t)>& entry);

// The compressed clusters of the active state of the image behind `read`, sorted and joined; less
// of them where something is damaged or there are too many: it reads 262,144 L2 tables and 1 GiB of
// them at most, and keeps at most four million ranges. Any thread.
std::vector<Range> FindCompressedClusters(const ReadBytes& read, uint64_t file_bytes);

// The same of `fd`, open for reading, with O_DIRECT or without.
std::vector<Range> FindCompressedClusters(int fd, uint64_t file_bytes);

}  // namespace virt_reclaim::punch

#endif  // VIRT_RECLAIM_HOST_PUNCH_QCOW2_CLUSTERS_H_
