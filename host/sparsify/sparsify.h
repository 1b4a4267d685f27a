// sparsify, natively: what the filesystems on a stopped guest's disks say is free, and the images
// still hold, goes back to the host. All disks of one guest together, as a volume group may lie
// over several. Nothing is given back before the maps of all disks were read and every disk is
// ours.
//
// A byte that is not free by its filesystem's own, wholly checked map (host/freemap) is never
// touched. Whether the guest is off is the caller's to know besides: a frozen or running guest's
// disk may look clean.
#ifndef VIRT_RECLAIM_HOST_SPARSIFY_SPARSIFY_H_
#define VIRT_RECLAIM_HOST_SPARSIFY_SPARSIFY_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "host/freemap/client.h"
#include "host/sparsify/opened_disk.h"

namespace virt_reclaim::sparsify {

struct SparsifyOptions {
  freemap::WorkerOptions worker;
  DiskTools tools;
  uint64_t least_bytes = 0;  // with less to gain nothing is done
  // True: the filesystem counts as refused (not asked for). Empty: none.
  std::function<bool(const freemap::Filesystem&)> leave_out = nullptr;
  // Of an overlay: true, where it lies on a disk or in a partition, zeroes all of that. Empty:
  // none.
  std::function<bool(const freemap::Filesystem&)> zero_whole = nullptr;
  // Of an overlay: nothing is marked; what is free and holds data below it is counted.
  bool only_estimate = false;
};

struct DiskResult {
  uint64_t size_bytes = 0;         // what the guest sees
  uint64_t granularity = 0;        // bytes that come free together
  std::optional<uint64_t> before;  // bytes the image occupies; absent where the host does not tell
  std::optional<uint64_t> after;   // kSparsify, when all was done
  uint64_t reclaimable_bytes = 0;  // free in the guest and allocated in the image
  uint64_t given_back_bytes = 0;   // of these; not what came free, which is `before` minus `after`
  uint64_t shared_bytes = 0;       // of these: frees nothing until the other sharer lets go
  Released released;  // of what was given back, where the storage frees only whole extents
  uint64_t requests = 0;
  uint64_t repaired_leaks = 0;  // clusters that a run before this one lost when it was killed
  bool before_is_own = false;   // `before` and `after` leave out what is shared

  // Measured; never negative, and without what others still share.
  std::optional<uint64_t> freed_bytes() const;
};

struct FilesystemResult {
  freemap::Filesystem found;
  uint64_t reclaimable_bytes = 0;  // of its free bytes: whole granules that are allocated
  uint64_t given_back_bytes = 0;   // of these
};

struct SparsifyResult {
  std::vector<DiskResult> disks;  // as they were given
  std::vector<FilesystemResult> filesystems;
  bool interrupted = false;  // somebody wanted an image: stopped, partial
  bool cancelled = false;    // the stop token: partial
  bool too_little = false;   // less than least_bytes: nothing was done
};

struct SparsifyProgress {
  uint64_t done_bytes = 0;  // given back, of all disks
  uint64_t total_bytes = 0;
};
using ProgressCallback = std::function<void(const SparsifyProgress&)>;

// Takes the free runs of those out of `scan`.
void LeaveOut(const std::function<bool(const freemap::Filesystem&)>& leave_out,
              freemap::ScanResult& scan);

// Reads, and in kSparsify gives back. `check` is asked once all disks are held and before anything
// is changed; what it returns is returned. Errors mean that nothing was changed, but for failures
// of the storage itself: Aborted is in use, naming the holder; FailedPrecondition and Unimplemented
// are refusals. What was done until a failure, `interrupted` or `cancelled` is as good as all of
// it. This thread only, and it must not open the images itself meanwhile.
absl::StatusOr<SparsifyResult> Sparsify(const std::vector<DiskSpec>& disks, Mode mode,
                                        const SparsifyOptions& options,
                                        const std::function<absl::Status()>& check,
                                        const ProgressCallback& progress,
                                        const std::stop_token& stop);

}  // namespace virt_reclaim::sparsify

#endif  // VIRT_RECLAIM_HOST_SPARSIFY_SPARSIFY_H_
