// What the host's storage below an image does with discards, from stat and sysfs alone; nothing is
// read from a disk. Any thread.
#ifndef VIRT_RECLAIM_HOST_SERVICES_HOST_STORAGE_H_
#define VIRT_RECLAIM_HOST_SERVICES_HOST_STORAGE_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "host/model/facts.h"

namespace virt_reclaim {

// The block device `number`, then what it lies on, each once; a partition stands for its disk's
// limits. Empty when it is not in sysfs. `sysfs` is injectable for tests.
// https://www.kernel.org/doc/Documentation/ABI/stable/sysfs-block
std::vector<HostDevice> ReadHostDevices(dev_t number, const std::string& sysfs = "/sys");

// Type of the filesystem that `path` is on: "ext4", "nfs"; its number in hex when it has no name
// here; empty when it cannot be asked.
std::string FilesystemType(const std::string& path);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_HOST_STORAGE_H_
