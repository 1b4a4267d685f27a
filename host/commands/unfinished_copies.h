// What `report` says of backups: which copies in the policy's directories sync has begun to write
// and has not finished (host/sync/unfinished_mark.h).
#ifndef VIRT_RECLAIM_HOST_COMMANDS_UNFINISHED_COPIES_H_
#define VIRT_RECLAIM_HOST_COMMANDS_UNFINISHED_COPIES_H_

#include <chrono>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace virt_reclaim {

struct UnfinishedCopies {
  std::vector<std::string> paths;    // directories as in the policy, files by name
  std::vector<std::string> unknown;  // where there may be more, and why: a line each, printable
};

// Looks at all files below the directories, also at those that are not punched. Reads directories
// and attributes only. `config` and `must_exist` as of policy::ReadPolicy; a policy that cannot be
// read is among `unknown`, and so is where it had not looked after `longest`: who asks for a report
// waits for it, and an archive may have millions of files. Cancelled.
absl::StatusOr<UnfinishedCopies> FindUnfinishedCopies(const std::string& config, bool must_exist,
                                                      const std::stop_token& stop,
                                                      std::chrono::milliseconds longest);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_UNFINISHED_COPIES_H_
