// What is known of a guest's configuration that decides whether it comes up after its disks moved
// to another bus: the facts of agent.proto's PreflightResponse, as plain structs, and the readers
// of those that stand in files. Pure but for the reading; any thread.
#ifndef VIRT_RECLAIM_GUEST_CONFIG_PREFLIGHT_FACTS_H_
#define VIRT_RECLAIM_GUEST_CONFIG_PREFLIGHT_FACTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "guest-config/config_files.h"
#include "guest-config/device_names.h"
#include "guest-config/initramfs.h"

namespace virt_reclaim::agent {

// The numbers are those of agent.proto's DiscardSetting.
enum class DiscardSetting { kUnknown = 0, kEnabled = 1, kDisabled = 2 };
absl::string_view DiscardSettingName(DiscardSetting setting);

struct CryptDevice {
  std::string name;  // empty: only crypttab knows it
  std::string dm_name;
  DiscardSetting passes_discards = DiscardSetting::kUnknown;
  DiscardSetting crypttab_discard = DiscardSetting::kUnknown;
};

struct RaidArray {
  std::string name;
  std::string level;
  std::vector<std::string> members;
  DiscardSetting passes_discards = DiscardSetting::kUnknown;
};

struct MountIdentity {
  std::string source;
  std::string uuid;
  std::string type;
  std::vector<std::string> mount_points;
  DiscardSetting discard_option = DiscardSetting::kUnknown;
};

struct Preflight {
  std::string kernel_release;
  uint32_t kernel_major = 0;
  uint32_t kernel_minor = 0;
  std::string boot_id;
  InitramfsFacts initramfs;
  NamedDevices names;
  std::vector<CryptDevice> crypt_devices;
  DiscardSetting lvm_issue_discards = DiscardSetting::kUnknown;
  std::vector<RaidArray> raid_arrays;
  std::vector<MountIdentity> mounts;
  DiscardSetting fstrim_timer = DiscardSetting::kUnknown;
  std::vector<std::string> boot_disks;
  bool truncated = false;
};

// "6.1.0-18-amd64" -> 6, 1; false when it does not begin with two numbers.
bool ParseKernelRelease(absl::string_view release, uint32_t& major, uint32_t& minor);

// Whether a comma-separated list of mount or crypttab options has `option`, with or without a
// value.
bool HasOption(absl::string_view options, absl::string_view option);

// Sets everything that files of the guest tell: kernels, initramfs, names, crypttab, lvm.conf,
// fstrim.timer. Keeps the crypt devices that are there already. `running_release` is empty for a
// guest that is off: then the kernel is the newest one that is installed, and fstab tells which
// mounts have 'discard' or 'nodiscard'.
void ReadConfiguration(const ConfigFiles& files, const std::string& running_release,
                       const IdentifyDevice& identify, const ListInitramfs& list, Preflight& out);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_CONFIG_PREFLIGHT_FACTS_H_
