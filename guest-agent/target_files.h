// A filesystem that is worked on: its directory, and where it lies on a disk.
#ifndef VIRT_RECLAIM_GUEST_AGENT_TARGET_FILES_H_
#define VIRT_RECLAIM_GUEST_AGENT_TARGET_FILES_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "guest-agent/filesystems.h"

namespace virt_reclaim::agent {

// The directory that is mounted at `mount_point`, for reading. Its errno; ESTALE: another
// filesystem is mounted there by now. Never hangs on a FIFO and follows no link.
absl::StatusOr<UniqueFd> OpenMountPoint(const Filesystem& filesystem,
                                        const std::string& mount_point);

struct DiskPlace {
  std::string disk;  // kernel name
  uint64_t start_bytes = 0;
};
// Where the filesystem begins, when nothing but a partition table is between it and one disk.
std::optional<DiskPlace> PlaceOnDisk(const Filesystem& filesystem);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_TARGET_FILES_H_
