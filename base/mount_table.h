// The kernel's table of mounts, as one process sees it. Any thread.
// https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
#ifndef VIRT_RECLAIM_BASE_MOUNT_TABLE_H_
#define VIRT_RECLAIM_BASE_MOUNT_TABLE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim {

struct Mount {
  uint64_t id = 0;          // statx's stx_mnt_id
  std::string device;       // the superblock's number, "8:1"; st_dev is another one on btrfs
  std::string mount_point;  // the kernel's name, not made printable
  std::string filesystem;   // "ext4", "nfs4"
  std::string options;      // the superblock's, by commas
};

// The mounts of a mountinfo file, in its order; of two at one place the later hides the earlier.
// Lines that are none are left out.
std::vector<Mount> ParseMountTable(absl::string_view table);

// Reads `path` and parses it. Errors are those of ReadFile; more than 16 MiB are no table.
absl::StatusOr<std::vector<Mount>> ReadMountTable(const std::string& path = "/proc/self/mountinfo");

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_BASE_MOUNT_TABLE_H_
