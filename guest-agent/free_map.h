// Where a mounted filesystem is free, by the kernel's own map of it (GETFSMAP): with it the host
// can tell exactly how much of its image could go. Any thread; the calling one blocks while the
// kernel reads the filesystem's bitmaps.
#ifndef VIRT_RECLAIM_GUEST_AGENT_FREE_MAP_H_
#define VIRT_RECLAIM_GUEST_AGENT_FREE_MAP_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "guest-agent/trimmer.h"

namespace virt_reclaim::agent {

inline constexpr size_t kMaxFreeRuns = 65536;  // the contract's limit

struct FreeRun {
  uint64_t offset_bytes = 0;
  uint64_t length_bytes = 0;

  bool operator==(const FreeRun&) const = default;
};

struct FreeRuns {
  std::vector<FreeRun> runs;  // sorted, apart from each other
  uint64_t left_out_bytes =
      0;  // free in shorter runs than was asked for, or than there was room for
};

// Takes runs in the order of their offsets, joins those that touch, and keeps the longest of them:
// none below `minimum_bytes`, at most `most` at the end and twice that meanwhile.
class FreeRunCollector {
 public:
  explicit FreeRunCollector(uint64_t minimum_bytes, size_t most = kMaxFreeRuns)
      : minimum_(minimum_bytes), most_(most) {}

  void Add(const FreeRun& run);
  // Once.
  FreeRuns Finish();

 private:
  void Close();
  void KeepLongest();

  const uint64_t minimum_;
  const size_t most_;
  FreeRun open_;  // length 0: none
  FreeRuns kept_;
};

// What is free on the device `device` of the filesystem that `fd` belongs to, as offsets on it
// (FS_IOC_GETFSMAP, ioctl_getfsmap(2); ext4 and XFS since Linux 4.12). FailedPrecondition: the
// filesystem knows no such map.
absl::StatusOr<FreeRuns> ReadFreeRuns(int fd, dev_t device, uint64_t minimum_bytes,
                                      const std::stop_token& stop);

struct FreeMap {
  std::string disk;  // kernel name; the offsets are on it
  FreeRuns free;
};

// FailedPrecondition: no such map, or more than a partition table lies between the filesystem and
// one disk, so that its offsets are not a disk's.
absl::StatusOr<FreeMap> ReadFreeMap(const TrimTarget& target, uint64_t minimum_bytes,
                                    const std::stop_token& stop);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_FREE_MAP_H_
