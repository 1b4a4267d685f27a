// What FAT and exFAT share: a heap of clusters, numbered from 2, and a table that chains them. One
// thread.
#ifndef VIRT_RECLAIM_HOST_FREEMAP_FAT_CLUSTERS_H_
#define VIRT_RECLAIM_HOST_FREEMAP_FAT_CLUSTERS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "host/freemap/byte_source.h"
#include "host/freemap/free_list.h"

namespace virt_reclaim::freemap {

inline constexpr size_t kFatEntryBytes = 32;  // of a directory
inline constexpr size_t kMaxPendingDirectories =
    4'000'000;  // directories that are still to be read

struct ClusterHeap {
  uint64_t offset = 0;  // bytes, of cluster 2
  uint32_t cluster_bytes = 0;
  uint32_t count = 0;
  bool Has(uint32_t cluster) const { return cluster >= 2 && cluster - 2 < count; }
  uint64_t ByteOf(uint32_t cluster) const { return offset + uint64_t{cluster - 2} * cluster_bytes; }
};

// Entries of any width, as Get returns them. Anything else is the next cluster, to be checked.
inline constexpr uint32_t kFatFree = 0;
inline constexpr uint32_t kFatReserved = 0xfffffff6;
inline constexpr uint32_t kFatBad = 0xfffffff7;
inline constexpr uint32_t kFatEnd = 0xffffffff;

enum class FatKind : uint8_t { k12, k16, k32, kExfat };

// A file allocation table, read through a window.
class FatTable {
 public:
  // `source` is borrowed. The table lies in [offset, offset + bytes).
  FatTable(const ByteSource& source, FatKind kind, uint64_t offset, uint64_t bytes)
      : source_(source), kind_(kind), offset_(offset), bytes_(bytes) {}

  FatKind kind() const { return kind_; }
  uint64_t entries() const;
  // As it stands on disk, but for the four bits of FAT32 that are nobody's.
  absl::StatusOr<uint32_t> Raw(uint32_t index);
  absl::StatusOr<uint32_t> Get(uint32_t index);

 private:
  const ByteSource& source_;
  FatKind kind_;
  uint64_t offset_;
  uint64_t bytes_;
  std::vector<uint8_t> window_;
  uint64_t window_at_ = 0;
};

// Visits the clusters of a chain of at most `most`, to its end. DataLoss where it leads outside, to
// a free or bad cluster, or on without end.
absl::Status FollowChain(FatTable& table, const ClusterHeap& heap, uint32_t first, uint64_t most,
                         const std::function<absl::Status(uint32_t)>& visit);

// All that a tree of directories uses, one piece after the other, none of it free. Each cluster has
// one owner, so all pieces together are no longer than the heap: that ends every loop.
class ClusterWalk {
 public:
  // All borrowed; `free` is finished.
  ClusterWalk(FatTable& table, const ClusterHeap& heap, const FreeList& free)
      : table_(table), heap_(heap), free_(free), left_(heap.count) {}

  // Returns the number of clusters. `visit` may be empty.
  absl::StatusOr<uint64_t> Chain(uint32_t first,
                                 const std::function<absl::Status(uint32_t)>& visit = {});
  // Clusters side by side.
  absl::Status Run(uint32_t first, uint64_t count);

 private:
  absl::Status CheckUsed(uint32_t first, uint64_t count) const;

  FatTable& table_;
  const ClusterHeap& heap_;
  const FreeList& free_;
  uint64_t left_;
};

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_FAT_CLUSTERS_H_
