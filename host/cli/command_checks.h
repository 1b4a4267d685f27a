// What no option of a verb can tell by itself: options that exclude each other, names that are
// missing. One function a verb, for command_table.cc. Pure, but for CheckSync, which looks whether
// a file is there. InvalidArgument, in words for the user. Any thread.
#ifndef VIRT_RECLAIM_HOST_CLI_COMMAND_CHECKS_H_
#define VIRT_RECLAIM_HOST_CLI_COMMAND_CHECKS_H_

#include "absl/status/status.h"
#include "host/cli/options.h"

namespace virt_reclaim {

inline constexpr char kShells[] = "bash|zsh|fish";

absl::Status CheckTrim(const CommandLine& line);
absl::Status CheckMachine(const CommandLine& line);
absl::Status CheckApply(const CommandLine& line);
absl::Status CheckRollback(const CommandLine& line);
absl::Status CheckExplain(const CommandLine& line);
absl::Status CheckAgentInstall(const CommandLine& line);
absl::Status CheckPunch(const CommandLine& line);
absl::Status CheckSync(const CommandLine& line);
absl::Status CheckSparsify(const CommandLine& line);
absl::Status CheckRun(const CommandLine& line);
absl::Status CheckConfigCheck(const CommandLine& line);
absl::Status CheckCompletion(const CommandLine& line);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_COMMAND_CHECKS_H_
