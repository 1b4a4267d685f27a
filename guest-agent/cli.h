// The agent's command line program: runs a parsed command, prints data on stdout, warnings on
// stderr. Main thread only.
#ifndef VIRT_RECLAIM_GUEST_AGENT_CLI_H_
#define VIRT_RECLAIM_GUEST_AGENT_CLI_H_

#include <span>
#include <stop_token>
#include <string>

#include "guest-agent/filesystems.h"
#include "guest-agent/options.h"
#include "guest-agent/trimmer.h"

namespace virt_reclaim::agent {

enum ExitStatus {
  kExitDone = 0,
  kExitError = 1,
  kExitUsage = 2,
  kExitSomeFailed = 3,
  kExitInterrupted = 130
};

// The whole program but for main's catch-all. Starts threads only for `daemon` and `trim`.
int RunProgram(std::span<const char* const> arguments);

// What `list` prints.
std::string ListTable(const FilesystemList& list, bool all);
std::string ListJson(const FilesystemList& list, bool all);

// What came of one filesystem, for `trim`.
struct TrimLine {
  TrimTarget target;
  TrimFinished finished;
};
std::string TrimJson(const std::vector<TrimLine>& lines, const TrimTotals& totals, bool dry_run);
// "/mnt: 973 MiB (1020264448 bytes) trimmed on /dev/vda1", as fstrim -v says it.
std::string TrimSentence(const TrimLine& line, bool dry_run);
// "/mnt: skipped: mounted read-only"; empty for what was done.
std::string TrimWarning(const TrimLine& line);

// A named filesystem that was skipped counts as failed.
ExitStatus TrimExitStatus(const std::vector<TrimLine>& lines, const TrimTotals& totals);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_CLI_H_
