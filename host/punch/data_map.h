// Where a file has data, and of what kind its extents are: FIEMAP where the filesystem has it,
// SEEK_DATA and SEEK_HOLE elsewhere.
#ifndef VIRT_RECLAIM_HOST_PUNCH_DATA_MAP_H_
#define VIRT_RECLAIM_HOST_PUNCH_DATA_MAP_H_

#include <cstddef>
#include <cstdint>
#include <stop_token>
#include <vector>

#include "absl/status/statusor.h"
#include "base/range.h"

namespace virt_reclaim::punch {

enum class ExtentKind {
  kData,
  kUnwritten,   // preallocated: reads as zeroes, and was asked for by somebody
  kCompressed,  // or otherwise encoded: a hole in it frees nothing
  kInline,      // lies beside the inode
};

// What is not listed is a hole.
struct Extent {
  Range range;
  ExtentKind kind = ExtentKind::kData;
  bool shared = false;  // with a snapshot or a reflink copy: a hole here frees nothing yet

  bool operator==(const Extent&) const = default;
};

struct DataMapOptions {
  bool sync = true;               // FIEMAP_FLAG_SYNC
  size_t max_extents = SIZE_MAX;  // ResourceExhausted beyond
  std::stop_token stop;           // Cancelled
};

// The extents of the regular file `fd` of `size_bytes`, sorted and cut at its end. Makes the kernel
// write dirty pages of the file first: an extent that is unwritten but has dirty
// pages would otherwise pass for preallocation. SEEK_DATA knows neither unwritten (after a read it
// calls them data on ext4 and XFS) nor compressed nor shared extents: all is data there. Any
// descriptor open for reading; moves its position. Any thread.
absl::StatusOr<std::vector<Extent>> ReadDataMap(int fd, uint64_t size_bytes,
                                                const DataMapOptions& options = {});

// Where the file may have anything but zeroes, by SEEK_DATA: what is not listed reads as zeroes.
// Sorted, joined. All of it where the filesystem cannot tell. Any descriptor open for reading;
// moves its position. Any thread, one at a time for each descriptor.
absl::StatusOr<std::vector<Range>> ReadDataRanges(int fd, uint64_t size_bytes);

// A shared extent and its place on the disk, in bytes.
struct SharedExtent {
  Range range;
  uint64_t physical = 0;

  bool operator==(const SharedExtent&) const = default;
};

// The written extents of `fd` that the filesystem says are shared, sorted; may end behind the end
// of the file. Compressed ones are left out: their place says nothing about which part of them is
// meant. Dirty pages are written first. Unimplemented where there is no FIEMAP. Any thread.
absl::StatusOr<std::vector<SharedExtent>> ReadSharedExtents(int fd, uint64_t size_bytes);

}  // namespace virt_reclaim::punch

#endif  // VIRT_RECLAIM_HOST_PUNCH_DATA_MAP_H_
