// Space of btrfs extents that are only partly referenced any more.
//
// btrfs frees an extent (up to 128 MiB) when *nothing* refers to any part of it. A hole in its
// middle, or in a thousand places, frees nothing: `du` goes down, `df` does not. What is still
// referenced must move: it is copied to a temporary file, and FIDEDUPERANGE makes the image refer
// to the copy, compared by the kernel, so that a writer at the same time loses nothing and no time
// of the file changes. Needs root (TREE_SEARCH).
#ifndef VIRT_RECLAIM_HOST_PUNCH_BTRFS_RELEASE_H_
#define VIRT_RECLAIM_HOST_PUNCH_BTRFS_RELEASE_H_

#include <cstdint>
#include <functional>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/range.h"
#include "host/punch/data_map.h"
#include "host/punch/pacer.h"

namespace virt_reclaim::punch {

// A reference of the file to an extent on disk: struct btrfs_file_extent_item.
struct ExtentReference {
  Range range;              // of the file
  uint64_t disk_begin = 0;  // of the extent, whole
  uint64_t disk_bytes = 0;
  uint64_t extent_offset = 0;  // where in the extent the range begins
  bool plain = true;           // written, not compressed, not encoded

  bool operator==(const ExtentReference&) const = default;
};

// Those of the file `fd`, holes left out, inline extents too. PermissionDenied without root. Dirty
// pages are not in it. Any thread.
absl::StatusOr<std::vector<ExtentReference>> ReadExtentReferences(int fd);

struct ReleasePlan {
  std::vector<Range> move;      // of the file, sorted
  uint64_t move_bytes = 0;      // sum of them
  uint64_t released_bytes = 0;  // what df gets back when all are moved
};

// Moves what is left of each extent of which more than a tenth is waste. Extents that a snapshot or
// a copy uses too (`shared`: where, by FIEMAP) stay: moving would take space. Pure.
ReleasePlan PlanRelease(std::span<const ExtentReference> references, std::span<const Range> shared);

// What the file alone occupies: its extents as a whole, each once, shared ones left out. Pure.
uint64_t OwnBytes(std::span<const ExtentReference> references, std::span<const Range> shared);

// Of `after`: what refers to extents of which `before` referred to more, since holes were made in
// between. Pure.
std::vector<ExtentReference> ReferencesToPunched(std::span<const ExtentReference> before,
                                                 std::span<const ExtentReference> after);

// What df does not get back of holes that were made: the unreferenced parts of the extents, shared
// and compressed ones left out. Pure.
uint64_t HeldBytes(std::span<const ExtentReference> references, std::span<const Range> shared);

// Moves. `fd` is open for reading, `directory` is the file's. Stops at `stop` after the step under
// way. Returns the bytes moved; ranges that somebody wrote to meanwhile stay where they are, and so
// does the rest when there is no room for the copy. `moved` hears the bytes after each step. What
// is copied keeps below the rate of `pacer`, which counts from its beginning. One thread.
absl::StatusOr<uint64_t> MoveRanges(int fd, const std::string& directory,
                                    std::span<const Range> ranges, uint64_t size_bytes,
                                    Pacer& pacer, const std::function<void(uint64_t)>& moved,
                                    const std::stop_token& stop);

}  // namespace virt_reclaim::punch

#endif  // VIRT_RECLAIM_HOST_PUNCH_BTRFS_RELEASE_H_
