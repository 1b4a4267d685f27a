// The mount table of this process, read with libmount from /proc/self/mountinfo
// (proc_pid_mountinfo(5)), and the question which of its mounts a path really leads to. No disk
// access; any thread.
#ifndef VIRT_RECLAIM_GUEST_AGENT_MOUNTS_H_
#define VIRT_RECLAIM_GUEST_AGENT_MOUNTS_H_

#include <sys/types.h>

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace virt_reclaim::agent {

// More text than this is cut at a line: about 60,000 mounts.
inline constexpr size_t kMaxMountinfoBytes = size_t{8} << 20;

// One line. Names are the kernel's bytes, octal escapes undone.
struct Mount {
  int id = 0;
  int parent_id = 0;
  dev_t device = 0;    // of the superblock; btrfs and what has no device: 0:N
  std::string root;    // path inside the filesystem: "/" unless a bind mount or subvolume
  std::string target;  // the mount point
  std::string type;
  std::string source;
  bool read_only = false;  // the filesystem is, not only this mount of it
  std::string options;     // of the superblock: "rw,discard"
  bool pseudo =
      false;  // libmount: made by the kernel, no data of its own (proc, tmpfs, overlay, ...)
  bool network = false;   // libmount: nfs, cifs, ...
  bool reachable = true;  // false: another mount covers it
};

struct MountTable {
  std::vector<Mount> mounts;  // in the kernel's order
  bool truncated = false;     // longer than kMaxMountinfoBytes
};

// Errors: what open and read say; Internal when libmount cannot parse at all. A line it cannot
// parse is left out.
absl::StatusOr<MountTable> ReadMounts(const std::string& path = "/proc/self/mountinfo");

// What the mount shows as a whole: "/", or a btrfs subvolume ("/@home"). Empty for a directory that
// is bind mounted.
std::string WholeRoot(const Mount& mount);

// One filesystem: all of its mounts, indices into MountTable::mounts, the one to trim first (the
// whole filesystem, then the kernel's order). Unreachable mounts are left out; so is a filesystem
// with no other.
using MountGroup = std::vector<size_t>;
std::vector<MountGroup> GroupByFilesystem(const MountTable& table);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_MOUNTS_H_
