#include "guest-agent/preflight.h"

#include <sys/utsname.h>

#include <algorithm>
#include <map>
#include <span>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status.h"

namespace virt_reclaim::agent {
namespace {

constexpr size_t kMaxScannedDevices = 4096;

bool HasOption(absl::string_view options, absl::string_view option) {
  for (const absl::string_view word : absl::StrSplit(options, ',')) {
    // "discard=async" of btrfs is one as well.
    if (word.substr(0, word.find('=')) == option) return true;
  }
  return false;
}

bool HasBootMount(const Filesystem& filesystem, absl::string_view mount_point) {
  const auto& points = filesystem.mount_points;
  return std::find(points.begin(), points.end(), mount_point) != points.end();
}

// dm-crypt, LVM and md devices, whether something is mounted on them or not.
void ReadLayers(const std::string& sysfs, Preflight& out) {
  for (const dev_t number : AllBlockDevices(kMaxScannedDevices, sysfs)) {
    const DeviceChain chain = ReadDeviceChain(std::span(&number, 1), sysfs);
    if (chain.devices.empty()) continue;
    const BlockDevice& device = chain.devices.front();
    if (device.kind != DeviceKind::kDmCrypt && device.kind != DeviceKind::kMd) continue;
    std::vector<std::string> members;
    bool members_take = true;
    bool known = !device.parents.empty();
    for (const std::string& parent : device.parents) {
      const auto found =
          std::find_if(chain.devices.begin(), chain.devices.end(),
                       [&](const BlockDevice& below) { return below.name == parent; });
      known = known && found != chain.devices.end();
      if (found == chain.devices.end()) continue;
      members.push_back(found->name);
      members_take = members_take && found->discard_max_bytes > 0;
    }
    DiscardSetting passes = DiscardSetting::kEnabled;
    if (device.discard_max_bytes == 0 || !members_take) passes = DiscardSetting::kDisabled;
    if (!known) passes = DiscardSetting::kUnknown;
    if (device.kind == DeviceKind::kMd) {
      if (out.raid_arrays.size() == kMaxPreflightEntries) {
        out.truncated = true;
        continue;
      }
      out.raid_arrays.push_back({device.name, device.md_level, std::move(members), passes});
      continue;
    }
    // Over a disk that takes none it has none to pass, whatever its flag says: not known.
    if (known && !members_take) passes = DiscardSetting::kUnknown;
    if (out.crypt_devices.size() == kMaxPreflightEntries) {
      out.truncated = true;
      continue;
    }
    out.crypt_devices.push_back({device.name, device.dm_name, passes, DiscardSetting::kUnknown});
  }
}

// crypttab(5): name, device, key, options.
void ReadCrypttab(const RootFiles& files, Preflight& out) {
  const auto text = files.Read("/etc/crypttab");
  if (!text.ok()) return;
  for (const absl::string_view line : absl::StrSplit(*text, '\n')) {
    const std::vector<absl::string_view> fields =
        absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    if (fields.size() < 2 || fields[0][0] == '#') continue;
    const bool discard = fields.size() > 3 && (HasOption(fields[3], "discard") ||
                                               HasOption(fields[3], "allow-discards"));
    auto found = std::find_if(
        out.crypt_devices.begin(), out.crypt_devices.end(),
        [&](const CryptDevice& device) { return absl::string_view(device.dm_name) == fields[0]; });
    if (found == out.crypt_devices.end()) {
      if (out.crypt_devices.size() == kMaxPreflightEntries) {
        out.truncated = true;
        return;
      }
      out.crypt_devices.push_back(
          {"", std::string(fields[0]), DiscardSetting::kUnknown, DiscardSetting::kUnknown});
      found = std::prev(out.crypt_devices.end());
    }
    found->crypttab_discard = discard ? DiscardSetting::kEnabled : DiscardSetting::kDisabled;
  }
}

// lvm.conf(5): the last setting counts; lvmlocal.conf comes after lvm.conf.
DiscardSetting ReadIssueDiscards(const RootFiles& files) {
  DiscardSetting setting = DiscardSetting::kUnknown;
  for (const char* path : {"/etc/lvm/lvm.conf", "/etc/lvm/lvmlocal.conf"}) {
    const auto text = files.Read(path);
    if (!text.ok()) continue;
    for (absl::string_view line : absl::StrSplit(*text, '\n')) {
      line = absl::StripAsciiWhitespace(line.substr(0, line.find('#')));
      if (absl::StartsWith(line, "devices/")) line.remove_prefix(8);
      if (!absl::StartsWith(line, "issue_discards")) continue;
      const size_t equals = line.find('=');
      if (equals == absl::string_view::npos) continue;
      const absl::string_view value = absl::StripAsciiWhitespace(line.substr(equals + 1));
      if (value == "1") setting = DiscardSetting::kEnabled;
      if (value == "0") setting = DiscardSetting::kDisabled;
    }
  }
  return setting;
}

// As systemctl is-enabled decides, from the links alone.
DiscardSetting ReadFstrimTimer(const RootFiles& files) {
  const std::string unit = "/etc/systemd/system/fstrim.timer";
  if (files.ReadLink(unit) == "/dev/null") return DiscardSetting::kDisabled;  // masked
  for (const char* directory :
       {"/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}) {
    // A link that leads nowhere enables nothing, but says what was meant.
    if (!files.ReadLink(absl::StrCat(directory, "/timers.target.wants/fstrim.timer")).empty()) {
      return DiscardSetting::kEnabled;
    }
  }
  for (const char* directory :
       {"/usr/lib/systemd/system", "/lib/systemd/system", "/etc/systemd/system"}) {
    if (files.Exists(absl::StrCat(directory, "/fstrim.timer"))) return DiscardSetting::kDisabled;
  }
  return DiscardSetting::kUnknown;
}

void ReadMountIdentities(const FilesystemList& list, Preflight& out) {
  out.truncated = out.truncated || list.truncated;
  for (const Filesystem& filesystem : list.filesystems) {
    if (filesystem.chain.devices.empty()) continue;
    if (out.mounts.size() == kMaxPreflightEntries) {
      out.truncated = true;
      break;
    }
    MountIdentity identity = {filesystem.source, filesystem.uuid, filesystem.type,
                              filesystem.mount_points, DiscardSetting::kUnknown};
    if (HasOption(filesystem.options, "discard")) {
      identity.discard_option = DiscardSetting::kEnabled;
    }
    if (HasOption(filesystem.options, "nodiscard")) {
      identity.discard_option = DiscardSetting::kDisabled;
    }
    out.mounts.push_back(std::move(identity));
    if (!HasBootMount(filesystem, "/") && !HasBootMount(filesystem, "/boot") &&
        !HasBootMount(filesystem, "/boot/efi")) {
      continue;
    }
    for (const std::string& disk : filesystem.Disks()) {
      if (std::find(out.boot_disks.begin(), out.boot_disks.end(), disk) == out.boot_disks.end()) {
        out.boot_disks.push_back(disk);
      }
    }
  }
}

}  // namespace

absl::string_view DiscardSettingName(DiscardSetting setting) {
  switch (setting) {
    case DiscardSetting::kEnabled:
      return "enabled";
    case DiscardSetting::kDisabled:
      return "disabled";
    case DiscardSetting::kUnknown:
      break;
  }
  return "unknown";
}

bool ParseKernelRelease(absl::string_view release, uint32_t& major, uint32_t& minor) {
  const size_t dot = release.find('.');
  if (dot == absl::string_view::npos) return false;
  const absl::string_view rest = release.substr(dot + 1);
  size_t digits = 0;
  while (digits < rest.size() && absl::ascii_isdigit(rest[digits])) ++digits;
  uint32_t parsed_major = 0;
  uint32_t parsed_minor = 0;
  if (dot > 5 || digits > 5 ||
      !std::all_of(release.begin(), release.begin() + dot,
                   [](char c) { return absl::ascii_isdigit(c); }) ||
      !absl::SimpleAtoi(release.substr(0, dot), &parsed_major) ||
      !absl::SimpleAtoi(rest.substr(0, digits), &parsed_minor)) {
    return false;
  }
  major = parsed_major;
  minor = parsed_minor;
  return true;
}

PreflightSources RealPreflightSources() {
  PreflightSources sources;
  utsname names = {};
  if (uname(&names) == 0) sources.kernel_release = names.release;
  sources.read_filesystems = [] { return ReadFilesystems(RealProbes()); };
  sources.identify = IdentifyRealDevice;
  sources.run = RunCommand;
  return sources;
}

absl::StatusOr<Preflight> ReadPreflight(const PreflightSources& sources) {
  VR_ASSIGN_OR_RETURN(const FilesystemList list, sources.read_filesystems());
  Preflight out;
  out.kernel_release = sources.kernel_release;
  ParseKernelRelease(out.kernel_release, out.kernel_major, out.kernel_minor);
  const auto boot_id = sources.files.Read("/proc/sys/kernel/random/boot_id", 256);
  out.boot_id = std::string(absl::StripAsciiWhitespace(boot_id.ok() ? *boot_id : ""));
  out.initramfs = ReadInitramfsFacts(sources.files, sources.kernel_release, sources.run);
  out.names = ReadNamedDevices(sources.files, sources.identify);
  out.truncated = out.names.truncated;
  ReadLayers(sources.sysfs, out);
  ReadCrypttab(sources.files, out);
  out.lvm_issue_discards = ReadIssueDiscards(sources.files);
  out.fstrim_timer = ReadFstrimTimer(sources.files);
  ReadMountIdentities(list, out);
  return out;
}

}  // namespace virt_reclaim::agent
