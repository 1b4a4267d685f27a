// The superblock, the chunks and the trees of a btrfs on one device. Source: the kernel's
// include/uapi/linux/btrfs_tree.h, fs/btrfs/tree-checker.c, and the on-disk format page of its
// documentation.
#ifndef VIRT_RECLAIM_HOST_FREEMAP_BTRFS_TREE_H_
#define VIRT_RECLAIM_HOST_FREEMAP_BTRFS_TREE_H_

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "host/freemap/byte_source.h"
#include "host/freemap/bytes.h"
#include "host/freemap/readers.h"

namespace virt_reclaim::freemap {

inline constexpr size_t kBtrfsChecksumBytes =
    32;  // at the front of the superblock and of each node

inline constexpr uint64_t kBtrfsReserved = uint64_t{1} << 20;      // at the device's start
inline constexpr uint64_t kBtrfsSuperStripe = uint64_t{64} << 10;  // around each superblock
inline constexpr std::array<uint64_t, 3> kBtrfsSuperblocks = {
    uint64_t{64} << 10, uint64_t{64} << 20, uint64_t{256} << 30};

struct BtrfsSuper {
  std::array<uint8_t, 16> fsid = {};  // what tree blocks carry
  uint64_t generation = 0;
  uint64_t root = 0;  // logical
  uint64_t chunk_root = 0;
  uint64_t chunk_generation = 0;
  uint64_t bytes_used = 0;
  uint64_t device_id = 0;
  uint64_t device_bytes = 0;
  uint32_t node_bytes = 0;
  uint32_t sector_bytes = 0;
  uint8_t root_level = 0;
  uint8_t chunk_root_level = 0;
  std::vector<uint8_t> system_chunks;  // where the chunk tree lies
};

// Reads the first superblock and judges it, and that no copy of it is newer.
absl::StatusOr<BtrfsSuper> ReadBtrfsSuper(const ByteSource& source, const ReadOptions& options,
                                          FilesystemFacts& facts);

// A run of logical addresses and where it lies: one stripe, or two of the same content (DUP).
struct BtrfsChunk {
  uint64_t logical = 0;
  uint64_t length = 0;
  uint64_t type = 0;
  std::vector<uint64_t> stripes;  // bytes on the device
};

struct BtrfsKey {
  uint64_t object = 0;
  uint8_t type = 0;
  uint64_t offset = 0;
  auto operator<=>(const BtrfsKey&) const = default;
};

struct BtrfsRoot {
  uint64_t owner = 0;
  uint64_t logical = 0;
  uint64_t generation = 0;
  uint8_t level = 0;
};

class BtrfsTrees {
 public:
  BtrfsTrees(const ByteSource& source, const BtrfsSuper& super) : source_(source), super_(super) {}

  // The superblock's few chunks, then with their help all of them, sorted by logical address.
  absl::Status LoadChunks();
  const std::vector<BtrfsChunk>& chunks() const { return chunks_; }
  // The chunk that all of [logical, logical + length) lies in; null: none.
  const BtrfsChunk* ChunkOf(uint64_t logical, uint64_t length) const;

  // Calls `take` for each item of a tree, in order; its error ends the walk. Every block is
  // verified.
  using Take = std::function<absl::Status(const BtrfsKey&, Bytes)>;
  absl::Status Walk(const BtrfsRoot& root, const Take& take);
  // Logical addresses of all blocks walked so far.
  const std::vector<uint64_t>& visited() const { return visited_; }

 private:
  absl::StatusOr<BtrfsChunk> ParseChunk(uint64_t logical, Bytes item) const;
  absl::Status AddChunk(uint64_t logical, Bytes item, std::vector<BtrfsChunk>& chunks) const;
  absl::StatusOr<std::vector<uint8_t>> ReadBlock(const BtrfsRoot& block) const;
  absl::Status WalkBlock(const BtrfsRoot& block, const BtrfsKey* first, const Take& take);

  const ByteSource& source_;
  const BtrfsSuper& super_;
  std::vector<BtrfsChunk> chunks_;
  std::vector<uint64_t> visited_;
  bool any_key_ = false;
  BtrfsKey last_key_;
};

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_BTRFS_TREE_H_
