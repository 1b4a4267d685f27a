// What a copy becomes equal to.
#ifndef VIRT_RECLAIM_HOST_SYNC_SOURCE_H_
#define VIRT_RECLAIM_HOST_SYNC_SOURCE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "host/guard/image_identity.h"
#include "host/sync/piece_reader.h"

namespace virt_reclaim::sync {

// Lives as long as the work on it: nobody changes what it reads, or Interrupted says so.
class Source {
 public:
  virtual ~Source() = default;

  virtual uint64_t size_bytes() const = 0;
  // Where it may have anything but zeroes; sorted, joined.
  virtual absl::StatusOr<std::vector<Range>> Data() = 0;
  // One for each thread; the source outlives it.
  virtual absl::StatusOr<std::unique_ptr<PieceReader>> NewReader() = 0;

  // Somebody wants to write it: let go. Any thread.
  virtual bool Interrupted() const { return false; }
  // After all was read: FailedPrecondition when it was written meanwhile.
  virtual absl::Status CheckUnchanged() const { return absl::OkStatus(); }

  // Of a regular file, for what the kernel shares between files; else -1.
  virtual int file() const { return -1; }
  // Nanoseconds since 1970, of a regular file. The copy gets it last.
  virtual std::optional<int64_t> mtime_ns() const { return std::nullopt; }
};

// A regular file or block device, guarded while it is open. Errors as of ImageGuard::Acquire;
// FailedPrecondition when it is not the one that was `planned`.
absl::StatusOr<std::unique_ptr<Source>> OpenFileSource(const std::string& path,
                                                       const ImageIdentity& planned);

// Size of the block device `fd`.
absl::StatusOr<uint64_t> DeviceBytes(int fd);

}  // namespace virt_reclaim::sync

#endif  // VIRT_RECLAIM_HOST_SYNC_SOURCE_H_
