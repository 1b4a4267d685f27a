// What the filesystem below an image can do: asked once per filesystem, before anything is read.
#ifndef VIRT_RECLAIM_HOST_PUNCH_FILESYSTEM_H_
#define VIRT_RECLAIM_HOST_PUNCH_FILESYSTEM_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace virt_reclaim::punch {

enum class Ability { kNo, kYes, kUnknown };

struct FilesystemFacts {
  uint64_t unit_bytes = 0;  // what it allocates at once
  bool btrfs = false;
  Ability punches = Ability::kUnknown;  // FALLOC_FL_PUNCH_HOLE
  Ability atomic = Ability::kUnknown;   // FIDEDUPERANGE from a hole leaves a hole
};

// The directory of the file `path`, with symbolic links resolved.
absl::StatusOr<std::string> RealDirectory(const std::string& path);

// Of the filesystem of the open regular file `fd`, in whose directory unnamed temporary files
// (O_TMPFILE) may be made to try things out: the image itself is not touched. `directory` is that
// of the file with symbolic links resolved. Any thread.
absl::StatusOr<FilesystemFacts> ProbeFilesystem(int fd, const std::string& directory);

// Allocation unit of the filesystem of `fd`. Not st_blksize, which is a hint for I/O and on XFS can
// be 1 MiB with blocks of 4 KiB; not statfs either, which does not tell the clusters of an ext4
// with bigalloc: those are read from the superblock where we may.
absl::StatusOr<uint64_t> AllocationUnit(int fd);

// An unnamed file in `directory` with the No_COW attribute of `like`, without which btrfs refuses
// to share extents between the two. It goes with its last descriptor, whatever becomes of us.
absl::StatusOr<UniqueFd> MakeTemporary(const std::string& directory, int like);

// FIDEDUPERANGE (ioctl_fideduperange(2)): the kernel locks both files, compares, and where the
// bytes are equal makes `to` refer to what `from` refers to.
struct DedupeResult {
  int error = 0;  // errno; 0: it was tried
  bool differs = false;
  uint64_t bytes = 0;  // how many were equal and are shared now; may be less than asked for
};
DedupeResult Dedupe(int from, uint64_t from_offset, int to, uint64_t to_offset, uint64_t bytes);

}  // namespace virt_reclaim::punch

#endif  // VIRT_RECLAIM_HOST_PUNCH_FILESYSTEM_H_
