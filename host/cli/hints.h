// What to do about a reason: one command or sentence each. Kept apart from what happened; printed
// to stderr. tests/unit/cli_test.cc goes through all of them: each command in them is one that its
// program takes.
#ifndef VIRT_RECLAIM_HOST_CLI_HINTS_H_
#define VIRT_RECLAIM_HOST_CLI_HINTS_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "host/model/reason.h"

namespace virt_reclaim {

struct HintContext {
  std::string connect;  // as given with --connect; empty: default
  std::string domain;
};

// Empty when there is nothing to advise.
std::optional<std::string> HintFor(Reason reason, const HintContext& context);

// The same for a trim that was not begun: a guest that is off has another way.
std::optional<std::string> HintForTrim(const Blocker& blocker, const HintContext& context);

// The same for what `explain` found, of one disk, where one disk or one device makes a difference.
// `target` is the disk's.
std::optional<std::string> FixFor(const Blocker& blocker, const HintContext& context,
                                  const std::string& target);

// For a connection to libvirt that failed. `connect` as in HintContext.
std::optional<std::string> HintForConnection(const absl::Status& status,
                                             const std::string& connect);

// `word` as one word of a POSIX shell command.
std::string ShellQuote(absl::string_view word);

// Lines for somebody who sees nothing: no domain is on the hypervisor `uri`, and where others may
// be.
std::string NobodyThere(absl::string_view uri);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_HINTS_H_
