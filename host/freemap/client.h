// The parent's side of virt-reclaim-freemap: starts the worker, hears it out within bounds,
// believes nothing (protocol.h).
#ifndef VIRT_RECLAIM_HOST_FREEMAP_CLIENT_H_
#define VIRT_RECLAIM_HOST_FREEMAP_CLIENT_H_

#include <chrono>
#include <cstdint>
#include <span>
#include <stop_token>
#include <string>

#include "absl/status/statusor.h"
#include "host/freemap/readers.h"
#include "host/freemap/scan.h"

namespace virt_reclaim::freemap {

struct WorkerOptions {
  std::string program;  // path of virt-reclaim-freemap
  ReadOptions read;
  // Of wall time, the answer included. 15 TiB take seconds.
  std::chrono::milliseconds deadline{120'000};
};

// One disk, as the guest sees it.
struct WorkerDisk {
  // Borrowed. An image file or block device; or a connection to an NBD server (nbd_source.h) that
  // nobody else uses any more.
  int fd = -1;
  uint64_t nbd_bytes = 0;  // size of the NBD export; 0: `fd` is a file or device
};

// Reads the free maps of `disks` (at most kMaxDisks) in a sandboxed child that is gone when this
// returns. The child gets each file and device opened anew, read-only, through /proc: closing it
// drops no OFD lock, but would drop a POSIX lock of this process on the same file, and the opening
// breaks a lease on it. An export must be read-only: what controls the child may write to it.
// Cancelled, DeadlineExceeded; DataLoss when the worker died or broke the
// protocol; Internal when it could not lock itself in. A refused filesystem is no error: it stands
// in the result. Any thread.
absl::StatusOr<ScanResult> ReadFreeMaps(std::span<const WorkerDisk> disks,
                                        const WorkerOptions& options, const std::stop_token& stop);

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_CLIENT_H_
