// One disk of what is sparsified, opened: what the free map worker reads, what is allocated, and
// how a free run leaves the image. Three kinds: a raw file (holes, under the guard's lease), a
// block device (discards, opened exclusively), and what only QEMU can read (trims over NBD, under
// QEMU's own locks).
//
// The way of a disk: Open, worker_disk() is read, Seize, Allocated, Free..., Release,
// Finish. What the
// worker read still holds when Seize says OK, and nobody else can change the image from then on.
#ifndef VIRT_RECLAIM_HOST_SPARSIFY_OPENED_DISK_H_
#define VIRT_RECLAIM_HOST_SPARSIFY_OPENED_DISK_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "host/freemap/client.h"
#include "host/sparsify/free_ranges.h"

namespace virt_reclaim::sparsify {

enum class Mode {
  kMeasure,  // opens nothing for writing
  kSparsify,
};

struct DiskSpec {
  std::string path;
  std::string format;  // raw, or one that QEMU trims: said, never probed
  // Of a qcow2 image: its cluster, since part of one frees nothing. 0: what the storage tells.
  uint64_t granularity = 0;
};

struct DiskTools {
  std::string qemu_storage_daemon;  // path
  std::string run_directory;        // for its socket; only root's
};

struct DiskFacts {
  uint64_t size_bytes = 0;         // what the guest sees
  uint64_t granularity = 0;        // bytes that come free together; a power of two
  bool allocation_is_own = false;  // Allocation() leaves out what is shared
  uint64_t repaired_leaks = 0;     // clusters that a run before this one lost when it was killed
};

// What came of space that the storage frees only together with more (btrfs: whole extents).
struct Released {
  uint64_t moved_bytes = 0;  // of the image: what is in use, copied to extents of its own
  uint64_t held_bytes = 0;   // what was given back and the storage still holds
  absl::Status status;       // why not all of it was moved
};

// One thread, always the same.
class OpenedDisk {
 public:
  virtual ~OpenedDisk() = default;

  virtual freemap::WorkerDisk worker_disk() const = 0;
  virtual const DiskFacts& facts() const = 0;

  // kSparsify only. Aborted: somebody has it, or had it since it was opened; FailedPrecondition: it
  // is another one.
  virtual absl::Status Seize() = 0;
  // In kMeasure without Seize.
  virtual absl::StatusOr<AllocationMap> Allocated() = 0;
  // Of these: shared with a snapshot or a reflink copy, as far as the storage tells.
  virtual std::vector<Range> shared() const { return {}; }
  // True when somebody wants the image: Finish at once, so that it is not kept from him for long.
  virtual bool Wanted() = 0;
  // Who opens the image waits until it is let go (a lease), instead of being refused (QEMU's
  // locks).
  virtual bool OpenerWaits() const { return false; }
  // Gives `range` back: free, allocated, at most kMaxHoleBytes. Aborted: as Wanted.
  virtual absl::Status Free(Range range) = 0;
  // After all of it: has the storage really free what was given back. Ends early when `stop` asks,
  // or somebody wants the image; content and times of the image are the same at any moment.
  virtual Released Release(const std::stop_token& /*stop*/) { return {}; }
  // Makes it last, lets go of the image. No call but Allocation() after it.
  virtual absl::Status Finish() = 0;

  // What the image occupies: in kSparsify from Seize on. Absent where the host does not tell.
  virtual std::optional<uint64_t> Allocation() = 0;
};

// Never waits for somebody who has the image: Aborted, naming him. Unimplemented: the storage
// cannot give anything back. Unavailable: a program is missing. FailedPrecondition: QEMU refuses
// the image. Cancelled: `stop` asked while leaks were repaired, which may take long.
absl::StatusOr<std::unique_ptr<OpenedDisk>> OpenDisk(const DiskSpec& spec, const DiskTools& tools,
                                                     Mode mode, const std::stop_token& stop);

// The kinds.
absl::StatusOr<std::unique_ptr<OpenedDisk>> OpenFileDisk(const std::string& path, Mode mode);
absl::StatusOr<std::unique_ptr<OpenedDisk>> OpenDeviceDisk(const std::string& path, Mode mode);
absl::StatusOr<std::unique_ptr<OpenedDisk>> OpenQemuDisk(const DiskSpec& spec,
                                                         const DiskTools& tools, Mode mode,
                                                         const std::stop_token& stop);

}  // namespace virt_reclaim::sparsify

#endif  // VIRT_RECLAIM_HOST_SPARSIFY_OPENED_DISK_H_
