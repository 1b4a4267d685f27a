// A run of bytes of a disk, as the guest sees it. Pure.
#ifndef VIRT_RECLAIM_HOST_MODEL_DISK_RUN_H_
#define VIRT_RECLAIM_HOST_MODEL_DISK_RUN_H_

#include <cstdint>

namespace virt_reclaim {

struct DiskRun {
  uint64_t offset = 0;
  uint64_t length = 0;

  bool operator==(const DiskRun&) const = default;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_DISK_RUN_H_
