#include "guest-agent/fix_guest.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "guest-agent/fix_files.h"

namespace virt_reclaim::agent {
namespace {

// An initramfs takes a slow guest minutes; the host's deadline ends the call earlier if it wants.
constexpr std::chrono::minutes kCommandDeadline{15};
constexpr size_t kMaxCommandOutputBytes = 4096;

// Runs them until one fails; false then.
bool RunAll(const PreflightSources& sources, const std::vector<std::vector<std::string>>& commands,
            const std::stop_token& stop, FixReport& report) {
  for (const std::vector<std::string>& arguments : commands) {
    CommandLimits limits;
    limits.deadline = kCommandDeadline;
    limits.max_output_bytes = kMaxCommandOutputBytes;
    limits.keep_end = true;
    limits.stop = stop;
    FixCommand command;
    command.arguments = arguments;
    auto result = sources.run(arguments, limits);
    if (result.ok()) {
      command.exit_status = result->exit_status;
      command.output = std::move(result->output);
    } else {
      command.output = std::string(result.status().message());
    }
    const bool failed = command.exit_status != 0;
    report.commands.push_back(std::move(command));
    if (failed) return false;
  }
  return true;
}

// What makes initramfs and grub.cfg anew, whatever was changed: for an undo.
std::vector<std::vector<std::string>> AllCommands(const PreflightSources& sources,
                                                  const std::vector<std::string>& restored) {
  std::vector<std::vector<std::string>> commands;
  bool initramfs = false;
  bool grub = false;
  for (const std::string& path : restored) {
    if (path.rfind("/etc/default/grub", 0) == 0) {
      grub = true;
    } else if (path.rfind("/boot/", 0) != 0 && path.rfind("/etc/kernel/", 0) != 0) {
      initramfs = true;
    }
  }
  // Which kernels there are; what is in their archives does not matter here.
  const InitramfsFacts facts = ReadInitramfsFacts(sources.files, sources.kernel_release,
                                                  [](const std::string&) { return std::nullopt; });
  const bool debian = facts.tool == InitramfsTool::kInitramfsTools;
  if (initramfs && (debian || facts.tool == InitramfsTool::kDracut)) {
    const std::string program = FindProgram(sources.files, debian ? "update-initramfs" : "dracut");
    for (const KernelModules& kernel : facts.kernels) {
      if (!kernel.initramfs.empty()) commands.push_back(MakeInitramfs(debian, program, kernel));
    }
  }
  if (!grub) return commands;
  if (auto command = MakeGrubConfig(sources.files); !command.empty()) {
    commands.push_back(std::move(command));
  }
  return commands;
}

// Of one line as it was `before` and is `now`, at `place`.
absl::Status RequireOldNamesOfLine(const PreflightSources& sources, const std::string& before,
                                   const std::string& now, const std::string& place) {
  const std::vector<FoundName> left = FindDeviceNames(now);
  for (const FoundName& found : FindDeviceNames(before)) {
    const auto is_it = [&](const FoundName& one) { return one.name == found.name; };
    if (std::any_of(left.begin(), left.end(), is_it)) continue;
    const auto ids = sources.identify(found.name);
    const auto names_it = [&](const std::string& id) {
      return !id.empty() && absl::StrContains(now, id);
    };
    if (ids && (names_it(ids->uuid) || names_it(ids->part_uuid))) continue;
    return absl::FailedPreconditionError(
        absl::StrCat(place, ": '", found.name, "' is ", ids ? "another device" : "not there",
                     " now: nothing is put back as long as a disk is on another bus than it was"));
  }
  return absl::OkStatus();
}

// A name that an undo would write again has to be of the device that is named by UUID now. It is
// another one's, or nobody's, as long as a disk is on another bus than when it was fixed.
absl::Status RequireOldNames(const PreflightSources& sources, const FixFiles& files) {
  for (const FixFiles::Kept& kept : files.KeptFiles()) {
    const std::vector<std::string> before = absl::StrSplit(kept.before, '\n');
    const std::vector<std::string> now = absl::StrSplit(kept.now, '\n');
    for (size_t i = 0; i < before.size() && i < now.size(); ++i) {
      if (before[i] == now[i]) continue;
      VR_RETURN_IF_ERROR(
          RequireOldNamesOfLine(sources, before[i], now[i], absl::StrCat(kept.path, ":", i + 1)));
    }
  }
  return absl::OkStatus();
}

// The initramfs that an undo makes may lack the driver of the bus that the root is on now.
absl::Status RequireOldBus(const PreflightSources& sources) {
  VR_ASSIGN_OR_RETURN(const FilesystemList list, sources.read_filesystems());
  for (const Filesystem& filesystem : list.filesystems) {
    const std::vector<std::string>& points = filesystem.mount_points;
    if (std::find(points.begin(), points.end(), "/") == points.end()) continue;
    for (const BlockDevice& device : filesystem.chain.devices) {
      if (device.scsi_address.empty() || !absl::StrContains(device.bus_path, "/virtio")) continue;
      return absl::FailedPreconditionError(absl::StrCat("the root is on '", device.name,
                                                        "', a disk on virtio-scsi: nothing is put "
                                                        "back as long as it is"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<FixReport> Undo(const PreflightSources& sources, const std::stop_token& stop) {
  FixReport report;
  if (!sources.files.Exists(std::string(kFixDirectory))) return report;
  VR_ASSIGN_OR_RETURN(FixFiles files, FixFiles::Open(sources.files));
  if (files.empty()) return report;
  VR_RETURN_IF_ERROR(RequireOldBus(sources));
  VR_RETURN_IF_ERROR(RequireOldNames(sources, files));
  FixFiles::UndoResult undone = files.Undo();
  report.refusals = std::move(undone.refusals);
  for (const std::string& path : undone.restored) {
    FileChange change;
    change.path = path;
    report.changes.push_back(std::move(change));
  }
  const bool ran = RunAll(sources, AllCommands(sources, undone.restored), stop, report);
  report.result = ran && report.refusals.empty() ? FixResult::kDone : FixResult::kFailed;
  return report;
}

// Puts everything back after `report`'s last command or change failed.
void RollBack(const PreflightSources& sources, const FixPlan& plan, FixFiles& files,
              FixReport& report) {
  FixFiles::UndoResult undone;
  if (!report.changes.empty()) undone = files.Undo();
  bool whole = undone.refusals.empty();
  for (std::string& refusal : undone.refusals) report.refusals.push_back(std::move(refusal));
  // Not stoppable, or there would be an initramfs of neither state. What ran before has to run
  // again, the failed one too: it may have left half of its work.
  if (!report.commands.empty()) {
    const auto ran = static_cast<ptrdiff_t>(report.commands.size());
    const std::vector<std::vector<std::string>> again(plan.commands.begin(),
                                                      plan.commands.begin() + ran);
    whole = RunAll(sources, again, {}, report) && whole;
  }
  report.result = whole ? FixResult::kRolledBack : FixResult::kFailed;
}

// Looks whether it did what it was for. False: a kernel would still not find its disk.
bool Check(const PreflightSources& sources, FixReport& report) {
  const auto facts = ReadPreflight(sources);
  if (!facts.ok()) return false;
  for (const NamedDevice& named : facts->names.names) {
    if (named.source != NameSource::kGrubConfig) continue;
    report.refusals.push_back(
        absl::StrCat(named.file, ":", named.line, ": '", named.name, "' is there again"));
  }
  bool whole = true;
  for (const KernelModules& kernel : facts->initramfs.kernels) {
    if (kernel.virtio_scsi != ModuleState::kModuleOnly && kernel.sd_mod != ModuleState::kModuleOnly)
      continue;
    report.refusals.push_back(
        absl::StrCat("kernel '", kernel.release, "': its new initramfs has not got the drivers"));
    whole = false;
  }
  return whole;
}

absl::StatusOr<FixReport> Apply(const PreflightSources& sources, FixPlan plan,
                                const std::stop_token& stop) {
  FixReport report;
  report.refusals = plan.refusals;
  VR_ASSIGN_OR_RETURN(FixFiles files, FixFiles::Open(sources.files));
  // All or nothing is promised for this call; what an earlier one did must not go with it.
  if (!files.empty() && !plan.changes.empty()) {
    return absl::FailedPreconditionError(
        "an earlier fix is in place, and more is to be changed now: undo that one first");
  }
  absl::Status status;
  for (const FileChange& change : plan.changes) {
    if (stop.stop_requested()) status = absl::CancelledError("stopped");
    if (status.ok()) {
      status = files.Change(change.path, change.before, change.after, change.backup.empty());
    }
    if (!status.ok()) break;
  }
  if (!status.ok()) report.refusals.push_back(std::string(status.message()));
  report.changes = std::move(plan.changes);
  if (!status.ok() || !RunAll(sources, plan.commands, stop, report) || !Check(sources, report)) {
    RollBack(sources, plan, files, report);
    return report;
  }
  report.result = FixResult::kDone;
  return report;
}

}  // namespace

absl::StatusOr<FixReport> FixGuest(const PreflightSources& sources, FixAction action,
                                   const std::stop_token& stop) {
  if (action == FixAction::kUndo) return Undo(sources, stop);
  VR_ASSIGN_OR_RETURN(const Preflight facts, ReadPreflight(sources));
  VR_ASSIGN_OR_RETURN(FixPlan plan, PlanFix(sources, facts));
  FixReport report;
  report.refusals = plan.refusals;
  if (plan.changes.empty() && plan.commands.empty()) return report;
  if (action == FixAction::kApply) return Apply(sources, std::move(plan), stop);
  report.result = FixResult::kPlanned;
  report.changes = std::move(plan.changes);
  for (std::vector<std::string>& arguments : plan.commands) {
    report.commands.push_back({std::move(arguments), -1, ""});
  }
  return report;
}

}  // namespace virt_reclaim::agent
