// The filesystems this guest has mounted, each once, with the way of a discard from it to the
// guest's disks: what ListFilesystems answers and what a trim chooses from. Any thread.
#ifndef VIRT_RECLAIM_GUEST_AGENT_FILESYSTEMS_H_
#define VIRT_RECLAIM_GUEST_AGENT_FILESYSTEMS_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "guest-agent/block_devices.h"
#include "guest-agent/mounts.h"
#include "guest-agent/obstacle.h"
#include "guest-config/device_names.h"

namespace virt_reclaim::agent {

inline constexpr size_t kMaxFilesystems = 4096;  // the contract's limits
inline constexpr size_t kMaxMountPoints = 64;

struct Filesystem {
  std::string source;
  std::string type;
  std::string uuid;
  std::vector<std::string> mount_points;  // the one to trim first
  std::vector<std::string> mount_roots;   // of each of them: WholeRoot
  dev_t device = 0;                       // st_dev of its files; btrfs subvolumes have others
  bool read_only = false;
  std::string options;  // of the superblock: "rw,discard"
  uint64_t size_bytes = 0;
  uint64_t used_bytes = 0;
  uint64_t free_bytes = 0;
  std::optional<uint64_t> freed_since_trim;  // freed_meter.h; only in what the daemon answers
  DeviceChain chain;
  Verdict verdict;

  // Kernel names of the disks below.
  std::vector<std::string> Disks() const;
};

struct FilesystemList {
  std::vector<Filesystem> filesystems;  // in the order of their first mount
  bool truncated = false;
};

struct SpaceUsage {
  uint64_t size_bytes = 0;
  uint64_t used_bytes = 0;
  uint64_t free_bytes = 0;
};

// What is asked of the living system; tests replace it.
struct SystemProbes {
  std::string mountinfo = "/proc/self/mountinfo";
  std::string sysfs = "/sys";
  // statfs(2). Never called for network and FUSE filesystems, where a dead server would hang it for
  // ever.
  std::function<std::optional<SpaceUsage>(const std::string& mount_point)> space;
  // UUID of the btrfs mounted there (BTRFS_IOC_FS_INFO); empty when it cannot be asked.
  std::function<std::string(const std::string& mount_point)> btrfs_uuid;
  // UUID of the filesystem on a device: udev's database, else libblkid's low-level probe of the
  // device, read-only.
  std::function<std::string(dev_t device, const std::string& name)> device_uuid;
};
SystemProbes RealProbes();

// What names the block device at `path` (a node or a link to one) for good. Empty when it is none.
// A UUID that several devices have (a cloned disk) is left out: which of them it would mean is
// luck.
std::optional<DeviceIds> IdentifyRealDevice(const std::string& path);

// Errors: the mount table cannot be read.
absl::StatusOr<FilesystemList> ReadFilesystems(const SystemProbes& probes);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_FILESYSTEMS_H_
