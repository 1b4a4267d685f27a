#include "guest-config/device_names.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "guest-config/initramfs.h"

namespace virt_reclaim::agent {
namespace {

// A disk that comes to the SCSI bus may take the letter of one that is there already, and one that
// leaves SATA or USB loses the names of both.
constexpr absl::string_view kNodes[] = {"/dev/vd", "/dev/sd"};
constexpr absl::string_view kLinks[] = {"/dev/disk/by-path/", "/dev/disk/by-id/virtio-",
                                        "/dev/disk/by-id/ata-", "/dev/disk/by-id/usb-"};
constexpr size_t kMaxGrubConfigBytes = size_t{4} << 20;

bool IsWord(char c) { return absl::ascii_isalnum(c) || c == '_'; }
// A link's name. Not '\': udev writes \x2f, and fstab would read it once more.
bool IsLinkName(char c) { return IsWord(c) || c == '-' || c == '.' || c == ':' || c == '+'; }

// Length of the name at the front of `text`; 0: there is none.
size_t NameLength(absl::string_view text) {
  for (const absl::string_view link : kLinks) {
    if (!absl::StartsWith(text, link)) continue;
    size_t length = link.size();
    while (length < text.size() && IsLinkName(text[length])) ++length;
    return length;
  }
  const auto* const node =
      std::find_if(std::begin(kNodes), std::end(kNodes),
                   [&](absl::string_view prefix) { return absl::StartsWith(text, prefix); });
  if (node == std::end(kNodes)) return 0;
  size_t length = node->size();
  while (length < text.size() && absl::ascii_islower(text[length])) ++length;
  const size_t letters = length - node->size();
  if (letters > 3) return 0;  // /dev/vdagent
  while (letters > 0 && length < text.size() && absl::ascii_isdigit(text[length])) ++length;
  // /dev/vda-x, /dev/vd_x: somebody's own names.
  if (length < text.size() && (IsWord(text[length]) || text[length] == '-')) return 0;
  return length;
}

// How a configuration is read: which lines count, and where in a line a name may be replaced.
bool IsComment(absl::string_view line) {
  const absl::string_view text = absl::StripLeadingAsciiWhitespace(line);
  return text.empty() || text[0] == '#';
}

// Whether `offset` is where field `index` (from 0) of a white-space separated line begins and
// `end` where it ends.
bool IsField(absl::string_view line, size_t index, size_t offset, size_t end) {
  size_t at = 0;
  for (size_t field = 0;; ++field) {
    while (at < line.size() && absl::ascii_isspace(line[at])) ++at;
    if (at == line.size()) return false;
    const size_t begin = at;
    while (at < line.size() && !absl::ascii_isspace(line[at])) ++at;
    if (field == index) return begin == offset && at == end;
  }
}

// root=NAME or resume=NAME as a word of a kernel command line, also in quotes of a shell.
bool IsKernelArgument(absl::string_view line, size_t offset, size_t end) {
  const absl::string_view before = line.substr(0, offset);
  for (const absl::string_view key : {"root=", "resume="}) {
    if (!absl::EndsWith(before, key)) continue;
    const size_t start = before.size() - key.size();
    const bool begins = start == 0 || absl::ascii_isspace(before[start - 1]) ||
                        before[start - 1] == '"' || before[start - 1] == '\'';
    const bool ends = end == line.size() || absl::ascii_isspace(line[end]) || line[end] == '"' ||
                      line[end] == '\'';
    return begins && ends;
  }
  return false;
}

bool IsFixable(NameSource source, absl::string_view line, const FoundName& found) {
  const size_t end = found.offset + found.name.size();
  switch (source) {
    case NameSource::kFstab:
      return IsField(line, 0, found.offset, end);
    case NameSource::kCrypttab:
      return IsField(line, 1, found.offset, end);
    case NameSource::kGrubDefault:
    case NameSource::kGrubConfig:
    case NameSource::kKernelCommandLine:
    case NameSource::kLoaderEntry:
      return IsKernelArgument(line, found.offset, end);
    case NameSource::kInitramfsResume: {
      const absl::string_view before =
          absl::StripLeadingAsciiWhitespace(line.substr(0, found.offset));
      const absl::string_view rest = absl::StripAsciiWhitespace(line.substr(end));
      return before == "RESUME=" && rest.empty();
    }
    default:
      return false;  // of a form that knows no UUID
  }
}

// "KEY=ID"; empty when it is none that could stand in a file: whoever makes a filesystem chooses
// its UUID.
std::string Tag(absl::string_view key, const std::string& id) {
  const bool plain =
      std::all_of(id.begin(), id.end(), [](char c) { return absl::ascii_isalnum(c) || c == '-'; });
  return id.empty() || !plain ? "" : absl::StrCat(key, "=", id);
}

std::string Replacement(NameSource source, const DeviceIds& ids) {
  const std::string uuid = Tag("UUID", ids.uuid);
  const std::string part = Tag("PARTUUID", ids.part_uuid);
  // A UUID of a swap that crypttab makes anew at each start would be another one next time: only
  // LUKS has one that stays.
  if (source == NameSource::kCrypttab) return ids.type == "crypto_LUKS" ? uuid : part;
  const bool mountable = ids.usage == "filesystem" || ids.type == "swap";
  return mountable && !uuid.empty() ? uuid : part;
}

std::string WordAround(absl::string_view line, const FoundName& found) {
  size_t begin = found.offset;
  while (begin > 0 && !absl::ascii_isspace(line[begin - 1])) --begin;
  const absl::string_view word = line.substr(begin);
  return std::string(word.substr(0, word.find_first_of(" \t\n")));
}

struct Place {
  NameSource source;
  absl::string_view path;
};
constexpr Place kFiles[] = {
    {NameSource::kRunningCommandLine, "/proc/cmdline"},
    {NameSource::kFstab, "/etc/fstab"},
    {NameSource::kCrypttab, "/etc/crypttab"},
    {NameSource::kGrubDefault, "/etc/default/grub"},
    {NameSource::kGrubConfig, "/boot/grub/grub.cfg"},
    {NameSource::kGrubConfig, "/boot/grub2/grub.cfg"},
    {NameSource::kKernelCommandLine, "/etc/kernel/cmdline"},
    {NameSource::kKernelCommandLine, "/etc/dracut.conf"},
    {NameSource::kInitramfsResume, "/etc/initramfs-tools/initramfs.conf"},
    {NameSource::kLvmConfig, "/etc/lvm/lvm.conf"},
    {NameSource::kLvmConfig, "/etc/lvm/lvmlocal.conf"},
    {NameSource::kGrubDeviceMap, "/boot/grub/device.map"},
    {NameSource::kGrubDeviceMap, "/boot/grub2/device.map"},
};
constexpr Place kDirectories[] = {
    {NameSource::kGrubDefault, "/etc/default/grub.d"},
    {NameSource::kLoaderEntry, "/boot/loader/entries"},
    {NameSource::kLoaderEntry, "/boot/efi/loader/entries"},
    {NameSource::kLoaderEntry, "/efi/loader/entries"},
    {NameSource::kInitramfsResume, "/etc/initramfs-tools/conf.d"},
    {NameSource::kKernelCommandLine, "/etc/dracut.conf.d"},
};
// kernel_cmdline= and add_device= of these become part of each initramfs that dracut makes; they
// are shell, and nobody but their author edits them.
constexpr absl::string_view kDracutConfig = "/etc/dracut.conf";

void ReadPlace(const ConfigFiles& files, NameSource source, const std::string& path,
               const IdentifyDevice& identify, NamedDevices& out) {
  const auto text = files.Read(path, kMaxGrubConfigBytes);
  if (text.ok()) {
    const bool boots = source == NameSource::kGrubConfig || source == NameSource::kLoaderEntry;
    if (boots && out.boot_configs.size() < kMaxPreflightEntries) out.boot_configs.push_back(path);
    return FindNamesInText(*text, source, path, identify, out);
  }
  if (absl::IsNotFound(text.status())) return;
  if (out.unread.size() == kMaxPreflightEntries) {
    out.truncated = true;
    return;
  }
  out.unread.push_back(absl::StrCat(path, ": ", text.status().message()));
}

}  // namespace

absl::string_view NameSourceName(NameSource source) {
  switch (source) {
    case NameSource::kRunningCommandLine:
      return "running-command-line";
    case NameSource::kFstab:
      return "fstab";
    case NameSource::kCrypttab:
      return "crypttab";
    case NameSource::kGrubDefault:
      return "grub-default";
    case NameSource::kGrubConfig:
      return "grub-config";
    case NameSource::kKernelCommandLine:
      return "kernel-command-line";
    case NameSource::kLoaderEntry:
      return "loader-entry";
    case NameSource::kLvmConfig:
      return "lvm-config";
    case NameSource::kGrubDeviceMap:
      return "grub-device-map";
    case NameSource::kInitramfsResume:
      return "initramfs-resume";
  }
  return "unknown";
}

std::vector<FoundName> FindDeviceNames(absl::string_view line) {
  std::vector<FoundName> found;
  for (size_t at = line.find("/dev/"); at != absl::string_view::npos;
       at = line.find("/dev/", at + 1)) {
    // "/chroot/dev/vda" is another file.
    if (at > 0 && (IsWord(line[at - 1]) || line[at - 1] == '.' || line[at - 1] == '-')) continue;
    if (const size_t length = NameLength(line.substr(at)); length > 0) {
      found.push_back({at, std::string(line.substr(at, length))});
    }
  }
  return found;
}

void FindNamesInText(absl::string_view text, NameSource source, const std::string& file,
                     const IdentifyDevice& identify, NamedDevices& out) {
  uint32_t number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    if (source != NameSource::kRunningCommandLine && IsComment(line)) continue;
    for (const FoundName& found : FindDeviceNames(line)) {
      if (out.names.size() == kMaxPreflightEntries) {
        out.truncated = true;
        return;
      }
      NamedDevice named;
      named.source = source;
      named.file = file;
      named.line = number;
      named.text = std::string(line);
      named.offset = found.offset;
      // The rest of a command line may be a password; files of the guest's stay what they are.
      if (source == NameSource::kRunningCommandLine) named.text = WordAround(line, found);
      named.name = found.name;
      if (const auto ids = identify(found.name)) named.replacement = Replacement(source, *ids);
      named.fixable = !named.replacement.empty() && IsFixable(source, line, found);
      out.names.push_back(std::move(named));
    }
  }
}

std::vector<std::string> MakeGrubConfig(const ConfigFiles& files) {
  if (std::string program = FindProgram(files, "update-grub"); !program.empty()) {
    return {std::move(program)};
  }
  for (const absl::string_view version : {"2", ""}) {
    std::string program = FindProgram(files, absl::StrCat("grub", version, "-mkconfig"));
    std::string config = absl::StrCat("/boot/grub", version, "/grub.cfg");
    if (!program.empty() && files.Exists(config))
      return {std::move(program), "-o", std::move(config)};
  }
  return {};
}

NamedDevices ReadNamedDevices(const ConfigFiles& files, const IdentifyDevice& identify) {
  NamedDevices out;
  for (const Place& place : kFiles) {
    ReadPlace(files, place.source, std::string(place.path), identify, out);
  }
  for (const Place& place : kDirectories) {
    const std::string directory(place.path);
    for (const std::string& name : files.List(directory)) {
      if (absl::StrContains(name, ".virt-reclaim-bak") || absl::StrContains(name, ".dpkg-")) {
        continue;
      }
      const bool conf = absl::EndsWith(name, ".conf") || absl::EndsWith(name, ".cfg");
      if (place.source != NameSource::kInitramfsResume && !conf) continue;
      ReadPlace(files, place.source, absl::StrCat(directory, "/", name), identify, out);
    }
  }
  for (NamedDevice& named : out.names) {
    if (absl::StartsWith(named.file, kDracutConfig)) named.fixable = false;
  }
  if (MakeGrubConfig(files).empty()) {
    // Nobody edits what a program makes; without the program it stays as it is.
    for (NamedDevice& named : out.names) {
      if (named.source == NameSource::kGrubConfig) named.fixable = false;
    }
  }
  return out;
}

}  // namespace virt_reclaim::agent
