#include "host/freemap/free_list.h"

#include <algorithm>

#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {

void FreeList::Add(uint64_t offset, uint64_t length) {
  if (length == 0) return;
  if (length > UINT64_MAX - offset || free_bytes_ > UINT64_MAX - length) {
    wrapped_ = true;
    return;
  }
  free_bytes_ += length;
  if (open_.length != 0 && open_.offset + open_.length == offset &&
      open_.length <= UINT64_MAX - length) {
    open_.length += length;
    return;
  }
  Close();
  open_ = {offset, length};
}

void FreeList::Close() {
  const Extent run = open_;
  open_ = {};
  if (run.length == 0) return;
  if (run.length < min_bytes_ || max_extents_ == 0) {
    dropped_bytes_ += run.length;
    return;
  }
  // Doubling by itself would take half as much again as the bound allows.
  if (extents_.size() == extents_.capacity()) {
    extents_.reserve(std::min(max_extents_, std::max<size_t>(1024, extents_.size() * 2)));
  }
  if (extents_.size() >= max_extents_) DropShortest();
  if (run.length < min_bytes_) {
    dropped_bytes_ += run.length;
    return;
  }
  extents_.push_back(run);
}

// Raises the shortest length kept until at most half of the list is left; each call halves it, so
// that the sum of all work stays proportional to what was added.
void FreeList::DropShortest() {
  while (extents_.size() > max_extents_ / 2) {
    min_bytes_ = std::max<uint64_t>(min_bytes_ * 2, 1024);
    std::erase_if(extents_, [this](const Extent& extent) {
      if (extent.length >= min_bytes_) return false;
      dropped_bytes_ += extent.length;
      return true;
    });
  }
}

absl::Status FreeList::Finish(uint64_t size) {
  Close();
  if (wrapped_) return DamagedError("a free run ends past the last possible byte");
  if (!std::ranges::is_sorted(extents_)) std::ranges::sort(extents_);
  uint64_t end = 0;
  for (const Extent& extent : extents_) {
    if (extent.offset < end) return DamagedError("the same bytes are free twice");
    end = extent.offset + extent.length;
  }
  if (end > size) return DamagedError("free bytes lie past the end");
  return absl::OkStatus();
}

bool FreeList::Touches(uint64_t offset, uint64_t length) const {
  if (length == 0) return false;
  const auto next = std::ranges::upper_bound(extents_, offset, {}, &Extent::offset);
  if (next != extents_.end() && next->offset - offset < length) return true;
  if (next == extents_.begin()) return false;
  const Extent& before = *std::prev(next);
  return offset - before.offset < before.length;
}

}  // namespace virt_reclaim::freemap
