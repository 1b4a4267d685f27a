// Finds, opens and waits for the virtio-serial port the host speaks through. One thread.
#ifndef VIRT_RECLAIM_GUEST_AGENT_PORT_FINDER_H_
#define VIRT_RECLAIM_GUEST_AGENT_PORT_FINDER_H_

#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/link/port.h"

namespace virt_reclaim::agent {

inline constexpr char kPortName[] = "org.virt_reclaim.agent.v1";

// The port's device: DEV/virtio-ports/NAME (udev's link), else the node of the port
// SYSFS/class/virtio-ports/*/name says has that name. Empty when there is none.
std::optional<std::string> FindPort(absl::string_view name, const std::string& dev = "/dev",
                                    const std::string& sysfs = "/sys");

// Opens a port's character device, or connects to a unix socket (for tests). NotFound: it is not
// there (yet); FailedPrecondition: another process has it open (a virtio-serial port can be open
// once); else what the call said.
absl::StatusOr<std::unique_ptr<link::Port>> OpenPort(const std::string& path);

// Sleeps until something may have changed in /dev: soon after a node was made there, else after ten
// seconds.
class PortWaiter {
 public:
  PortWaiter();
  ~PortWaiter();
  void Wait(const std::stop_token& stop);

 private:
  int inotify_ = -1;
  int quick_tries_ =
      0;  // left since the last change: a new port gets its name a moment after its node
};

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_PORT_FINDER_H_
