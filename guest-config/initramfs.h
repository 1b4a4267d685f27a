// What the next boot has before it has a root filesystem: which tool makes the guest's initramfs,
// and whether the drivers of a virtio-scsi disk are in it. Any thread.
#ifndef VIRT_RECLAIM_GUEST_CONFIG_INITRAMFS_H_
#define VIRT_RECLAIM_GUEST_CONFIG_INITRAMFS_H_

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "guest-config/config_files.h"

namespace virt_reclaim::agent {

// The numbers are those of agent.proto.
enum class InitramfsTool {
  kUnknown = 0,
  kNoneKnown = 1,
  kInitramfsTools = 2,
  kDracut = 3,
  kMkinitcpio = 4,
};
absl::string_view InitramfsToolName(InitramfsTool tool);

enum class ModuleState {
  kUnknown = 0,
  kBuiltIn = 1,
  kInInitramfs = 2,
  kModuleOnly = 3,
  kMissing = 4,
};
absl::string_view ModuleStateName(ModuleState state);

struct KernelModules {
  std::string release;
  bool running = false;
  bool newest = false;
  std::string initramfs;  // empty: none found
  ModuleState virtio_scsi = ModuleState::kUnknown;
  ModuleState sd_mod = ModuleState::kUnknown;
  ModuleState virtio_blk = ModuleState::kUnknown;
  ModuleState ahci = ModuleState::kUnknown;      // SATA
  ModuleState ata_piix = ModuleState::kUnknown;  // IDE
};

struct InitramfsConfig {
  std::string modules_policy;  // initramfs-tools: MODULES
  std::string host_only;       // dracut: hostonly
  bool virtio_scsi_listed = false;
  bool sd_mod_listed = false;
};

struct InitramfsFacts {
  InitramfsTool tool = InitramfsTool::kNoneKnown;
  std::vector<KernelModules> kernels;  // running, then newest when it is another; see below
  InitramfsConfig config;
  bool truncated = false;
};

// The names in the archive at `path` of the guest, one a line, as cpio or ls -l tells them. Empty
// when it is not known what is in there: never a part of it.
using ListInitramfs = std::function<std::optional<std::string>(const std::string& path)>;

// `running_release` empty: nothing runs, and which of the installed kernels boots next is the boot
// loader's choice, so all of them are looked at, at most kMaxKernels; `truncated` when there are
// more.
inline constexpr size_t kMaxKernels = 8;
InitramfsFacts ReadInitramfsFacts(const ConfigFiles& files, const std::string& running_release,
                                  const ListInitramfs& list);

// The first of /usr/sbin, /usr/bin, /sbin, /bin that has `program`; empty: none.
std::string FindProgram(const ConfigFiles& files, absl::string_view program);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_CONFIG_INITRAMFS_H_
