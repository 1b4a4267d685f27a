#include "guest-config/preflight_proto.h"

#include "base/utf8.h"

namespace virt_reclaim::agent {
namespace {

constexpr size_t kMaxNameBytes = 256;
constexpr size_t kMaxPathBytes = 1024;
constexpr size_t kMaxLineBytes = 1024;

static_assert(static_cast<int>(InitramfsTool::kMkinitcpio) == v1::INITRAMFS_TOOL_MKINITCPIO);
static_assert(static_cast<int>(InitramfsTool::kNoneKnown) == v1::INITRAMFS_TOOL_NONE_KNOWN);
static_assert(static_cast<int>(InitramfsTool::kDracut) == v1::INITRAMFS_TOOL_DRACUT);
static_assert(static_cast<int>(ModuleState::kBuiltIn) == v1::MODULE_STATE_BUILT_IN);
static_assert(static_cast<int>(ModuleState::kInInitramfs) == v1::MODULE_STATE_IN_INITRAMFS);
static_assert(static_cast<int>(ModuleState::kModuleOnly) == v1::MODULE_STATE_MODULE_ONLY);
static_assert(static_cast<int>(ModuleState::kMissing) == v1::MODULE_STATE_MISSING);
static_assert(static_cast<int>(NameSource::kRunningCommandLine) ==
              v1::NAME_SOURCE_RUNNING_COMMAND_LINE);
static_assert(static_cast<int>(NameSource::kInitramfsResume) == v1::NAME_SOURCE_INITRAMFS_RESUME);
static_assert(static_cast<int>(NameSource::kGrubConfig) == v1::NAME_SOURCE_GRUB_CONFIG);
static_assert(static_cast<int>(NameSource::kLvmConfig) == v1::NAME_SOURCE_LVM_CONFIG);
static_assert(static_cast<int>(DiscardSetting::kEnabled) == v1::DISCARD_SETTING_ENABLED);
static_assert(static_cast<int>(DiscardSetting::kDisabled) == v1::DISCARD_SETTING_DISABLED);

v1::DiscardSetting ToProto(DiscardSetting setting) {
  return static_cast<v1::DiscardSetting>(setting);
}

void ToProto(const InitramfsFacts& facts, v1::PreflightResponse& out) {
  out.set_initramfs_tool(static_cast<v1::InitramfsTool>(facts.tool));
  for (const KernelModules& kernel : facts.kernels) {
    v1::KernelModules& message = *out.add_kernels();
    message.set_release(ProtoName(kernel.release));
    message.set_running(kernel.running);
    message.set_newest(kernel.newest);
    message.set_initramfs(ProtoPath(kernel.initramfs));
    message.set_virtio_scsi(static_cast<v1::ModuleState>(kernel.virtio_scsi));
    message.set_sd_mod(static_cast<v1::ModuleState>(kernel.sd_mod));
    message.set_virtio_blk(static_cast<v1::ModuleState>(kernel.virtio_blk));
    message.set_ahci(static_cast<v1::ModuleState>(kernel.ahci));
    message.set_ata_piix(static_cast<v1::ModuleState>(kernel.ata_piix));
  }
  v1::InitramfsConfig& config = *out.mutable_initramfs_config();
  config.set_modules_policy(ProtoName(facts.config.modules_policy));
  config.set_host_only(ProtoName(facts.config.host_only));
  config.set_virtio_scsi_listed(facts.config.virtio_scsi_listed);
  config.set_sd_mod_listed(facts.config.sd_mod_listed);
}

}  // namespace

std::string ProtoName(absl::string_view text) { return Utf8(text, kMaxNameBytes); }
std::string ProtoPath(absl::string_view text) { return Utf8(text, kMaxPathBytes); }
std::string ProtoLine(absl::string_view text) { return Utf8(text, kMaxLineBytes); }

void ToProto(const Preflight& preflight, v1::PreflightResponse& out) {
  out.set_truncated(preflight.truncated);
  out.set_kernel_release(ProtoName(preflight.kernel_release));
  out.set_kernel_major(preflight.kernel_major);
  out.set_kernel_minor(preflight.kernel_minor);
  out.set_boot_id(ProtoName(preflight.boot_id));
  ToProto(preflight.initramfs, out);
  ResponseRoom room;
  // False, and the response says so, when there is no more room.
  const auto add = [&](const auto& message, auto* list) {
    if (!room.Has(message)) return out.set_truncated(true);
    *list->Add() = message;
  };
  for (const NamedDevice& named : preflight.names.names) {
    v1::NamedDevice message;
    message.set_source(static_cast<v1::NameSource>(named.source));
    message.set_file(ProtoPath(named.file));
    message.set_line(named.line);
    message.set_text(ProtoLine(named.text));
    message.set_name(ProtoName(named.name));
    message.set_replacement(ProtoName(named.replacement));
    message.set_fixable(named.fixable);
    add(message, out.mutable_names());
  }
  for (const CryptDevice& device : preflight.crypt_devices) {
    v1::CryptDevice message;
    message.set_name(ProtoName(device.name));
    message.set_dm_name(ProtoName(device.dm_name));
    message.set_passes_discards(ToProto(device.passes_discards));
    message.set_crypttab_discard(ToProto(device.crypttab_discard));
    add(message, out.mutable_crypt_devices());
  }
  out.set_lvm_issue_discards(ToProto(preflight.lvm_issue_discards));
  for (const RaidArray& array : preflight.raid_arrays) {
    v1::RaidArray message;
    message.set_name(ProtoName(array.name));
    message.set_level(ProtoName(array.level));
    for (const std::string& member : array.members) message.add_members(ProtoName(member));
    message.set_passes_discards(ToProto(array.passes_discards));
    add(message, out.mutable_raid_arrays());
  }
  for (const MountIdentity& mount : preflight.mounts) {
    v1::MountIdentity message;
    message.set_source(ProtoPath(mount.source));
    message.set_uuid(ProtoName(mount.uuid));
    message.set_type(ProtoName(mount.type));
    for (const std::string& point : mount.mount_points) message.add_mount_points(ProtoPath(point));
    message.set_discard_option(ToProto(mount.discard_option));
    add(message, out.mutable_mounts());
  }
  out.set_fstrim_timer(ToProto(preflight.fstrim_timer));
  for (const std::string& disk : preflight.boot_disks) {
    if (out.boot_disks_size() < 64) out.add_boot_disks(ProtoName(disk));
  }
  for (const std::string& file : preflight.names.unread) {
    if (out.unread_files_size() < 32) out.add_unread_files(ProtoName(file));
  }
  for (const std::string& file : preflight.names.boot_configs) {
    if (out.boot_configs_size() < 32) out.add_boot_configs(ProtoName(file));
  }
}

}  // namespace virt_reclaim::agent
