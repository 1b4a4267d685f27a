// Makes a guest ready for its disks to move from virtio-blk to virtio-scsi: names by path become
// UUID= or PARTUUID=, and the initramfs gets virtio_scsi and sd_mod. Opt-in: the one part of the
// agent that changes files of the guest. What it does not understand it leaves alone and says so;
// LUKS it never touches. One thread.
#ifndef VIRT_RECLAIM_GUEST_AGENT_FIX_GUEST_H_
#define VIRT_RECLAIM_GUEST_AGENT_FIX_GUEST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "guest-agent/preflight.h"

namespace virt_reclaim::agent {

struct FixedLine {
  uint32_t line = 0;  // from 1
  std::string before;
  std::string after;
};

struct FileChange {
  std::string path;
  std::string backup;  // empty: the file is new
  std::vector<FixedLine> lines;
  std::string before;  // whole contents
  std::string after;
};

// Pure, but that it reads the files.
struct FixPlan {
  std::vector<FileChange> changes;
  std::vector<std::vector<std::string>> commands;
  std::vector<std::string> refusals;  // "FILE:LINE: why"
};
// FailedPrecondition: it cannot be done here at all.
absl::StatusOr<FixPlan> PlanFix(const PreflightSources& sources, const Preflight& preflight);

// The command that makes the initramfs of `kernel`, which has one, anew: `program` is Debian's
// update-initramfs or dracut.
std::vector<std::string> MakeInitramfs(bool debian, const std::string& program,
                                       const KernelModules& kernel);

// The numbers are those of agent.proto.
enum class FixAction { kPlan = 1, kApply = 2, kUndo = 3 };
enum class FixResult { kNothingToDo = 1, kPlanned = 2, kDone = 3, kRolledBack = 4, kFailed = 5 };

struct FixCommand {
  std::vector<std::string> arguments;
  int exit_status = -1;
  std::string output;
};

struct FixReport {
  FixResult result = FixResult::kNothingToDo;
  std::vector<FileChange> changes;
  std::vector<FixCommand> commands;
  std::vector<std::string> refusals;
};

// Aborted: another fix runs.
absl::StatusOr<FixReport> FixGuest(const PreflightSources& sources, FixAction action,
                                   const std::stop_token& stop);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_FIX_GUEST_H_
