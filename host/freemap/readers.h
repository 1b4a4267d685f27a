// The readers, one for each kind of filesystem: hostile bytes in, free runs out. Each verifies
// every checksum and bound its format has, and refuses as a whole when anything is unknown, unclean
// or contradictory (docs/native-engine.md says what is checked, and where that is specified). The
// status codes are those of refusal.h. A reader allocates in proportion to its buffers, not to what
// the bytes say; it ends. None keeps state: any thread.
#ifndef VIRT_RECLAIM_HOST_FREEMAP_READERS_H_
#define VIRT_RECLAIM_HOST_FREEMAP_READERS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "host/freemap/byte_source.h"
#include "host/freemap/free_list.h"

namespace virt_reclaim::freemap {

struct ReadOptions {
  bool strict = false;     // only where checksums cover the map
  bool take_swap = false;  // a swap area counts as free but for its first page
  uint64_t min_bytes = 0;  // shorter runs are not worth a request
  bool operator==(const ReadOptions&) const = default;
};

// What a reader learnt of the filesystem; filled in as far as it came, also when it refuses.
struct FilesystemFacts {
  std::string label;  // as it stands on disk: neither bounded nor printable
  std::string uuid;
  uint64_t block_bytes = 0;
  uint64_t size_bytes = 0;  // of the filesystem, not of its partition
  bool asleep = false;      // holds the memory of a hibernated system; not passed on to the parent
  bool operator==(const FilesystemFacts&) const = default;
};

// Adds to `free` the free runs of the filesystem in `source`, as offsets in it. What was added
// counts only when the status is OK and free.Finish() agrees.
using Reader = absl::Status (*)(const ByteSource& source, const ReadOptions& options,
                                FilesystemFacts& facts, FreeList& free);

absl::Status ReadExt(const ByteSource& source, const ReadOptions& options, FilesystemFacts& facts,
                     FreeList& free);
absl::Status ReadXfs(const ByteSource& source, const ReadOptions& options, FilesystemFacts& facts,
                     FreeList& free);
absl::Status ReadBtrfs(const ByteSource& source, const ReadOptions& options, FilesystemFacts& facts,
                       FreeList& free);
absl::Status ReadExfat(const ByteSource& source, const ReadOptions& options, FilesystemFacts& facts,
                       FreeList& free);
absl::Status ReadFat(const ByteSource& source, const ReadOptions& options, FilesystemFacts& facts,
                     FreeList& free);
absl::Status ReadNtfs(const ByteSource& source, const ReadOptions& options, FilesystemFacts& facts,
                      FreeList& free);
absl::Status ReadSwap(const ByteSource& source, const ReadOptions& options, FilesystemFacts& facts,
                      FreeList& free);

// The reader for a type as libblkid names it; null: none.
Reader ReaderFor(absl::string_view blkid_type);

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_READERS_H_
