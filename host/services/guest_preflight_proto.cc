#include "host/services/guest_preflight_proto.h"

#include <algorithm>

#include "base/escape.h"
#include "host/services/guest_filesystems_proto.h"

namespace virt_reclaim {
namespace {

namespace v1 = virt_reclaim::agent::v1;

// The contract's limits again: the guest may not keep to them.
constexpr int kMaxEntries = 256;
constexpr int kMaxKernels = 8;
constexpr int kMaxPerEntry = 64;
constexpr size_t kMaxPathBytes = 1024;
constexpr size_t kMaxLineBytes = 1024;
constexpr size_t kMaxOutputBytes = 4096;
constexpr size_t kMarkerIdBytes = 16;
constexpr uint64_t kMaxMarkerBytes = uint64_t{64} << 20;
constexpr uint64_t kMaxGuestOffset = uint64_t{1} << 62;  // sums of three stay below 2^64

std::string GuestName(const std::string& text) { return Printable(text, kMaxGuestNameBytes); }
std::string Path(const std::string& text) { return Printable(text, kMaxPathBytes); }
std::string Line(const std::string& text) { return Printable(text, kMaxLineBytes); }

// At most `limit` entries of a repeated field, each through `convert`.
template <typename List, typename Convert>
auto Some(const List& list, int limit, bool& truncated, Convert convert) {
  std::vector<decltype(convert(list.Get(0)))> out;
  truncated = truncated || list.size() > limit;
  for (int i = 0; i < std::min(list.size(), limit); ++i) out.push_back(convert(list.Get(i)));
  return out;
}

GuestSetting FromProto(v1::DiscardSetting setting) {
  switch (setting) {
    case v1::DISCARD_SETTING_ENABLED:
      return GuestSetting::kEnabled;
    case v1::DISCARD_SETTING_DISABLED:
      return GuestSetting::kDisabled;
    default:
      return GuestSetting::kUnknown;
  }
}

GuestModuleState FromProto(v1::ModuleState state) {
  switch (state) {
    case v1::MODULE_STATE_BUILT_IN:
      return GuestModuleState::kBuiltIn;
    case v1::MODULE_STATE_IN_INITRAMFS:
      return GuestModuleState::kInInitramfs;
    case v1::MODULE_STATE_MODULE_ONLY:
      return GuestModuleState::kModuleOnly;
    case v1::MODULE_STATE_MISSING:
      return GuestModuleState::kMissing;
    default:
      return GuestModuleState::kUnknown;
  }
}

GuestInitramfsTool FromProto(v1::InitramfsTool tool) {
  switch (tool) {
    case v1::INITRAMFS_TOOL_NONE_KNOWN:
      return GuestInitramfsTool::kNoneKnown;
    case v1::INITRAMFS_TOOL_INITRAMFS_TOOLS:
      return GuestInitramfsTool::kInitramfsTools;
    case v1::INITRAMFS_TOOL_DRACUT:
      return GuestInitramfsTool::kDracut;
    case v1::INITRAMFS_TOOL_MKINITCPIO:
      return GuestInitramfsTool::kMkinitcpio;
    default:
      return GuestInitramfsTool::kUnknown;
  }
}

GuestNameSource FromProto(v1::NameSource source) {
  static_assert(static_cast<int>(GuestNameSource::kRunningCommandLine) ==
                v1::NAME_SOURCE_RUNNING_COMMAND_LINE);
  static_assert(static_cast<int>(GuestNameSource::kLoaderEntry) == v1::NAME_SOURCE_LOADER_ENTRY);
  static_assert(static_cast<int>(GuestNameSource::kInitramfsResume) ==
                v1::NAME_SOURCE_INITRAMFS_RESUME);
  if (source < v1::NAME_SOURCE_RUNNING_COMMAND_LINE || source > v1::NAME_SOURCE_INITRAMFS_RESUME) {
    return GuestNameSource::kUnknown;
  }
  return static_cast<GuestNameSource>(source);
}

GuestFixResult FromProto(v1::FixResult result) {
  static_assert(static_cast<int>(GuestFixResult::kNothingToDo) == v1::FIX_RESULT_NOTHING_TO_DO);
  static_assert(static_cast<int>(GuestFixResult::kFailed) == v1::FIX_RESULT_FAILED);
  if (result < v1::FIX_RESULT_NOTHING_TO_DO || result > v1::FIX_RESULT_FAILED) {
    return GuestFixResult::kUnknown;
  }
  return static_cast<GuestFixResult>(result);
}

GuestKernel FromProto(const v1::KernelModules& proto) {
  return {GuestName(proto.release()),
          proto.running(),
          proto.newest(),
          Path(proto.initramfs()),
          FromProto(proto.virtio_scsi()),
          FromProto(proto.sd_mod()),
          FromProto(proto.virtio_blk()),
          FromProto(proto.ahci()),
          FromProto(proto.ata_piix())};
}

GuestNamedDevice FromProto(const v1::NamedDevice& proto) {
  return {FromProto(proto.source()),
          Path(proto.file()),
          proto.line(),
          Line(proto.text()),
          GuestName(proto.name()),
          GuestName(proto.replacement()),
          proto.fixable()};
}

GuestFixedFile FromProto(const v1::FixedFile& proto) {
  bool ignored = false;
  GuestFixedFile file = {Path(proto.path()), Path(proto.backup()), {}};
  file.lines = Some(proto.lines(), kMaxEntries, ignored, [](const v1::FixedLine& line) {
    return GuestFixedFile::Line{line.line(), Line(line.before()), Line(line.after())};
  });
  return file;
}

GuestFixCommand FromProto(const v1::FixCommand& proto) {
  bool ignored = false;
  return {Some(proto.arguments(), kMaxPerEntry, ignored, Path), proto.exit_status(),
          Printable(proto.output(), kMaxOutputBytes)};
}

}  // namespace

GuestPreflight FromProto(const v1::PreflightResponse& proto) {
  GuestPreflight out;
  out.kernel_release = GuestName(proto.kernel_release());
  out.boot_id = GuestName(proto.boot_id());
  if (proto.kernel_major() != 0) {
    out.kernel = GuestKernelVersion{proto.kernel_major(), proto.kernel_minor()};
  }
  bool& cut = out.truncated;
  cut = proto.truncated();
  out.initramfs_tool = FromProto(proto.initramfs_tool());
  out.kernels = Some(proto.kernels(), kMaxKernels, cut,
                     [](const v1::KernelModules& kernel) { return FromProto(kernel); });
  out.modules_policy = GuestName(proto.initramfs_config().modules_policy());
  out.host_only = GuestName(proto.initramfs_config().host_only());
  out.virtio_scsi_listed = proto.initramfs_config().virtio_scsi_listed();
  out.sd_mod_listed = proto.initramfs_config().sd_mod_listed();
  out.names = Some(proto.names(), kMaxEntries, cut,
                   [](const v1::NamedDevice& named) { return FromProto(named); });
  out.crypt_devices =
      Some(proto.crypt_devices(), kMaxEntries, cut, [](const v1::CryptDevice& device) {
        return GuestCryptDevice{GuestName(device.name()), GuestName(device.dm_name()),
                                FromProto(device.passes_discards()),
                                FromProto(device.crypttab_discard())};
      });
  out.lvm_issue_discards = FromProto(proto.lvm_issue_discards());
  out.raid_arrays = Some(proto.raid_arrays(), kMaxEntries, cut, [&](const v1::RaidArray& raid) {
    return GuestRaidArray{GuestName(raid.name()), GuestName(raid.level()),
                          Some(raid.members(), kMaxPerEntry, cut, GuestName),
                          FromProto(raid.passes_discards())};
  });
  out.mounts = Some(proto.mounts(), kMaxEntries, cut, [&](const v1::MountIdentity& mount) {
    return GuestMount{Path(mount.source()), GuestName(mount.uuid()), GuestName(mount.type()),
                      Some(mount.mount_points(), kMaxPerEntry, cut, Path),
                      FromProto(mount.discard_option())};
  });
  out.fstrim_timer = FromProto(proto.fstrim_timer());
  out.boot_disks = Some(proto.boot_disks(), kMaxPerEntry, cut, GuestName);
  out.unread_files = Some(proto.unread_files(), kMaxEntries, cut, Path);
  out.boot_configs = Some(proto.boot_configs(), kMaxEntries, cut, Path);
  return out;
}

absl::StatusOr<GuestMarker> FromProto(const v1::WriteMarkerResponse& proto) {
  GuestMarker marker;
  if (proto.id().size() != kMarkerIdBytes || proto.size_bytes() == 0 ||
      proto.size_bytes() > kMaxMarkerBytes) {
    return absl::InvalidArgumentError("WriteMarker: the agent's answer names no marker");
  }
  marker.id = proto.id();
  marker.size = proto.size_bytes();
  if (!proto.extents_known() || proto.disk().empty() || proto.extents_size() > kMaxEntries ||
      proto.start_bytes() > kMaxGuestOffset) {
    return marker;
  }
  uint64_t sum = 0;
  for (const v1::MarkerExtent& extent : proto.extents()) {
    if (extent.offset_bytes() > kMaxGuestOffset || extent.length_bytes() > kMaxMarkerBytes) {
      return GuestMarker{marker.id, marker.size, {}, ""};
    }
    sum += extent.length_bytes();
    marker.extents.push_back({proto.start_bytes() + extent.offset_bytes(), extent.length_bytes()});
  }
  // Not the whole marker, or more than it: then the guest does not know where it is.
  if (sum < marker.size || sum > 2 * kMaxMarkerBytes) marker.extents.clear();
  if (!marker.extents.empty()) marker.disk = GuestName(proto.disk());
  return marker;
}

GuestMarkerDiscard FromProto(const v1::DiscardMarkerResponse& proto) {
  GuestMarkerDiscard discard = {proto.trimmed_bytes(), GuestName(proto.error_name()),
                                proto.whole_filesystem()};
  if (proto.error_number() != 0 && discard.error_name.empty()) discard.error_name = "unknown";
  return discard;
}

absl::StatusOr<GuestFreeMap> FromProto(const v1::ReadFreeMapResponse& proto) {
  constexpr int kMaxRuns = 65536;
  constexpr uint64_t kSector = 512;
  constexpr uint64_t kMaxSector = kMaxGuestOffset / kSector;
  const absl::Status nonsense = absl::InvalidArgumentError("ReadFreeMap: that is no map of a disk");
  if (proto.gap_sectors_size() != proto.length_sectors_size() ||
      proto.gap_sectors_size() > kMaxRuns)
    return nonsense;
  GuestFreeMap map;
  map.disk = GuestName(proto.disk());
  uint64_t at = 0;
  for (int i = 0; i < proto.gap_sectors_size(); ++i) {
    const uint64_t gap = proto.gap_sectors(i);
    const uint64_t length = proto.length_sectors(i);
    if (gap > kMaxSector || length > kMaxSector || at > kMaxSector || length == 0) return nonsense;
    map.runs.push_back({(at + gap) * kSector, (at + gap + length) * kSector});
    at += gap + length;
  }
  return map;
}

GuestFix FromProto(const v1::FixGuestResponse& proto) {
  bool ignored = false;
  GuestFix fix;
  fix.result = FromProto(proto.result());
  fix.files = Some(proto.files(), kMaxEntries, ignored,
                   [](const v1::FixedFile& file) { return FromProto(file); });
  fix.commands = Some(proto.commands(), kMaxPerEntry, ignored,
                      [](const v1::FixCommand& command) { return FromProto(command); });
  fix.refusals = Some(proto.refusals(), kMaxEntries, ignored, Line);
  return fix;
}

}  // namespace virt_reclaim
