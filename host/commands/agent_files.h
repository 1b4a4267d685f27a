// What an agent in a guest consists of: its program, and the units and the udev rule that start it.
// They are read here, on the host, to be put into guests.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_AGENT_FILES_H_
#define VIRT_RECLAIM_HOST_COMMANDS_AGENT_FILES_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace virt_reclaim {

// Where the units look for it.
inline constexpr char kAgentProgram[] = "/usr/sbin/virt-reclaim-agent";
inline constexpr char kGuestUnitDirectory[] = "/etc/systemd/system";
inline constexpr char kGuestRuleDirectory[] = "/etc/udev/rules.d";

struct AgentFile {
  std::string source;  // of the host
  std::string path;    // in the guest
  std::string mode;    // octal
  std::string content;
  std::string digest;  // SHA-256, in hex
};

// The program first. `directory` has systemd/ and udev/ as packaging/ of the sources has them.
// InvalidArgument: `binary` is no program for Linux; NotFound, PermissionDenied and the like: one
// of them cannot be read; ResourceExhausted: one is too large for an agent.
absl::StatusOr<std::vector<AgentFile>> ReadAgentFiles(const std::string& directory,
                                                      const std::string& binary);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_AGENT_FILES_H_
