// `virt-reclaim-agent daemon`: serves the host over the port for as long as there is one, and waits
// for it when there is none. The calling thread is the link's.
#ifndef VIRT_RECLAIM_GUEST_AGENT_DAEMON_H_
#define VIRT_RECLAIM_GUEST_AGENT_DAEMON_H_

#include <stop_token>
#include <string>

namespace virt_reclaim::agent {

struct DaemonOptions {
  std::string port;  // empty: the port named kPortName
};

// Until stopped. A port that is missing, busy or unplugged is waited for, with one line on stderr
// for each change; that is the same under systemd (whose BindsTo= stops the unit of a port that
// went) and under a plain init. systemd is told when the daemon is ready, what it waits for and, if
// it asks (WatchdogSec=), that the link is alive. Returns an exit status, within a second of the
// stop.
int RunDaemon(const DaemonOptions& options, const std::stop_token& stop);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_DAEMON_H_
