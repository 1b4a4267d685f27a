// Brings the link's sessions to gRPC, which is there only while there are sessions: gRPC 1.51 wakes
// up twice a second as long as it is initialized, and an idle agent must not. A thread sleeps on
// the sessions' ends and takes gRPC's server down a little after the last.
#ifndef VIRT_RECLAIM_GUEST_AGENT_SERVER_H_
#define VIRT_RECLAIM_GUEST_AGENT_SERVER_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "base/unique_fd.h"
#include "guest-agent/rpc_server.h"
#include "guest-agent/service.h"

namespace virt_reclaim::agent {

// How long the server outlives the last session: hosts come back, and a trim that was cut off needs
// a second to end.
inline constexpr std::chrono::milliseconds kServerLinger{4000};

// gRPC 1.51 keeps no server within its memory quota whose peer opens calls and drops them faster
// than they can be answered (rapid reset: 7 GiB in 20 s were seen), or reads no answers. The link
// asks this; what of the attack lies in sockets and queues comes on top. One thread.
class MemoryGuard {
 public:
  // link::AgentLink::Guard: ends the session in which this process has grown by more than
  // kMostGrowthBytes over the least that it had when a session began.
  std::string operator()(bool start);

 private:
  static constexpr uint64_t kMostGrowthBytes = uint64_t{48} << 20;
  std::optional<uint64_t> least_;  // bytes resident
};

class AgentServer {
 public:
  // `service` outlives the server.
  explicit AgentServer(AgentService& service);
  // Stops the service's trim. Close the other ends of the sockets first: gRPC waits for a peer that
  // never reads.
  ~AgentServer();

  // Serves `socket` (a non-blocking stream socket), which gRPC then owns. Internal when no server
  // could be built. Any thread.
  absl::Status Attach(UniqueFd socket);

  // Whether gRPC runs now. Any thread.
  bool IsRunning();

 private:
  void Watch(const std::stop_token& stop);
  // Takes the server down when there is no session. Called by the watching thread.
  void TakeDownIfIdle();

  AgentService& service_;
  UniqueFd wake_;  // eventfd: the list of sessions has changed
  std::mutex mutex_;
  std::unique_ptr<RpcServer> server_;
  std::vector<UniqueFd> sessions_;  // duplicates of gRPC's sockets, to see them end
  std::jthread watch_;              // started with the first session
};

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_SERVER_H_
