// What `preflight` prints (preflight.h): lines for people, JSON for programs. Pure.
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/escape.h"
#include "guest-agent/json.h"
#include "guest-agent/preflight.h"

namespace virt_reclaim::agent {
namespace {

std::string Row(absl::string_view key, absl::string_view value) {
  const std::string padding(key.size() < 20 ? 20 - key.size() : 1, ' ');
  return absl::StrCat(key, padding, value.empty() ? "-" : value, "\n");
}

std::string Joined(const std::vector<std::string>& words) {
  return Printable(absl::StrJoin(words, ", "));
}

std::string NameLine(const NamedDevice& named) {
  std::string hint = "no lasting name is known";
  if (!named.replacement.empty()) {
    hint = absl::StrCat(named.fixable ? "could be " : "means ", Printable(named.replacement));
  }
  return Row("name by path", absl::StrCat(Printable(named.file), ":", named.line, ": ",
                                          Printable(named.name), " (", hint, ")"));
}

void WriteKernels(const Preflight& preflight, JsonWriter& json) {
  json.Key("kernels");
  json.BeginArray();
  for (const KernelModules& kernel : preflight.initramfs.kernels) {
    json.BeginObject();
    json.Field("release", kernel.release);
    json.Flag("running", kernel.running);
    json.Flag("newest", kernel.newest);
    json.Field("initramfs", kernel.initramfs);
    json.Field("virtio_scsi", ModuleStateName(kernel.virtio_scsi));
    json.Field("sd_mod", ModuleStateName(kernel.sd_mod));
    json.Field("virtio_blk", ModuleStateName(kernel.virtio_blk));
    json.Field("ahci", ModuleStateName(kernel.ahci));
    json.Field("ata_piix", ModuleStateName(kernel.ata_piix));
    json.EndObject();
  }
  json.EndArray();
}

void WriteNames(const Preflight& preflight, JsonWriter& json) {
  json.Key("names");
  json.BeginArray();
  for (const NamedDevice& named : preflight.names.names) {
    json.BeginObject();
    json.Field("source", NameSourceName(named.source));
    json.Field("file", named.file);
    json.Field("line", uint64_t{named.line});
    json.Field("text", absl::string_view(named.text).substr(0, 1024));
    json.Field("name", named.name);
    json.Field("replacement", named.replacement);
    json.Flag("fixable", named.fixable);
    json.EndObject();
  }
  json.EndArray();
}

void WriteLayers(const Preflight& preflight, JsonWriter& json) {
  json.Key("crypt_devices");
  json.BeginArray();
  for (const CryptDevice& device : preflight.crypt_devices) {
    json.BeginObject();
    json.Field("name", device.name);
    json.Field("dm_name", device.dm_name);
    json.Field("passes_discards", DiscardSettingName(device.passes_discards));
    json.Field("crypttab_discard", DiscardSettingName(device.crypttab_discard));
    json.EndObject();
  }
  json.EndArray();
  json.Key("raid_arrays");
  json.BeginArray();
  for (const RaidArray& array : preflight.raid_arrays) {
    json.BeginObject();
    json.Field("name", array.name);
    json.Field("level", array.level);
    json.Strings("members", array.members);
    json.Field("passes_discards", DiscardSettingName(array.passes_discards));
    json.EndObject();
  }
  json.EndArray();
}

void WriteMounts(const Preflight& preflight, JsonWriter& json) {
  json.Key("mounts");
  json.BeginArray();
  for (const MountIdentity& mount : preflight.mounts) {
    json.BeginObject();
    json.Field("source", mount.source);
    json.Field("uuid", mount.uuid);
    json.Field("type", mount.type);
    json.Strings("mount_points", mount.mount_points);
    json.Field("discard_option", DiscardSettingName(mount.discard_option));
    json.EndObject();
  }
  json.EndArray();
}

}  // namespace

std::string PreflightText(const Preflight& preflight) {
  std::string out = Row("kernel", Printable(preflight.kernel_release));
  absl::StrAppend(&out, Row("initramfs tool", InitramfsToolName(preflight.initramfs.tool)));
  for (const KernelModules& kernel : preflight.initramfs.kernels) {
    absl::StrAppend(
        &out, Row("drivers", absl::StrCat(Printable(kernel.release),
                                          kernel.running ? " (running)" : " (newest)",
                                          ": virtio_scsi ", ModuleStateName(kernel.virtio_scsi),
                                          ", sd_mod ", ModuleStateName(kernel.sd_mod),
                                          ", virtio_blk ", ModuleStateName(kernel.virtio_blk),
                                          ", ahci ", ModuleStateName(kernel.ahci), ", ata_piix ",
                                          ModuleStateName(kernel.ata_piix))));
  }
  absl::StrAppend(&out, Row("boot disks", Joined(preflight.boot_disks)));
  for (const NamedDevice& named : preflight.names.names) absl::StrAppend(&out, NameLine(named));
  if (preflight.names.names.empty()) absl::StrAppend(&out, Row("name by path", "none"));
  for (const CryptDevice& device : preflight.crypt_devices) {
    absl::StrAppend(
        &out,
        Row("dm-crypt", absl::StrCat(Printable(device.dm_name), ": discards ",
                                     DiscardSettingName(device.passes_discards), ", crypttab ",
                                     DiscardSettingName(device.crypttab_discard))));
  }
  for (const RaidArray& array : preflight.raid_arrays) {
    absl::StrAppend(&out,
                    Row("md", absl::StrCat(Printable(array.name), " (", Printable(array.level),
                                           "): ", Joined(array.members), ": discards ",
                                           DiscardSettingName(array.passes_discards))));
  }
  absl::StrAppend(&out,
                  Row("LVM issue_discards", DiscardSettingName(preflight.lvm_issue_discards)));
  absl::StrAppend(&out, Row("fstrim.timer", DiscardSettingName(preflight.fstrim_timer)));
  for (const std::string& file : preflight.names.unread) {
    absl::StrAppend(&out, Row("not read", Printable(file)));
  }
  return out;
}

std::string PreflightJson(const Preflight& preflight) {
  JsonWriter json;
  json.BeginObject();
  json.Field("schema_version", kSchemaVersion);
  json.Field("kernel_release", preflight.kernel_release);
  json.Field("kernel_major", uint64_t{preflight.kernel_major});
  json.Field("kernel_minor", uint64_t{preflight.kernel_minor});
  json.Field("boot_id", preflight.boot_id);
  json.Field("initramfs_tool", InitramfsToolName(preflight.initramfs.tool));
  WriteKernels(preflight, json);
  const InitramfsConfig& config = preflight.initramfs.config;
  json.Key("initramfs_config");
  json.BeginObject();
  json.Field("modules_policy", config.modules_policy);
  json.Field("host_only", config.host_only);
  json.Flag("virtio_scsi_listed", config.virtio_scsi_listed);
  json.Flag("sd_mod_listed", config.sd_mod_listed);
  json.EndObject();
  WriteNames(preflight, json);
  WriteLayers(preflight, json);
  json.Field("lvm_issue_discards", DiscardSettingName(preflight.lvm_issue_discards));
  WriteMounts(preflight, json);
  json.Field("fstrim_timer", DiscardSettingName(preflight.fstrim_timer));
  json.Strings("boot_disks", preflight.boot_disks);
  json.Strings("unread_files", preflight.names.unread);
  json.Strings("boot_configs", preflight.names.boot_configs);
  json.Flag("truncated", preflight.truncated);
  json.EndObject();
  return json.Take();
}

}  // namespace virt_reclaim::agent
