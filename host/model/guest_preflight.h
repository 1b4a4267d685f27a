// What a guest says about its own configuration, for a migration to judge, and what it says it did
// about it: plain values, bounded and printable. The guest's word. Unknown stays unknown: no
// enumeration here has a default that looks like good news.
#ifndef VIRT_RECLAIM_HOST_MODEL_GUEST_PREFLIGHT_H_
#define VIRT_RECLAIM_HOST_MODEL_GUEST_PREFLIGHT_H_

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/range.h"

namespace virt_reclaim {

enum class GuestSetting { kUnknown, kEnabled, kDisabled };
enum class GuestInitramfsTool { kUnknown, kNoneKnown, kInitramfsTools, kDracut, kMkinitcpio };
enum class GuestModuleState { kUnknown, kBuiltIn, kInInitramfs, kModuleOnly, kMissing };

// proto: NameSource
enum class GuestNameSource {
  kUnknown,
  kRunningCommandLine,
  kFstab,
  kCrypttab,
  kGrubDefault,
  kGrubConfig,
  kKernelCommandLine,
  kLoaderEntry,
  kLvmConfig,
  kGrubDeviceMap,
  kInitramfsResume,
};

struct GuestKernelVersion {
  uint32_t major = 0, minor = 0;
  auto operator<=>(const GuestKernelVersion&) const = default;
};

// A kernel the guest may boot next.
struct GuestKernel {
  std::string release;
  bool running = false, newest = false;
  std::string initramfs;  // empty: none found
  GuestModuleState virtio_scsi = GuestModuleState::kUnknown;
  GuestModuleState sd_mod = GuestModuleState::kUnknown;
  // Of the buses that a migration leaves: virtio-blk, SATA, IDE.
  GuestModuleState virtio_blk = GuestModuleState::kUnknown;
  GuestModuleState ahci = GuestModuleState::kUnknown;
  GuestModuleState ata_piix = GuestModuleState::kUnknown;
};

// A place that names a disk in a way that a bus change breaks.
struct GuestNamedDevice {
  GuestNameSource source = GuestNameSource::kUnknown;
  std::string file;
  uint32_t line = 0;
  std::string text;         // the line
  std::string name;         // /dev/vda1
  std::string replacement;  // UUID=...; empty: not known
  bool fixable = false;     // FixGuest would change it
};

struct GuestCryptDevice {
  std::string name, dm_name;  // name: empty when only crypttab knows it
  GuestSetting passes_discards = GuestSetting::kUnknown;
  GuestSetting crypttab_discard = GuestSetting::kUnknown;
};

struct GuestRaidArray {
  std::string name, level;
  std::vector<std::string> members;
  GuestSetting passes_discards = GuestSetting::kUnknown;
};

// What must be there again after the next boot.
struct GuestMount {
  std::string source, uuid, type;
  std::vector<std::string> mount_points;
  GuestSetting discard_option = GuestSetting::kUnknown;  // mounted with discard or nodiscard
};

struct GuestPreflight {
  std::string kernel_release, boot_id;
  std::optional<GuestKernelVersion> kernel;
  GuestInitramfsTool initramfs_tool = GuestInitramfsTool::kUnknown;
  std::vector<GuestKernel> kernels;  // empty: unknown
  std::string modules_policy, host_only;
  bool virtio_scsi_listed = false, sd_mod_listed = false;
  std::vector<GuestNamedDevice> names;
  std::vector<GuestCryptDevice> crypt_devices;
  GuestSetting lvm_issue_discards = GuestSetting::kUnknown;  // lvremove and lvreduce only
  std::vector<GuestRaidArray> raid_arrays;
  std::vector<GuestMount> mounts;
  GuestSetting fstrim_timer = GuestSetting::kUnknown;
  std::vector<std::string> boot_disks;    // kernel names; empty: unknown
  std::vector<std::string> unread_files;  // what they name is unknown
  std::vector<std::string> boot_configs;  // what the next boot's command line comes from
  bool truncated = false;                 // by the guest or here: what is missing is unknown
};

// The end-to-end probe: a file of known bytes on a filesystem of the guest.
struct GuestMarker {
  std::string id;  // 16 raw bytes: at the front of each 4 KiB of the marker. Never printed
  uint64_t size = 0;
  // On the guest's disk `disk`, when the guest knows: else `disk` and `extents` are empty.
  struct Extent {
    uint64_t offset = 0, length = 0;
  };
  std::vector<Extent> extents;
  std::string disk;
};

// Where a filesystem is free, on the guest's disk `disk` (its kernel name): sorted and disjoint.
struct GuestFreeMap {
  std::string disk;
  std::vector<Range> runs;
};

struct GuestMarkerDiscard {
  uint64_t trimmed = 0;    // the guest's word
  std::string error_name;  // of the trim; empty: done
  bool whole_filesystem = false;
};

enum class GuestFixAction { kPlan, kApply, kUndo };
enum class GuestFixResult { kUnknown, kNothingToDo, kPlanned, kDone, kRolledBack, kFailed };

struct GuestFixedFile {
  std::string path, backup;  // backup: empty when the file is new
  struct Line {
    uint32_t line = 0;
    std::string before, after;
  };
  std::vector<Line> lines;
};

struct GuestFixCommand {
  std::vector<std::string> arguments;
  int exit_status = -1;  // -1: not run, or ended by a signal or its deadline
  std::string output;
};

struct GuestFix {
  GuestFixResult result = GuestFixResult::kUnknown;
  std::vector<GuestFixedFile> files;
  std::vector<GuestFixCommand> commands;
  std::vector<std::string> refusals;  // what was left as it is, "FILE:LINE: why"
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_GUEST_PREFLIGHT_H_
