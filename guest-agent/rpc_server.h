// gRPC's server without a listening port: it serves the sockets it is given. One thread does all of
// gRPC's work and answers what never blocks; a call that may take long has a thread of its own.
// gRPC's own pool of threads would hand every call from one to the other, which in a small guest is
// most of the call's time.
#ifndef VIRT_RECLAIM_GUEST_AGENT_RPC_SERVER_H_
#define VIRT_RECLAIM_GUEST_AGENT_RPC_SERVER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "guest-agent/service.h"

namespace virt_reclaim::agent {

class RpcServer {
 public:
  // `service` outlives the server. Internal: gRPC could not be started.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(AgentService& service);
  // Cancels the calls under way and waits for them. Tell the service to stop before, and close the
  // other ends of the sockets: gRPC 1.51 may wait 10 s for a peer that sends and never reads.
  virtual ~RpcServer() = default;

  // Serves `socket` (a non-blocking stream socket) until its other end is closed. Any thread.
  virtual void Attach(UniqueFd socket) = 0;

  // Whether a call that may take long is under way. Any thread.
  virtual bool IsBusy() = 0;
};

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_RPC_SERVER_H_
