// Free space of a guest that is off, given back by libguestfs's appliance: for filesystems that
// virt-reclaim cannot read itself. Its kernel mounts them, which replays their journals, and trims.
#ifndef VIRT_RECLAIM_HOST_GUESTFS_OFFLINE_TRIMMER_H_
#define VIRT_RECLAIM_HOST_GUESTFS_OFFLINE_TRIMMER_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "host/guestfs/offline_reader.h"

namespace virt_reclaim {

struct DeviceJob {
  std::string device;
  bool zero = false;  // else the filesystem on it is trimmed
};

struct TrimmedDevice {
  std::string device;  // as it was asked for
  absl::Status status;
};

// Opens all disks of one guest for writing, under QEMU's image locks, and mounts and trims, or
// zeroes, one device after the other: /dev/sda1 is the first partition of the first image,
// /dev/GROUP/VOLUME a logical volume. An error: the appliance did not start, or not end, well. One
// thread; blocks; takes about 10 s without KVM.
absl::StatusOr<std::vector<TrimmedDevice>> TrimOfflineGuest(const std::vector<OfflineImage>& images,
                                                            const std::vector<DeviceJob>& jobs);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_GUESTFS_OFFLINE_TRIMMER_H_
