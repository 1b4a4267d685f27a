#include "guest-config/initramfs.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace virt_reclaim::agent {
namespace {

constexpr size_t kMaxModuleListBytes = size_t{8} << 20;  // modules.dep of a large kernel: 700 KiB

// Whether a line of `list` is the path of module `name` (with '_'): file names have '-' or '_', and
// may end with a compression's suffix. `list` is modules.builtin, modules.dep or a listing.
bool HasModule(absl::string_view list, absl::string_view name) {
  for (const absl::string_view line : absl::StrSplit(list, '\n')) {
    // modules.dep: "kernel/a.ko: kernel/b.ko"; lsinitrd: "-rw-r--r-- 1 root root 9 Jan 1 1970
    // path".
    absl::string_view path = line.substr(0, line.find(": "));
    if (!path.empty() && path.back() == ':') path.remove_suffix(1);
    path = path.substr(path.rfind(' ') + 1);
    path = path.substr(path.rfind('/') + 1);
    const size_t end = path.find(".ko");
    if (end != name.size()) continue;
    const bool same = std::equal(name.begin(), name.end(), path.begin(),
                                 [](char a, char b) { return a == (b == '-' ? '_' : b); });
    if (same) return true;
  }
  return false;
}

// The words of `KEY=value` lines of a shell's configuration, quotes taken away; the last one wins.
std::string ShellValue(absl::string_view text, absl::string_view key) {
  std::string value;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (!absl::StartsWith(line, key)) continue;
    absl::string_view rest = line.substr(key.size());
    if (absl::StartsWith(rest, "+=")) rest.remove_prefix(1);
    if (rest.empty() || rest[0] != '=') continue;
    rest = absl::StripAsciiWhitespace(rest.substr(1, rest.find('#', 1)));
    std::string words(rest.substr(0, 1024));
    words.erase(std::remove_if(words.begin(), words.end(),
                               [](char c) { return c == '"' || c == '\'' || c == '#'; }),
                words.end());
    value = std::string(absl::StripAsciiWhitespace(words));
  }
  return value;
}

bool HasWord(absl::string_view text, absl::string_view word) {
  const std::vector<absl::string_view> words =
      absl::StrSplit(text, absl::ByAnyChar(" \t()"), absl::SkipEmpty());
  return std::find(words.begin(), words.end(), word) != words.end();
}

// The files of a configuration, one after the other.
std::string ReadConfig(const ConfigFiles& files, const std::string& main,
                       const std::string& drop_ins, absl::string_view suffix) {
  std::string text = files.Read(main).value_or("");
  for (const std::string& name : files.List(drop_ins)) {
    if (!absl::EndsWith(name, suffix) || absl::StrContains(name, ".virt-reclaim-bak")) continue;
    absl::StrAppend(&text, "\n", files.Read(absl::StrCat(drop_ins, "/", name)).value_or(""));
    if (text.size() > kMaxConfigBytes) break;
  }
  return text;
}

InitramfsConfig ReadConfigOf(const ConfigFiles& files, InitramfsTool tool) {
  InitramfsConfig config;
  if (tool == InitramfsTool::kInitramfsTools) {
    config.modules_policy = ShellValue(
        ReadConfig(files, "/etc/initramfs-tools/initramfs.conf", "/etc/initramfs-tools/conf.d", ""),
        "MODULES");
    const std::string modules = files.Read("/etc/initramfs-tools/modules").value_or("");
    for (const absl::string_view line : absl::StrSplit(modules, '\n')) {
      const std::vector<absl::string_view> words =
          absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
      if (words.empty()) continue;
      config.virtio_scsi_listed = config.virtio_scsi_listed || words[0] == "virtio_scsi";
      config.sd_mod_listed = config.sd_mod_listed || words[0] == "sd_mod";
    }
  } else if (tool == InitramfsTool::kDracut) {
    const std::string text =
        absl::StrCat(ReadConfig(files, "/dev/null", "/usr/lib/dracut/dracut.conf.d", ".conf"),
                     ReadConfig(files, "/etc/dracut.conf", "/etc/dracut.conf.d", ".conf"));
    config.host_only = ShellValue(text, "hostonly");
    for (absl::string_view line : absl::StrSplit(text, '\n')) {
      line = absl::StripAsciiWhitespace(line);
      for (const absl::string_view key : {"add_drivers", "force_drivers"}) {
        const std::string words = ShellValue(line, key);
        config.virtio_scsi_listed = config.virtio_scsi_listed || HasWord(words, "virtio_scsi");
        config.sd_mod_listed = config.sd_mod_listed || HasWord(words, "sd_mod");
      }
    }
  } else if (tool == InitramfsTool::kMkinitcpio) {
    const std::string words =
        ShellValue(files.Read("/etc/mkinitcpio.conf").value_or(""), "MODULES");
    config.virtio_scsi_listed = HasWord(words, "virtio_scsi");
    config.sd_mod_listed = HasWord(words, "sd_mod");
  }
  return config;
}

InitramfsTool FindTool(const ConfigFiles& files) {
  // Both: Debian's dracut has an update-initramfs of its own.
  if (!FindProgram(files, "update-initramfs").empty() &&
      files.Exists("/usr/share/initramfs-tools/hook-functions")) {
    return InitramfsTool::kInitramfsTools;
  }
  if (!FindProgram(files, "dracut").empty()) return InitramfsTool::kDracut;
  if (!FindProgram(files, "mkinitcpio").empty()) return InitramfsTool::kMkinitcpio;
  return InitramfsTool::kNoneKnown;
}

std::string FindInitramfs(const ConfigFiles& files, const std::string& release,
                          const std::string& machine_id) {
  std::vector<std::string> candidates = {absl::StrCat("/boot/initrd.img-", release),
                                         absl::StrCat("/boot/initramfs-", release, ".img"),
                                         absl::StrCat("/boot/initrd-", release)};
  if (!machine_id.empty()) {
    candidates.push_back(absl::StrCat("/boot/", machine_id, "/", release, "/initrd"));
    candidates.push_back(absl::StrCat("/boot/efi/", machine_id, "/", release, "/initrd"));
  }
  // Arch names it after the package.
  const std::string package =
      files.Read(absl::StrCat("/usr/lib/modules/", release, "/pkgbase"), 256).value_or("");
  if (!package.empty() && !absl::StrContains(package, "/")) {
    candidates.push_back(
        absl::StrCat("/boot/initramfs-", absl::StripAsciiWhitespace(package), ".img"));
  }
  for (const std::string& path : candidates) {
    if (files.Exists(path)) return path;
  }
  return "";
}

void ReadModuleStates(const ConfigFiles& files, const ListInitramfs& list, KernelModules& kernel) {
  const std::string directory = absl::StrCat("/lib/modules/", kernel.release);
  const auto builtin = files.Read(absl::StrCat(directory, "/modules.builtin"), kMaxModuleListBytes);
  const auto dependencies =
      files.Read(absl::StrCat(directory, "/modules.dep"), kMaxModuleListBytes);
  std::optional<std::string> listing;
  bool listed = false;
  const auto state = [&](absl::string_view module) {
    if (builtin.ok() && HasModule(*builtin, module)) return ModuleState::kBuiltIn;
    if (builtin.ok() && dependencies.ok() && !HasModule(*dependencies, module)) {
      return ModuleState::kMissing;
    }
    if (!std::exchange(listed, true) && !kernel.initramfs.empty()) {
      listing = list(kernel.initramfs);
    }
    if (!listing) return ModuleState::kUnknown;
    if (HasModule(*listing, module)) return ModuleState::kInInitramfs;
    return builtin.ok() ? ModuleState::kModuleOnly : ModuleState::kUnknown;
  };
  kernel.virtio_scsi = state("virtio_scsi");
  kernel.sd_mod = state("sd_mod");
  kernel.virtio_blk = state("virtio_blk");
  kernel.ahci = state("ahci");
  kernel.ata_piix = state("ata_piix");
}

// The installed kernels, the one that a boot loader would put first in front.
std::vector<std::string> InstalledKernels(const ConfigFiles& files) {
  std::vector<std::string> releases;
  for (std::string& release : files.List("/lib/modules")) {
    // A removed kernel leaves a directory behind.
    if (files.Exists(absl::StrCat("/boot/vmlinuz-", release)) ||
        files.Exists(absl::StrCat("/lib/modules/", release, "/vmlinuz"))) {
      releases.push_back(std::move(release));
    }
  }
  std::sort(releases.begin(), releases.end(), [](const std::string& a, const std::string& b) {
    return strverscmp(a.c_str(), b.c_str()) > 0;
  });
  return releases;
}

}  // namespace

absl::string_view InitramfsToolName(InitramfsTool tool) {
  switch (tool) {
    case InitramfsTool::kNoneKnown:
      return "none";
    case InitramfsTool::kInitramfsTools:
      return "initramfs-tools";
    case InitramfsTool::kDracut:
      return "dracut";
    case InitramfsTool::kMkinitcpio:
      return "mkinitcpio";
    case InitramfsTool::kUnknown:
      break;
  }
  return "unknown";
}

absl::string_view ModuleStateName(ModuleState state) {
  switch (state) {
    case ModuleState::kBuiltIn:
      return "built-in";
    case ModuleState::kInInitramfs:
      return "in-initramfs";
    case ModuleState::kModuleOnly:
      return "module-only";
    case ModuleState::kMissing:
      return "missing";
    case ModuleState::kUnknown:
      break;
  }
  return "unknown";
}

std::string FindProgram(const ConfigFiles& files, absl::string_view program) {
  for (const absl::string_view directory : {"/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/"}) {
    std::string path = absl::StrCat(directory, program);
    if (files.Exists(path)) return path;
  }
  return "";
}

InitramfsFacts ReadInitramfsFacts(const ConfigFiles& files, const std::string& running_release,
                                  const ListInitramfs& list) {
  InitramfsFacts facts;
  facts.tool = FindTool(files);
  facts.config = ReadConfigOf(files, facts.tool);
  const std::string machine_id(
      absl::StripAsciiWhitespace(files.Read("/etc/machine-id", 256).value_or("")));
  std::vector<std::string> releases = InstalledKernels(files);
  const std::string newest = releases.empty() ? "" : releases.front();
  if (!running_release.empty()) {
    releases = {running_release};
    if (!newest.empty() && newest != running_release) releases.push_back(newest);
  }
  for (const std::string& release : releases) {
    if (absl::StrContains(release, "/")) continue;
    if (facts.kernels.size() == kMaxKernels) {
      facts.truncated = true;
      break;
    }
    KernelModules kernel;
    kernel.release = release;
    kernel.running = release == running_release;
    kernel.newest = release == newest;
    kernel.initramfs = FindInitramfs(files, release, machine_id);
    ReadModuleStates(files, list, kernel);
    facts.kernels.push_back(std::move(kernel));
  }
  return facts;
}

}  // namespace virt_reclaim::agent
