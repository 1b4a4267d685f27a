// Making holes: how a run that was read as zeroes leaves the disk. One implementation each for the
// two ways; both make a hole only of what is zero, by different proof.
#ifndef VIRT_RECLAIM_HOST_PUNCH_HOLES_H_
#define VIRT_RECLAIM_HOST_PUNCH_HOLES_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "base/range.h"
#include "host/guard/image_guard.h"

namespace virt_reclaim::punch {

// One thread.
class HoleMaker {
 public:
  virtual ~HoleMaker() = default;

  // These runs come next, in this order: time to fetch what making them needs.
  virtual void Expect(std::span<const Range> /*runs*/) {}

  // Makes `run`, which was read as zeroes, a hole. Returns the bytes that are a hole now: all, or
  // less when somebody wrote meanwhile. Aborted when somebody wants the image: let go of it.
  virtual absl::StatusOr<uint64_t> Make(Range run) = 0;
};

// By fallocate(2), FALLOC_FL_PUNCH_HOLE. The proof that nobody wrote is the guard, asked before
// each call; it must outlive this object. A run that reaches the end of the file takes the rest of
// the last block along, which is behind the end; a block device has none.
std::unique_ptr<HoleMaker> MakePlainHoles(const ImageGuard& guard, uint64_t size_bytes,
                                          uint64_t unit_bytes);
// Unimplemented when the filesystem or the device cannot punch; for files tried behind the end.
absl::Status TryPlainHoles(const ImageGuard& guard, uint64_t size_bytes, uint64_t unit_bytes);

// By FIDEDUPERANGE from a file that is one hole: the kernel compares and punches in one step under
// the locks of both inodes, so it is safe against every writer, and neither mtime nor ctime change.
// `fd` is open for reading, without O_DIRECT; our own file, or we are root. The kernel compares in
// the page cache, so zeros that are not there are read into it; what is not punched is dropped
// again. FailedPrecondition or the like when the filesystem cannot; `fd` must outlive this object.
absl::StatusOr<std::unique_ptr<HoleMaker>> MakeAtomicHoles(int fd, const std::string& directory,
                                                           uint64_t size_bytes,
                                                           uint64_t unit_bytes);

}  // namespace virt_reclaim::punch

#endif  // VIRT_RECLAIM_HOST_PUNCH_HOLES_H_
