// The half of `agent install` that is in the guest: looks what is there, puts files beside their
// places, has the guest check them, renames them into place, starts the agent. All of it by
// qemu-guest-agent, with a shell and the tools that every Linux has. The guest's answers are
// hostile.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_AGENT_GUEST_H_
#define VIRT_RECLAIM_HOST_COMMANDS_AGENT_GUEST_H_

#include <functional>
#include <map>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "host/commands/agent_files.h"
#include "host/services/guest_programs.h"

namespace virt_reclaim {

struct GuestLook {
  bool linux = false;     // a shell of a Linux answered
  bool root = false;      // it may write where the agent goes
  bool systemd = false;   // runs
  bool packaged = false;  // the guest's package manager knows the agent
  bool active = false;    // systemd runs it
  std::string version;    // of the agent that is there, printable; empty: none, or it does not say
  std::map<std::string, std::string> digests;  // of files that are there, by path
};

// Changes nothing in the guest.
absl::StatusOr<GuestLook> LookAtGuest(GuestPrograms& programs, const std::vector<AgentFile>& files,
                                      const std::stop_token& stop);

struct PutContext {
  std::function<absl::Time()> now;
  std::function<void(absl::string_view what)> progress;  // may be empty
};

// After a failure each place has what it had before, unless the message says otherwise, and nothing
// is left beside it where the guest still answers. DataLoss: what arrived is not what was sent;
// FailedPrecondition: the program does not run there. The version that the program tells of itself.
absl::StatusOr<std::string> PutIntoGuest(GuestPrograms& programs,
                                         const std::vector<AgentFile>& files,
                                         const PutContext& context, const std::stop_token& stop);

// Has systemd and udev read the files, and the agent (re)started where its port is.
absl::Status StartInGuest(GuestPrograms& programs, const std::stop_token& stop);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_AGENT_GUEST_H_
