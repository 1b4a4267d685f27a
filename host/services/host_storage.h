// What the host's storage below an image does with discards, from stat, sysfs and the table of
// mounts alone; nothing is read from a disk. Any thread.
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

// The version of NFS under which the filesystem `device` (st_dev) is mounted: "4.2"; empty when it
// is not NFS, or not in the table. Only 4.2 knows holes (RFC 7862). `mountinfo` is injectable for
// tests. https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
std::string NfsVersion(dev_t device, const std::string& mountinfo = "/proc/self/mountinfo");

// Type of the filesystem that `path` is on: "ext4", "nfs"; its number in hex when it has no name
// here; empty when it cannot be asked.
std::string FilesystemType(const std::string& path);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_HOST_STORAGE_H_
