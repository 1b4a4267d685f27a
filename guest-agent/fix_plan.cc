// PlanFix: from the facts to the edits and commands. The acting is in fix_guest.cc.
#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "guest-agent/fix_files.h"
#include "guest-agent/fix_guest.h"

namespace virt_reclaim::agent {
namespace {

constexpr char kModulesFile[] = "/etc/initramfs-tools/modules";
constexpr char kDracutFile[] = "/etc/dracut.conf.d/90-virt-reclaim.conf";

// The lines of a text without their newlines; a text that ends with one has an empty last line.
std::vector<std::string> Lines(const std::string& text) { return absl::StrSplit(text, '\n'); }

bool IsThere(ModuleState state) {
  return state == ModuleState::kBuiltIn || state == ModuleState::kInInitramfs;
}

class Planner {
 public:
  Planner(const PreflightSources& sources, const Preflight& facts)
      : files_(sources.files), facts_(facts) {}

  absl::StatusOr<FixPlan> Plan() {
    VR_RETURN_IF_ERROR(CheckKernels());
    ReplaceNames();
    AllowUuidInGrub();
    VR_RETURN_IF_ERROR(AddModules());
    VR_RETURN_IF_ERROR(AddInitramfsCommands());
    AddGrubCommand();
    return std::move(plan_);
  }

 private:
  absl::Status CheckKernels() const {
    if (facts_.initramfs.kernels.empty()) {
      return absl::FailedPreconditionError("the guest's kernels are not known");
    }
    for (const KernelModules& kernel : facts_.initramfs.kernels) {
      for (const auto& [name, state] :
           {std::pair("virtio_scsi", kernel.virtio_scsi), std::pair("sd_mod", kernel.sd_mod)}) {
        if (state == ModuleState::kMissing) {
          return absl::FailedPreconditionError(
              absl::StrCat("kernel '", kernel.release, "' has no module '", name, "'"));
        }
      }
    }
    return absl::OkStatus();
  }

  void Refuse(const NamedDevice& named, absl::string_view why) {
    plan_.refusals.push_back(
        absl::StrCat(named.file, ":", named.line, ": '", named.name, "' stays: ", why));
  }

  void ReplaceNames() {
    std::map<std::string, std::vector<const NamedDevice*>> by_file;
    for (const NamedDevice& named : facts_.names.names) {
      switch (named.source) {
        case NameSource::kRunningCommandLine:
          continue;  // what it is made from has its own place
        case NameSource::kGrubConfig:
          grub_names_ = true;  // update-grub makes it anew
          continue;
        default:
          break;
      }
      if (named.fixable) {
        by_file[named.file].push_back(&named);
      } else {
        Refuse(named, named.replacement.empty()
                          ? "what is on it has no UUID that only it has, or it is a pattern"
                          : "this place is none where a UUID is understood");
      }
    }
    for (const auto& [file, names] : by_file) ReplaceIn(file, names);
  }

  void ReplaceIn(const std::string& file, const std::vector<const NamedDevice*>& names) {
    const auto content = files_.ReadForEdit(file);
    if (!content.ok()) {
      for (const NamedDevice* named : names) Refuse(*named, content.status().message());
      return;
    }
    FileChange change;
    change.path = file;
    change.backup = FixFiles::BackupPath(file);
    change.before = content->content;
    std::vector<std::string> lines = Lines(change.before);
    std::map<uint32_t, std::string> originals;
    // From the right, so that the offsets on the left stay.
    for (auto it = names.rbegin(); it != names.rend(); ++it) {
      const NamedDevice& named = **it;
      if (named.line == 0 || named.line > lines.size()) continue;
      std::string& line = lines[named.line - 1];
      if (line.compare(named.offset, named.name.size(), named.name) != 0) {
        Refuse(named, "the file changed meanwhile");
        continue;
      }
      originals.emplace(named.line, line);
      line.replace(named.offset, named.name.size(), named.replacement);
      Remember(named.source);
    }
    for (const auto& [number, before] : originals) {
      change.lines.push_back({number, before, lines[number - 1]});
    }
    change.after = absl::StrJoin(lines, "\n");
    if (change.after != change.before) plan_.changes.push_back(std::move(change));
  }

  void Remember(NameSource source) {
    if (source == NameSource::kGrubDefault) {
      grub_names_ = true;
    } else if (source == NameSource::kFstab || source == NameSource::kCrypttab ||
               source == NameSource::kInitramfsResume) {
      rebuild_ = true;  // the initramfs has a copy of them, or was made after them
    }
  }

  // With this set, update-grub writes root=/dev/vda1 again.
  void AllowUuidInGrub() {
    constexpr absl::string_view kKey = "GRUB_DISABLE_LINUX_UUID=";
    const std::string path = "/etc/default/grub";
    auto existing = std::find_if(plan_.changes.begin(), plan_.changes.end(),
                                 [&](const FileChange& change) { return change.path == path; });
    FileChange change;
    if (existing != plan_.changes.end()) {
      change = *existing;
    } else {
      const auto content = files_.ReadForEdit(path);
      if (!content.ok()) return;
      change.path = path;
      change.backup = FixFiles::BackupPath(path);
      change.before = content->content;
      change.after = content->content;
    }
    std::vector<std::string> lines = Lines(change.after);
    bool changed = false;
    for (size_t i = 0; i < lines.size(); ++i) {
      for (const absl::string_view value : {"true", "\"true\"", "'true'"}) {
        if (lines[i] != absl::StrCat(kKey, value)) continue;
        change.lines.push_back(
            {static_cast<uint32_t>(i + 1), lines[i], absl::StrCat(kKey, "false")});
        lines[i] = absl::StrCat(kKey, "false");
        changed = true;
        break;
      }
    }
    if (!changed) return;
    grub_names_ = true;
    change.after = absl::StrJoin(lines, "\n");
    if (existing != plan_.changes.end()) {
      *existing = std::move(change);
    } else {
      plan_.changes.push_back(std::move(change));
    }
  }

  // What the initramfs must be told, as its tool wants it.
  absl::Status AddModules() {
    const InitramfsFacts& initramfs = facts_.initramfs;
    bool built_in = true;
    for (const KernelModules& kernel : initramfs.kernels) {
      built_in = built_in && kernel.virtio_scsi == ModuleState::kBuiltIn &&
                 kernel.sd_mod == ModuleState::kBuiltIn;
      rebuild_ = rebuild_ || !IsThere(kernel.virtio_scsi) || !IsThere(kernel.sd_mod);
    }
    if (built_in) {
      rebuild_ = rebuild_ && initramfs.tool != InitramfsTool::kNoneKnown;
      return absl::OkStatus();
    }
    if (!rebuild_) return absl::OkStatus();
    std::vector<std::string> missing;
    if (!initramfs.config.virtio_scsi_listed) missing.push_back("virtio_scsi");
    if (!initramfs.config.sd_mod_listed) missing.push_back("sd_mod");
    if (missing.empty()) return absl::OkStatus();
    if (initramfs.tool == InitramfsTool::kInitramfsTools) return ListInModulesFile(missing);
    if (initramfs.tool == InitramfsTool::kDracut) {
      if (files_.Exists(kDracutFile)) {
        return absl::FailedPreconditionError(
            absl::StrCat("'", kDracutFile, "' is there, but does not add the drivers"));
      }
      FileChange change;
      change.path = kDracutFile;
      // The spaces inside the quotes are dracut's syntax: values are added to each other.
      change.after = "add_drivers+=\" virtio_scsi sd_mod \"\n";
      change.lines.push_back({1, "", change.after.substr(0, change.after.size() - 1)});
      plan_.changes.push_back(std::move(change));
      return absl::OkStatus();
    }
    return NoTool();
  }

  absl::Status NoTool() const {
    return absl::FailedPreconditionError(absl::StrCat("the guest's initramfs is made by ",
                                                      InitramfsToolName(facts_.initramfs.tool),
                                                      ", which this agent cannot do"));
  }

  absl::Status ListInModulesFile(const std::vector<std::string>& missing) {
    VR_ASSIGN_OR_RETURN(const FileContent content, files_.ReadForEdit(kModulesFile));
    FileChange change;
    change.path = kModulesFile;
    change.backup = FixFiles::BackupPath(kModulesFile);
    change.before = content.content;
    change.after = content.content;
    if (!change.after.empty() && change.after.back() != '\n') change.after += '\n';
    auto line = static_cast<uint32_t>(std::count(change.after.begin(), change.after.end(), '\n'));
    for (const std::string& module : missing) {
      absl::StrAppend(&change.after, module, "\n");
      change.lines.push_back({++line, "", module});
    }
    plan_.changes.push_back(std::move(change));
    return absl::OkStatus();
  }

  absl::Status AddInitramfsCommands() {
    if (!rebuild_) return absl::OkStatus();
    const InitramfsFacts& initramfs = facts_.initramfs;
    const bool debian = initramfs.tool == InitramfsTool::kInitramfsTools;
    if (!debian && initramfs.tool != InitramfsTool::kDracut) return NoTool();
    const std::string program = FindProgram(files_, debian ? "update-initramfs" : "dracut");
    for (const KernelModules& kernel : initramfs.kernels) {
      if (kernel.initramfs.empty()) {
        // A kernel that the hypervisor brings along, or one that was removed while it runs.
        plan_.refusals.push_back(
            absl::StrCat("kernel '", kernel.release, "' has no initramfs in this guest"));
        continue;
      }
      plan_.commands.push_back(MakeInitramfs(debian, program, kernel));
    }
    if (plan_.commands.empty()) {
      return absl::FailedPreconditionError("no kernel of this guest has an initramfs");
    }
    return absl::OkStatus();
  }

  void AddGrubCommand() {
    if (!grub_names_) return;
    if (auto command = MakeGrubConfig(files_); !command.empty()) {
      plan_.commands.push_back(std::move(command));
      return;
    }
    plan_.refusals.push_back("grub.cfg: no program is there that makes it");
  }

  const RootFiles& files_;
  const Preflight& facts_;
  FixPlan plan_;
  bool grub_names_ = false;
  bool rebuild_ = false;
};

}  // namespace

std::vector<std::string> MakeInitramfs(bool debian, const std::string& program,
                                       const KernelModules& kernel) {
  if (debian) return {program, "-u", "-k", kernel.release};
  return {program, "-f", kernel.initramfs, kernel.release};
}

absl::StatusOr<FixPlan> PlanFix(const PreflightSources& sources, const Preflight& preflight) {
  if (preflight.truncated) {
    return absl::FailedPreconditionError("the guest has more configuration than can be looked at");
  }
  return Planner(sources, preflight).Plan();
}

}  // namespace virt_reclaim::agent
