// The facts of a guest that is off, read from its images by libguestfs: a small virtual machine of
// its own (the appliance) mounts them, so that no filesystem of a guest ever meets the host's
// kernel. The images are opened read-only below an overlay in a temporary directory; what a mount
// writes (a journal that is replayed, so that the files are what the guest would see) goes there.
#ifndef VIRT_RECLAIM_HOST_GUESTFS_OFFLINE_READER_H_
#define VIRT_RECLAIM_HOST_GUESTFS_OFFLINE_READER_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "guest-config/preflight_facts.h"

namespace virt_reclaim {

struct OfflineImage {
  std::string format;  // as QEMU names it; never probed: a raw image can claim to be a qcow2
  std::string path;
};

// All disks of one guest, in its order. FailedPrecondition: there is nothing to be known of this
// guest, with the reason in a form that follows "the guest is off, and "; else what libguestfs
// says. Takes about 10 s without KVM. One thread; blocks.
absl::StatusOr<agent::Preflight> ReadOfflineGuest(const std::vector<OfflineImage>& images);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_GUESTFS_OFFLINE_READER_H_
