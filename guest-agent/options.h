// The agent's command line: words in, a struct out. Pure; any thread.
#ifndef VIRT_RECLAIM_GUEST_AGENT_OPTIONS_H_
#define VIRT_RECLAIM_GUEST_AGENT_OPTIONS_H_

#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "guest-agent/trimmer.h"

namespace virt_reclaim::agent {

enum class Command { kHelp, kVersion, kList, kTrim, kPreflight, kDaemon, kWorker, kCleanUp };

struct CommandLine {
  Command command = Command::kHelp;
  bool json = false;
  bool all = false;
  bool dry_run = false;
  TrimOptions trim;
  std::vector<std::string> mount_points;
  std::string port;
};

// `arguments` without the program's name. InvalidArgument, with a message for people, for anything
// that is not understood.
absl::StatusOr<CommandLine> ParseCommandLine(std::span<const char* const> arguments);

// The whole of --help.
extern const absl::string_view kHelpText;

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_OPTIONS_H_
