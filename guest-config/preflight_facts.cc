#include "guest-config/preflight_facts.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace virt_reclaim::agent {
namespace {

// crypttab(5): name, device, key, options.
void ReadCrypttab(const ConfigFiles& files, Preflight& out) {
  const auto text = files.Read("/etc/crypttab");
  if (!text.ok()) return;
  for (const std::vector<absl::string_view>& fields : TableLines(*text, 2)) {
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

// fstab(5): device, mount point, type, options. Only those that say something of discards.
void ReadFstabDiscards(const ConfigFiles& files, Preflight& out) {
  const auto text = files.Read("/etc/fstab");
  if (!text.ok()) return;
  for (const std::vector<absl::string_view>& fields : TableLines(*text, 4)) {
    if (fields[2] == "swap") continue;
    const bool discard = HasOption(fields[3], "discard");
    if (!discard && !HasOption(fields[3], "nodiscard")) continue;
    if (out.mounts.size() == kMaxPreflightEntries) {
      out.truncated = true;
      return;
    }
    out.mounts.push_back({std::string(fields[0]),
                          "",
                          std::string(fields[2]),
                          {std::string(fields[1])},
                          discard ? DiscardSetting::kEnabled : DiscardSetting::kDisabled});
  }
}

// lvm.conf(5): the last setting counts; lvmlocal.conf comes after lvm.conf.
DiscardSetting ReadIssueDiscards(const ConfigFiles& files) {
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
DiscardSetting ReadFstrimTimer(const ConfigFiles& files) {
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

}  // namespace

bool HasOption(absl::string_view options, absl::string_view option) {
  for (const absl::string_view word : absl::StrSplit(options, ',')) {
    // "discard=async" of btrfs is one as well.
    if (word.substr(0, word.find('=')) == option) return true;
  }
  return false;
}

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

void ReadConfiguration(const ConfigFiles& files, const std::string& running_release,
                       const IdentifyDevice& identify, const ListInitramfs& list, Preflight& out) {
  out.initramfs = ReadInitramfsFacts(files, running_release, list);
  out.kernel_release = running_release;
  if (running_release.empty() && !out.initramfs.kernels.empty()) {
    out.kernel_release = out.initramfs.kernels.front().release;
  }
  ParseKernelRelease(out.kernel_release, out.kernel_major, out.kernel_minor);
  out.names = ReadNamedDevices(files, identify);
  out.truncated = out.truncated || out.names.truncated || out.initramfs.truncated;
  ReadCrypttab(files, out);
  // Of a guest that runs, its mounts say what is in force.
  if (running_release.empty()) ReadFstabDiscards(files, out);
  out.lvm_issue_discards = ReadIssueDiscards(files);
  out.fstrim_timer = ReadFstrimTimer(files);
}

}  // namespace virt_reclaim::agent
