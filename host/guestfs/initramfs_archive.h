// What is in an initramfs: one or more cpio archives one after the other, the last of them usually
// compressed (Documentation/driver-api/early-userspace/buffer-format.rst in the kernel). libguestfs
// has a lister too, which knows one archive and gzip only. Hostile bytes: everything is bounded.
// Pure; any thread.
#ifndef VIRT_RECLAIM_HOST_GUESTFS_INITRAMFS_ARCHIVE_H_
#define VIRT_RECLAIM_HOST_GUESTFS_INITRAMFS_ARCHIVE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"

namespace virt_reclaim {

// Gives the next bytes of a file, at most `size` of them; 0 at its end.
using ByteSource = std::function<absl::StatusOr<size_t>(char* buffer, size_t size)>;

inline constexpr uint64_t kMaxInitramfsBytes = uint64_t{512} << 20;  // of the file
inline constexpr uint64_t kMaxUnpackedBytes = uint64_t{2} << 30;     // of each archive in it
inline constexpr size_t kMaxInitramfsListingBytes = size_t{8} << 20;

// The names of everything but directories, one a line: all of them or an error. Knows gzip, zstd,
// xz, lzma and no compression at all; Unimplemented for others (lz4, lzo, bzip2). DataLoss:
// damaged. ResourceExhausted: above a limit.
absl::StatusOr<std::string> ListInitramfsArchive(const ByteSource& source,
                                                 uint64_t max_unpacked_bytes = kMaxUnpackedBytes);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_GUESTFS_INITRAMFS_ARCHIVE_H_
