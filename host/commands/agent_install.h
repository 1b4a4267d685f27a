// `virt-reclaim agent install`: the agent's port into a domain's definition and, where it can be
// plugged in, into the running domain; the agent itself into a running guest that has
// qemu-guest-agent. Where that is no way: the steps to do by hand.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_AGENT_INSTALL_H_
#define VIRT_RECLAIM_HOST_COMMANDS_AGENT_INSTALL_H_

#include <functional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "host/commands/agent_files.h"
#include "host/commands/collect.h"
#include "host/model/outcome.h"

namespace virt_reclaim {

struct AgentInstallOptions {
  std::vector<std::string> domains;
  std::vector<AgentFile> files;  // of ReadAgentFiles
  std::string version;           // of this program: an agent that says the same is not replaced
                                 // where its files cannot be looked at
  std::string connect;           // for the commands that are told; empty: libvirt's default
  // What is being done with a domain; on the caller's thread. May be empty.
  std::function<void(const DomainSummary&, absl::string_view what)> progress;
};

// Of the agent's port, in the definition or in the running domain.
enum class PortState {
  kNone,          // it has no such definition, or does not run
  kThere,         // as it is
  kAdd,           // planned
  kAdded,         // done
  kAtPowerCycle,  // cannot be plugged in: it comes with the next power cycle
};
absl::string_view Name(PortState state);

// To be done by hand.
struct InstallStep {
  std::string what;                  // a sentence without full stop
  std::vector<std::string> command;  // may be empty
};

// What is to be done with a domain, and then what was done.
struct AgentInstall {
  DomainSummary domain;
  // kDone with an empty `files`, no `starts` and no port to add: nothing is to be done. kSkipped:
  // why nothing is put into the guest; the port is added all the same, unless `hands_off`.
  Outcome outcome;
  bool hands_off = false;
  PortState defined = PortState::kNone, live = PortState::kNone;
  std::vector<std::string> files;  // in the guest, that are written
  bool systemd = false;            // the guest's init
  bool starts = false;             // the agent is started, or again
  std::string version_before;      // of the guest's agent, its word; empty: none, or not known
  std::string version;             // of the one that is there afterwards; empty: not known
  std::vector<InstallStep> steps;
  std::string definition;  // the plan was made for: inactive XML
};

bool HasWork(const AgentInstall& install);

// Asks libvirt and the guests, and changes nothing.
absl::StatusOr<std::vector<AgentInstall>> PlanAgentInstall(const Services& services,
                                                           const AgentInstallOptions& options,
                                                           const std::stop_token& stop);

// One domain after the other. A stop ends the one under way, and the rest is cancelled; what it
// leaves is gone on with by the next call.
std::vector<AgentInstall> ExecuteAgentInstall(const Services& services,
                                              const AgentInstallOptions& options,
                                              std::vector<AgentInstall> plan,
                                              const std::stop_token& stop);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_AGENT_INSTALL_H_
