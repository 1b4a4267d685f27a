// Names of disks that may change when a disk moves to another bus: /dev/vda1, /dev/sda1,
// /dev/disk/by-path/..., /dev/disk/by-id/virtio-..., ata-..., usb-.... Where they stand in the
// guest's configuration, and what they should be. Pure but for the reading; any thread.
#ifndef VIRT_RECLAIM_GUEST_CONFIG_DEVICE_NAMES_H_
#define VIRT_RECLAIM_GUEST_CONFIG_DEVICE_NAMES_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "guest-config/config_files.h"

namespace virt_reclaim::agent {

inline constexpr size_t kMaxPreflightEntries = 256;  // of one list, the contract's limit

// The numbers are those of agent.proto's NameSource.
enum class NameSource {
  kRunningCommandLine = 1,
  kFstab = 2,
  kCrypttab = 3,
  kGrubDefault = 4,
  kGrubConfig = 5,
  kKernelCommandLine = 6,
  kLoaderEntry = 7,
  kLvmConfig = 8,
  kGrubDeviceMap = 9,
  kInitramfsResume = 10,
};
absl::string_view NameSourceName(NameSource source);  // "fstab"

// What names a block device for good (udev's and libblkid's words).
struct DeviceIds {
  std::string type;       // ext4, swap, crypto_LUKS
  std::string usage;      // filesystem, other, crypto, raid
  std::string uuid;       // of what is on it; empty when another device has the same
  std::string part_uuid;  // of the partition
};
using IdentifyDevice = std::function<std::optional<DeviceIds>(const std::string& path)>;

struct FoundName {
  size_t offset = 0;
  std::string name;  // "/dev/vd" alone: a pattern, as in a filter of LVM
};
// All of `line`, from the left.
std::vector<FoundName> FindDeviceNames(absl::string_view line);

struct NamedDevice {
  NameSource source = NameSource::kFstab;
  std::string file;
  uint32_t line = 0;  // from 1
  std::string text;   // the whole line
  size_t offset = 0;  // of the name in it
  std::string name;
  std::string replacement;  // "UUID=..."; empty: not known
  // Its place understands the replacement, or is made by a program that is there.
  bool fixable = false;
};

struct NamedDevices {
  std::vector<NamedDevice> names;
  std::vector<std::string> unread;        // "PATH: why"
  std::vector<std::string> boot_configs;  // of the boot loader, that were read
  bool truncated = false;
};

// What makes grub.cfg anew; empty: no such program, or no such file.
std::vector<std::string> MakeGrubConfig(const ConfigFiles& files);

// Looks into every file of the contract's list that is there.
NamedDevices ReadNamedDevices(const ConfigFiles& files, const IdentifyDevice& identify);
// Those of one text; for tests and for files already read.
void FindNamesInText(absl::string_view text, NameSource source, const std::string& file,
                     const IdentifyDevice& identify, NamedDevices& out);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_CONFIG_DEVICE_NAMES_H_
