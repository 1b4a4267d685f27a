// Who has an image: processes, loop devices, mounts, device mapper, swap, leases. Looked up in
// /proc and /sys without opening the image: opening it would break somebody's lease.
#ifndef VIRT_RECLAIM_HOST_GUARD_HOLDERS_H_
#define VIRT_RECLAIM_HOST_GUARD_HOLDERS_H_

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "host/guard/image_identity.h"

namespace virt_reclaim {

// The two trees; tests have others.
struct HolderRoots {
  std::string proc = "/proc";
  std::string sys = "/sys";
};

struct Holders {
  // Printable, for a message: "qemu-system-x86 (pid 4711)", "/dev/loop0", "mounted at '/srv'".
  std::vector<std::string> names;
  // False: some processes could not be looked into (we are not root), so that an empty list proves
  // nothing.
  bool complete = true;

  // "a, b and 3 others"; empty when there are none.
  std::string Describe() const;
};

// Everybody but this process, and those of whom `ours` (empty: none) is true, that holds the image
// `identity`. Costs one stat for each descriptor of each process. What goes away meanwhile is left
// out, what appears may be missed: this names who is in the way; for a regular file the lease
// proves that nobody is. Of a device they include those who have a partition of it, or the disk
// that it is a partition of, open for writing. Any thread.
Holders FindHolders(const ImageIdentity& identity, const HolderRoots& roots = {},
                    const std::function<bool(pid_t)>& ours = nullptr);

// Those of them alone who may write: processes, by how they have opened it, and loop devices.
Holders FindWriters(const ImageIdentity& identity, const HolderRoots& roots = {},
                    const std::function<bool(pid_t)>& ours = nullptr);

// Whether this process, or one that it started, has started `pid`: as long as all between the two
// live. Any thread.
bool IsDescendant(pid_t pid, const HolderRoots& roots = {});

// Whether another process holds a lease on the image `identity` at `path`, from /proc/locks.
// Opening the image would break it. Where the kernel does not tell the mount of a file (before
// Linux 5.8), it matches the inode's number alone: says yes rather too often.
bool HasLease(const std::string& path, const ImageIdentity& identity,
              const HolderRoots& roots = {});

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_GUARD_HOLDERS_H_
