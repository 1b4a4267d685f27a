// The two ends of the link: a thread each that carries bytes between a Port and a stream socket
// that gRPC owns the other end of, through a Session (session.h). gRPC 1.51 can only speak over
// sockets; a port is none.
#ifndef VIRT_RECLAIM_PROTO_LINK_BRIDGE_H_
#define VIRT_RECLAIM_PROTO_LINK_BRIDGE_H_

#include <chrono>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "proto/link/port.h"

namespace virt_reclaim::link {

// The host's end: one session, from Open to destruction.
class HostLink {
 public:
  struct Options {
    // Until the agent answered HELLO with WELCOME.
    std::chrono::milliseconds connect_timeout{2000};
    // Cap on what the guest may send in this session, the guard against endless streams. Bytes of
    // payload.
    uint64_t max_received_bytes = uint64_t{64} << 20;
  };
  // Starts the session: DeadlineExceeded when no agent answered in time, Cancelled when stopped,
  // Unavailable when the port broke or the session ended at once, FailedPrecondition when the agent
  // speaks another version of the link. Blocks at most `connect_timeout`, and starts its thread
  // only when it succeeds.
  static absl::StatusOr<std::unique_ptr<HostLink>> Open(std::unique_ptr<Port> port,
                                                        const Options& options,
                                                        std::stop_token stop);
  // Says goodbye (BYE), waiting at most 100 ms for it to be written, closes gRPC's pair and joins
  // the thread.
  virtual ~HostLink() = default;

  // gRPC's end of the pair; once. Non-blocking; hand it to grpc::CreateCustomInsecureChannelFromFd,
  // which owns it then.
  virtual UniqueFd TakeSocket() = 0;
  // Why the session ended, empty while it lives: "the agent restarted", "no sign of life for 2 s".
  // Any thread.
  virtual std::string EndReason() const = 0;
};

// Called on the link's thread at its start and every so often, whether anything happens or not: who
// watches over the process sees that the link is not stuck.
struct Heartbeat {
  std::chrono::milliseconds every{0};
  std::function<void()> beat;  // empty: none
};

// The agent's end: session after session over one port.
class AgentLink {
 public:
  // Called on the link's thread with the server's end of a new session's pair (non-blocking): hand
  // it to grpc::AddInsecureChannelFromFd. The link closes its own end when the session is over.
  using OnSession = std::function<void(UniqueFd socket)>;

  // Asked on the link's thread at the start of a session, and then before every 16 KiB or so of
  // what the host sends are handed on: why the session has to end; empty: it may go on. For what
  // gRPC cannot bound by itself. Between two honest calls it is hardly ever asked.
  using Guard = std::function<std::string(bool start)>;

  AgentLink(std::unique_ptr<Port> port, OnSession on_session, Guard guard = {});
  ~AgentLink();

  // Serves until stopped (OK) or until the port is gone (Unavailable, with the reason). While no
  // session is open it sleeps without a timer but the heartbeat's.
  absl::Status Run(std::stop_token stop, const Heartbeat& heartbeat = {});

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace virt_reclaim::link

#endif  // VIRT_RECLAIM_PROTO_LINK_BRIDGE_H_
