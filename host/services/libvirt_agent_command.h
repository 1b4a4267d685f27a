// One command of qemu-guest-agent through libvirt, under a watchdog of our own: libvirt's call can
// outlast any timeout it is given (seen: hours), and cannot be cancelled.
#ifndef VIRT_RECLAIM_HOST_SERVICES_LIBVIRT_AGENT_COMMAND_H_
#define VIRT_RECLAIM_HOST_SERVICES_LIBVIRT_AGENT_COMMAND_H_

#include <libvirt/libvirt.h>

#include <stop_token>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "host/services/call_watchdog.h"

namespace virt_reclaim {

// For all commands of a connection: so many that hang in libvirt are left alone, then no further
// guest is asked.
CallWatchdog NewAgentWatchdog();

// As Hypervisor::QemuAgentCommand. The call runs on a thread of its own, which has a reference of
// its own to `domain` and is left behind when the time is up. Any thread.
absl::StatusOr<std::string> RunAgentCommand(CallWatchdog& watchdog, virDomainPtr domain,
                                            const std::string& command, absl::Duration timeout,
                                            const std::stop_token& stop);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_LIBVIRT_AGENT_COMMAND_H_
