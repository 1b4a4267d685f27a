// The parent's side of virt-reclaim-freemap: starts the worker, hears it out within bounds,
// believes nothing (protocol.h).
#ifndef VIRT_RECLAIM_HOST_FREEMAP_CLIENT_H_
#define VIRT_RECLAIM_HOST_FREEMAP_CLIENT_H_

#include <chrono>
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

// Reads the free maps of `disks` (borrowed; image files or block devices, at most kMaxDisks, raw)
// in a sandboxed child that is gone when this returns. The child gets each disk opened anew,
// read-only, through /proc: closing it drops no OFD lock, but would drop a POSIX lock of this
// process on the same file. Cancelled, DeadlineExceeded; DataLoss when the worker died or broke the
// protocol; Internal when it could not lock itself in. A refused filesystem is no error: it stands
// in the result. Any thread.
absl::StatusOr<ScanResult> ReadFreeMaps(std::span<const int> disks, const WorkerOptions& options,
                                        const std::stop_token& stop);

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_CLIENT_H_
