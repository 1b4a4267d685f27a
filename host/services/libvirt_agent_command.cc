#include "host/services/libvirt_agent_command.h"

#include <libvirt/libvirt-qemu.h>
#include <libvirt/virterror.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <memory>

#include "base/handle.h"
#include "host/services/libvirt_error.h"

namespace virt_reclaim {
namespace {

using DomainHandle = Handle<virDomain, virDomainFree>;

// What libvirt may take longer than its own timeout: it first asks the agent to synchronize, which
// it gives 5 s of its own.
constexpr absl::Duration kSynchronization = absl::Seconds(7);
// How often a domain is looked at that is being waited for: a paused one never answers.
constexpr absl::Duration kLook = absl::Milliseconds(500);
// Each is a thread in libvirt. libvirt itself gives up on a silent agent after 5 s, so that one
// that does not return is libvirt's trouble, not a guest's.
constexpr size_t kMostLeftBehind = 64;

// libvirt's words for these do not end up in the same status: somebody else who talks to the agent
// is worth another try, an agent that is dead is not. libvirt waits 30 s for that somebody
// (VIR_JOB_WAIT_TIME), so that a call with less time than that only hears nothing.
absl::Status CommandStatus() {
  const virError* error = virGetLastError();
  const int code = error != nullptr ? error->code : 0;
  const absl::Status status = LibvirtStatus("qemu-guest-agent");
  if (code == VIR_ERR_OPERATION_TIMEOUT) return absl::AbortedError(status.message());
  if (code == VIR_ERR_AGENT_UNSYNCED) return absl::DeadlineExceededError(status.message());
  return status;
}

absl::StatusOr<std::string> CallLibvirt(virDomainPtr domain, const std::string& command,
                                        int seconds) {
  const Handle<char, free> answer(virDomainQemuAgentCommand(domain, command.c_str(), seconds, 0));
  if (answer == nullptr) return CommandStatus();
  return std::string(answer.get());
}

absl::Status Runs(virDomainPtr domain) {
  int state = 0;
  if (virDomainGetState(domain, &state, nullptr, 0) != 0) {
    virResetLastError();
    return absl::OkStatus();  // not known: the timeout decides
  }
  if (state == VIR_DOMAIN_RUNNING || state == VIR_DOMAIN_BLOCKED) return absl::OkStatus();
  return absl::UnavailableError(
      "qemu-guest-agent: the domain was paused or stopped before the answer");
}

}  // namespace

CallWatchdog NewAgentWatchdog() { return {"qemu-guest-agent", kMostLeftBehind, kLook}; }

absl::StatusOr<std::string> RunAgentCommand(CallWatchdog& watchdog, virDomainPtr domain,
                                            const std::string& command, absl::Duration timeout,
                                            const std::stop_token& stop) {
  if (virDomainRef(domain) != 0) return LibvirtStatus("keep the domain");
  const auto owner = std::make_shared<DomainHandle>(domain);
  const auto seconds = static_cast<int>(
      std::clamp<int64_t>(absl::ToInt64Seconds(absl::Ceil(timeout, absl::Seconds(1))), 1,
                          std::numeric_limits<int>::max()));
  return watchdog.Run(
      [owner, command, seconds] { return CallLibvirt(owner->get(), command, seconds); },
      timeout + kSynchronization, [domain] { return Runs(domain); }, stop);
}

}  // namespace virt_reclaim
