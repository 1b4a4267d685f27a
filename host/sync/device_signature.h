// What a block device looks like: a filesystem, a partition table, a volume of LVM, RAID or LUKS.
#ifndef VIRT_RECLAIM_HOST_SYNC_DEVICE_SIGNATURE_H_
#define VIRT_RECLAIM_HOST_SYNC_DEVICE_SIGNATURE_H_

#include <string>

#include "absl/status/statusor.h"

namespace virt_reclaim::sync {

// "ext4", "gpt", ...; "several" when it has more than one; empty when libblkid knows none. Reads
// the beginning and the end of the device `fd`. Any thread.
absl::StatusOr<std::string> DeviceSignature(int fd);

}  // namespace virt_reclaim::sync

#endif  // VIRT_RECLAIM_HOST_SYNC_DEVICE_SIGNATURE_H_
