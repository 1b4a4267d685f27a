// The block devices below a filesystem, from sysfs alone: which disk a discard ends at, and which
// device on the way drops it. Needs no rights and no disk access (sysfs is world-readable). Any
// thread.
#ifndef VIRT_RECLAIM_GUEST_AGENT_BLOCK_DEVICES_H_
#define VIRT_RECLAIM_GUEST_AGENT_BLOCK_DEVICES_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "guest-agent/obstacle.h"

namespace virt_reclaim::agent {

inline constexpr size_t kMaxDevices = 64;  // per filesystem, the contract's limit

// The numbers are those of agent.proto's BlockDeviceKind.
enum class DeviceKind {
  kUnknown = 0,  // a layer that is none of these (bcache)
  kDisk = 1,
  kPartition = 2,
  kDmCrypt = 3,
  kLvm = 4,
  kDmOther = 5,
  kMd = 6,
  kLoop = 7,
};
absl::string_view DeviceKindName(DeviceKind kind);  // "disk", "dm-crypt"

// What sysfs says (Documentation/ABI/stable/sysfs-block); sizes in bytes.
struct BlockDevice {
  std::string name;  // kernel name: "vda1", "dm-0"
  dev_t number = 0;
  DeviceKind kind = DeviceKind::kUnknown;
  std::vector<std::string> parents;  // the devices it lies on
  uint64_t size_bytes = 0;
  uint64_t start_bytes = 0;  // partition: offset on its parent
  uint64_t discard_max_bytes = 0;
  uint64_t discard_granularity_bytes = 0;
  std::string dm_name;
  std::string dm_uuid;
  std::string md_level;
  std::string serial;
  std::string wwid;
  std::string bus_path;
  std::string scsi_address;
  uint32_t ata_port = 0;  // of its controller, from 1; 0: none
  std::string backing_file;
};

struct DeviceChain {
  std::vector<BlockDevice>
      devices;  // top first, each once; the first `tops` are what the filesystem lies on
  size_t tops = 0;
  bool truncated = false;  // more than kMaxDevices
};

// Walks down from the devices `tops`: partition -> its disk, dm and md -> all of slaves/. What is
// not in sysfs (any more) is left out. `sysfs` is injectable for tests.
DeviceChain ReadDeviceChain(std::span<const dev_t> tops, const std::string& sysfs = "/sys");

// The members of the btrfs `uuid` (SYSFS/fs/btrfs/UUID/devices/*); empty when there is none such.
std::vector<dev_t> BtrfsMembers(absl::string_view uuid, const std::string& sysfs = "/sys");

// Every block device (SYSFS/dev/block/*), at most `limit`.
std::vector<dev_t> AllBlockDevices(size_t limit, const std::string& sysfs = "/sys");

// Which device drops discards: one with discard_max_bytes 0 that is a disk or lies on devices that
// take them. kPartial when another way to a disk is free; kLoop when a way ends at a file.
Verdict JudgeChain(const DeviceChain& chain);

// "8:1", as in sysfs.
std::string DeviceNumberString(dev_t number);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_BLOCK_DEVICES_H_
