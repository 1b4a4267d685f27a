// What a reader found free: runs of bytes, bounded in number. Dropping a run is always safe (it
// counts as in use), so a map with too many keeps the longest. One thread.
#ifndef VIRT_RECLAIM_HOST_FREEMAP_FREE_LIST_H_
#define VIRT_RECLAIM_HOST_FREEMAP_FREE_LIST_H_

#include <compare>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"

namespace virt_reclaim::freemap {

// [offset, offset + length), bytes. Never wraps where it comes out of a FreeList.
struct Extent {
  uint64_t offset = 0;
  uint64_t length = 0;
  auto operator<=>(const Extent&) const = default;
};

// 64 MiB in the worker, as much in its parent: what the scale target (256 MiB together) leaves.
inline constexpr size_t kMaxExtents = size_t{4} << 20;

class FreeList {
 public:
  // Runs shorter than `min_bytes` are counted as free but not kept.
  explicit FreeList(uint64_t min_bytes = 0, size_t max_extents = kMaxExtents)
      : min_bytes_(min_bytes), max_extents_(max_extents) {}

  // Adds a run; in any order, but runs may not overlap (Finish notices those that were kept).
  // A run that begins where the last one ended is merged with it. Empty runs are ignored.
  void Add(uint64_t offset, uint64_t length);

  // Sorts and checks: DataLoss when two runs overlap or one ends past `size`. To be called once,
  // before extents().
  absl::Status Finish(uint64_t size);

  // After Finish: is any of these bytes in extents()? False for an empty range.
  bool Touches(uint64_t offset, uint64_t length) const;

  const std::vector<Extent>& extents() const& { return extents_; }
  std::vector<Extent> TakeExtents() && { return std::move(extents_); }
  uint64_t free_bytes() const { return free_bytes_; }        // all that was added
  uint64_t dropped_bytes() const { return dropped_bytes_; }  // of these, not in extents()

 private:
  void Close();         // the open run goes into the list
  void DropShortest();  // makes room

  uint64_t min_bytes_;
  size_t max_extents_;
  Extent open_;
  std::vector<Extent> extents_;
  uint64_t free_bytes_ = 0;
  uint64_t dropped_bytes_ = 0;
  bool wrapped_ = false;
};

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_FREE_LIST_H_
