// Tells the service manager (systemd) that the daemon is ready, what it is doing and that it is
// alive: datagrams to the socket that NOTIFY_SOCKET names, as sd_notify(3) specifies them.
// libsystemd would be one more library in every guest. One thread.
#ifndef VIRT_RECLAIM_GUEST_AGENT_SERVICE_MANAGER_H_
#define VIRT_RECLAIM_GUEST_AGENT_SERVICE_MANAGER_H_

#include <chrono>
#include <string>

#include "absl/strings/string_view.h"

namespace virt_reclaim::agent {

class ServiceManager {
 public:
  // Without NOTIFY_SOCKET nobody is told anything. Takes what it reads out of the environment:
  // children must not speak for the daemon.
  ServiceManager();

  // It serves or waits; `status` is shown by 'systemctl status'. One line, printable.
  void Ready(absl::string_view status);
  void Stopping();
  void Alive();
  // How often Alive has to be called: twice in the time after which the manager gives the daemon
  // up. 0: nobody waits for it.
  std::chrono::milliseconds alive_every() const { return alive_every_; }

 private:
  void Send(absl::string_view text) const;

  std::string socket_;
  std::chrono::milliseconds alive_every_{0};
};

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_SERVICE_MANAGER_H_
