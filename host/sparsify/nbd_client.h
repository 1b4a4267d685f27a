// Our side of the two connections to qemu-storage-daemon (qemu_server.h), by libnbd. The only file
// that knows libnbd.
#ifndef VIRT_RECLAIM_HOST_SPARSIFY_NBD_CLIENT_H_
#define VIRT_RECLAIM_HOST_SPARSIFY_NBD_CLIENT_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "host/sparsify/free_ranges.h"

namespace virt_reclaim::sparsify {

// A connection on which reading is all that is left to do, for the free map worker.
struct ReadConnection {
  UniqueFd fd;
  uint64_t size_bytes = 0;
};
// Agrees with the server on `socket` about the read-only export `name`. FailedPrecondition when it
// is not read-only.
absl::StatusOr<ReadConnection> ConnectForReading(UniqueFd socket, const char* name);

// Asks what is allocated, and trims. Trims and zeroes are under way when their call returns, up to
// kMaxInFlight of them: that one failed is said by a later call, Flush at the latest. One thread.
// Errors are Internal, with libnbd's words.
class NbdTrimmer {
 public:
  static constexpr int kMaxInFlight = 4;

  static absl::StatusOr<std::unique_ptr<NbdTrimmer>> Connect(UniqueFd socket, const char* name);
  virtual ~NbdTrimmer() = default;

  virtual uint64_t size_bytes() const = 0;
  // `allocated`: what lies in the image itself and not below it (qemu:allocation-depth 1).
  virtual absl::StatusOr<AllocationMap> Allocated() = 0;
  virtual absl::Status Trim(Range range) = 0;  // at most 1 GiB
  // Reads as zeroes from now on; nothing is allocated for it where the format knows zero clusters.
  virtual absl::Status Zero(Range range) = 0;  // at most 1 GiB
  // What is under way is done first, and made to last.
  virtual absl::Status Flush() = 0;
};

}  // namespace virt_reclaim::sparsify

#endif  // VIRT_RECLAIM_HOST_SPARSIFY_NBD_CLIENT_H_
