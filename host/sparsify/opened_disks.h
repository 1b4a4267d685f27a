// The opened disks of one guest, and the order in which they are let go.
//
// Who starts the guest meanwhile waits for a raw image, whose lease we hold, and is refused by a
// qcow2 one, which QEMU's locks keep. So the lease goes last: whom it lets in finds nothing of ours
// any more. One thread, always the same.
#ifndef VIRT_RECLAIM_HOST_SPARSIFY_OPENED_DISKS_H_
#define VIRT_RECLAIM_HOST_SPARSIFY_OPENED_DISKS_H_

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "host/sparsify/opened_disk.h"

namespace virt_reclaim::sparsify {

class OpenedDisks {
 public:
  OpenedDisks() = default;
  OpenedDisks(const OpenedDisks&) = delete;
  OpenedDisks& operator=(const OpenedDisks&) = delete;
  // Lets go of all that are not finished, in the order of Finish.
  ~OpenedDisks();

  void Add(std::unique_ptr<OpenedDisk> disk) { disks_.push_back(std::move(disk)); }
  // As they were added.
  size_t size() const { return disks_.size(); }
  OpenedDisk& operator[](size_t index) const { return *disks_[index]; }

  // Finish of each, those first whose opener is refused instead of waiting. All are finished; the
  // first error is returned.
  absl::Status Finish();

 private:
  std::vector<std::unique_ptr<OpenedDisk>> disks_;
};

}  // namespace virt_reclaim::sparsify

#endif  // VIRT_RECLAIM_HOST_SPARSIFY_OPENED_DISKS_H_
