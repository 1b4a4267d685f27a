// Moves the bytes: port <-> Session <-> one end of a socketpair whose other end gRPC owns. What
// HostLink and AgentLink have in common. One thread uses a Pump (it may be handed on before a
// round); Wake alone may be called from any.
//
// All descriptors are watched edge-triggered and read or written until they would block: a
// virtio-serial port without a host reports IN and HUP for ever, and a level-triggered wait on it
// would be a busy loop.
#ifndef VIRT_RECLAIM_PROTO_LINK_PUMP_H_
#define VIRT_RECLAIM_PROTO_LINK_PUMP_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/unique_fd.h"
#include "proto/link/port.h"
#include "proto/link/session.h"

namespace virt_reclaim::link {

class Pump {
 public:
  using TimePoint = Session::TimePoint;
  struct Hooks {
    // A session opened: gRPC's end of its pair.
    std::function<void(UniqueFd socket)> on_open;
    // It ended; called before the pair is closed, so that who sees the stream break finds the
    // reason.
    std::function<void(const std::string& reason)> on_end;
    // gRPC may be given so many bytes; why the session has to end instead, empty: it may go on.
    // With it no more than kGuardedBytes wait in the pair for gRPC. May be empty.
    std::function<std::string(size_t bytes)> on_deliver = {};
  };

  Pump(std::unique_ptr<Port> port, Session::Options options, Hooks hooks);

  absl::Status Init();

  // Moves what can be moved now; sleeps when that is nothing, until an edge, the session's
  // deadline, `until` or Wake.
  void Round(std::optional<TimePoint> until);
  // Says goodbye and closes the pair, waiting for the port to take the last bytes, but at most
  // kGoodbyeLimit.
  void Goodbye();
  void Wake();

  const Session& session() const { return session_; }
  // Why the port is finished for good; empty while it is not.
  const std::string& port_error() const { return port_error_; }

 private:
  static constexpr std::chrono::milliseconds kGoodbyeLimit{100};
  static constexpr int kGuardedBytes = 16 * 1024;

  enum class Source : uint32_t { kWake, kPort, kPair };

  absl::Status Watch(int fd, int operation, Source source, uint32_t edges);
  void WatchWhatMatters();
  bool ReadPort();
  bool WritePort();
  void PortGone(std::string error);
  void FollowSession();
  void OpenPair();
  void ClosePair();
  bool Deliver();
  bool Collect();
  void Wait(int milliseconds);

  const std::unique_ptr<Port> port_;
  Session session_;
  const Hooks hooks_;
  UniqueFd epoll_;
  UniqueFd wake_;
  std::vector<uint8_t> buffer_;
  int busy_rounds_ = 0;

  uint32_t port_edges_;  // what epoll_ was asked for
  bool port_readable_ = true;
  bool port_writable_ = false;
  bool peer_present_ = false;  // as far as the port tells
  std::string port_error_;
  std::string write_error_;  // what the peer said before it went may still be read

  UniqueFd pair_;         // our end
  uint64_t pair_id_ = 0;  // of the session it belongs to
  uint32_t pair_edges_ = 0;
  bool pair_readable_ = false;
  bool pair_writable_ = false;
};

}  // namespace virt_reclaim::link

#endif  // VIRT_RECLAIM_PROTO_LINK_PUMP_H_
