// `virt-reclaim agent status`: which guests have an agent, which version, and why the others do not
// answer.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_AGENT_STATUS_H_
#define VIRT_RECLAIM_HOST_COMMANDS_AGENT_STATUS_H_

#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "host/commands/collect.h"
#include "host/model/outcome.h"

namespace virt_reclaim {

struct AgentStatusOptions {
  std::vector<std::string> domains;  // empty: all
  std::string version;               // of this program
  absl::Duration agent_timeout = absl::Seconds(2);
};

struct AgentStatusOfDomain {
  DomainSummary summary;
  std::optional<GuestFacts> agent;  // without filesystems
  std::optional<bool> older;        // than this program, by its own word; empty: not known
  std::optional<Blocker> blocker;
  Outcome outcome;
};

// Whether version `one` comes before `other`: numbers with dots between them, a missing one counts
// as 0. Empty when either is something else.
std::optional<bool> IsOlderVersion(absl::string_view one, absl::string_view other);

absl::StatusOr<std::vector<AgentStatusOfDomain>> GetAgentStatus(const Services& services,
                                                                const AgentStatusOptions& options,
                                                                const std::stop_token& stop);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_AGENT_STATUS_H_
