// The filesystem of the host below a file: where it is mounted, how large it is, what is left. From
// statvfs and the table of mounts alone. Any thread.
#ifndef VIRT_RECLAIM_HOST_SERVICES_STORAGE_SPACE_H_
#define VIRT_RECLAIM_HOST_SERVICES_STORAGE_SPACE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace virt_reclaim {

struct StorageSpace {
  // Tells storages apart: the superblock's number in the table of mounts ("0:45"). Subvolumes of a
  // btrfs have an st_dev each, but this in common.
  std::string id;
  std::string mount_point;  // the kernel's name, not made printable
  uint64_t capacity = 0;    // bytes
  uint64_t available = 0;   // bytes that an unprivileged program can still write
};

// Errors carry the errno of statvfs. A file that no mount of the table is above (a namespace of its
// own) has its directory for a mount point. `mountinfo` is injectable for tests.
// https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
absl::StatusOr<StorageSpace> SpaceBelow(const std::string& path,
                                        const std::string& mountinfo = "/proc/self/mountinfo");

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_STORAGE_SPACE_H_
