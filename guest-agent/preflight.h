// What decides whether this guest comes up after its disks moved to another bus, and whether
// discards reach them then: facts, each as the guest's files, /proc and /sys have it. No judgement:
// that is the host's. Any thread.
#ifndef VIRT_RECLAIM_GUEST_AGENT_PREFLIGHT_H_
#define VIRT_RECLAIM_GUEST_AGENT_PREFLIGHT_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "guest-agent/device_names.h"
#include "guest-agent/filesystems.h"
#include "guest-agent/initramfs.h"
#include "guest-agent/root_files.h"
#include "guest-agent/subprocess.h"

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

// Where the facts are from; tests replace all of it.
struct PreflightSources {
  RootFiles files;
  std::string sysfs = "/sys";
  std::string kernel_release;  // uname -r
  std::function<absl::StatusOr<FilesystemList>()> read_filesystems;
  IdentifyDevice identify;
  CommandRunner run;
};
PreflightSources RealPreflightSources();

// Errors: the mount table cannot be read. Anything else that cannot be found out stays unknown.
absl::StatusOr<Preflight> ReadPreflight(const PreflightSources& sources);

// "6.1.0-18-amd64" -> 6, 1; false when it does not begin with two numbers.
bool ParseKernelRelease(absl::string_view release, uint32_t& major, uint32_t& minor);

// What `preflight` prints.
std::string PreflightText(const Preflight& preflight);
std::string PreflightJson(const Preflight& preflight);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_PREFLIGHT_H_
