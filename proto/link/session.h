// The session layer of the link, without any I/O: bytes of the port and the time go in, bytes for
// the port and for gRPC come out. It turns a pipe that knows no connections (stale bytes of earlier
// hosts and agents, bytes lost and damaged, peers that vanish and restart without a word) into one
// stream at a time that is either intact or ended, with a reason. frame.h is the wire format.
//
//   host     kConnecting --WELCOME--> kOpen --BYE--> kDraining --> kEnded
//   agent    kIdle --HELLO--> kOpen --BYE--> kDraining --> kIdle
//
// The host knocks (HELLO with a random session id) until WELCOME comes. Frames of other sessions
// are dropped, a damaged or lost frame inside the session ends it: nothing is ever repeated or
// repaired, the user opens a new session. Who pings is the host, the agent only answers; both give
// up after 2 s without any valid frame of the session. An agent without session has no deadline: it
// costs a sleeping guest nothing. After BYE with EndCode::kFinished, what came before it can still
// be read (kDraining); after any other end it is dropped.
//
// Neither end believes the other: all buffers are bounded by our own window, all counters of the
// peer are checked. One thread.
#ifndef VIRT_RECLAIM_PROTO_LINK_SESSION_H_
#define VIRT_RECLAIM_PROTO_LINK_SESSION_H_

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "proto/link/byte_queue.h"
#include "proto/link/frame.h"
#include "proto/link/outbox.h"

namespace virt_reclaim::link {

// Rhythm and bounds; frame.h has those that are part of the wire format.
inline constexpr std::chrono::milliseconds kHelloInterval{150};
inline constexpr std::chrono::milliseconds kPingInterval{500};
inline constexpr std::chrono::milliseconds kSilenceLimit{2000};
// Waking up this late after the silence limit means that we slept ourselves (a stopped process, a
// paused guest): the peer gets kSilenceLimit / 2 to be heard.
inline constexpr std::chrono::milliseconds kOversleep{500};
// An agent or host that reads no more than what is left after BYE holds the session open for at
// most this long.
inline constexpr std::chrono::milliseconds kDrainLimit{2000};
inline constexpr uint32_t kDefaultWindow = 256 * 1024;
// No more DATA is taken from gRPC while this much waits for the port.
inline constexpr size_t kOutboxTarget = size_t{64} * 1024;
// Frames that are no use (other sessions', repeated ANNOUNCEs) a host swallows in one session.
// Honest stale bytes are at most what a port holds, 4.4 MB.
inline constexpr uint64_t kMaxUselessBytes = uint64_t{16} << 20;

// Not 0, from the kernel's random generator.
uint64_t RandomId();

class Session {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  enum class Role { kHost, kAgent };
  enum class State {
    kIdle,        // agent: no session
    kConnecting,  // host: knocking
    kOpen,
    kDraining,  // the peer has said all and left; something of it still waits in Incoming()
    kEnded,     // host: over for good
  };
  struct Options {
    Role role = Role::kHost;
    std::function<uint64_t()> random = RandomId;
    uint32_t window = kDefaultWindow;
    uint64_t max_received_bytes = 0;  // of DATA in a session, 0: no cap
  };

  // An agent is ready with this; a host starts to knock.
  Session(Options options, TimePoint now);

  State state() const { return state_; }
  // Of the session that is open or draining, or knocked for; else 0. A change is a change of
  // session: gRPC's stream of the old one is over, and what came for it is gone.
  uint64_t id() const { return id_; }
  // Why the last session ended; empty before that.
  const std::string& end_reason() const { return end_reason_; }
  // The version in which the agent refused the session, if that is why it ended.
  std::optional<uint8_t> refused_by_version() const { return refused_by_version_; }

  // The port's side. PeerAppeared: the port says that there is somebody; PeerLost: that there is
  // nobody now.
  void PeerAppeared(TimePoint now);
  void PeerLost(TimePoint now);
  void Receive(TimePoint now, std::span<const uint8_t> bytes);
  // What to write next, valid until the next call of a function that is not const. Bounded,
  // whatever the peer sends.
  std::span<const uint8_t> Output();
  void OutputWritten(size_t count) { outbox_.Pop(count); }

  // gRPC's side. What came for it, and how much of that it has taken.
  std::span<const uint8_t> Incoming() const { return incoming_.bytes(); }
  void Consume(size_t count);
  // How many bytes Send takes now.
  size_t SendCapacity() const;
  void Send(std::span<const uint8_t> bytes);
  // gRPC has closed its end: BYE after what is already sent.
  void Finish();
  // The session cannot go on, for reasons of this end: BYE at once.
  void Abort(std::string reason);

  // When to call Tick at the latest (but after Receive, if there is something to read: it may be
  // the sign of life).
  std::optional<TimePoint> deadline() const;
  void Tick(TimePoint now);

 private:
  bool is_host() const { return options_.role == Role::kHost; }
  bool IsLive() const { return state_ == State::kOpen || state_ == State::kDraining; }

  void OnFrame(TimePoint now, const Frame& frame, size_t cost);
  void OnHello(TimePoint now, const Frame& frame);
  void OnAnnounce(TimePoint now, const Frame& frame);
  void OnKnockAnswer(TimePoint now, const Frame& frame);
  void OnRepeatedWelcome(TimePoint now, const Frame& frame);
  void OnSessionFrame(TimePoint now, const Frame& frame);
  void OnData(std::span<const uint8_t> payload);
  void OnCount(FrameType type, std::span<const uint8_t> payload);
  void OnBye(TimePoint now, const Frame& frame);
  void OnUseless(size_t cost);

  void Open(TimePoint now, uint32_t peer_window);
  void Fail(EndCode code, std::string reason);
  void End(std::string reason);
  bool HasEnded(uint64_t id) const;
  void SayBye(uint64_t id, uint32_t seq, EndCode code);
  void AppendCount(FrameType type);
  void AppendWelcome();
  void AppendDue();

  Options options_;
  uint64_t instance_;  // agent: our own
  State state_ = State::kIdle;
  uint64_t id_ = 0;
  std::string end_reason_;
  std::optional<uint8_t> refused_by_version_;
  FrameDecoder decoder_;
  Outbox outbox_;

  // Small frames that are due. Flags instead of frames in the outbox, so that a peer that asks and
  // never reads fills nothing.
  bool hello_due_ = false;
  bool welcome_due_ = false;
  bool announce_due_ = false;
  bool ping_due_ = false;
  bool pong_due_ = false;
  bool credit_due_ = false;
  struct Refusal {
    uint64_t id;
    EndCode code;
  };
  std::optional<Refusal> refusal_due_;

  // Host, knocking.
  TimePoint last_hello_;
  TimePoint next_hello_;
  bool new_id_next_ = false;  // something of this id came, but no WELCOME: it is lost

  // Agent: sessions that are over, so that a HELLO left over of one does not bring it back.
  std::array<uint64_t, 16> ended_{};
  size_t ended_next_ = 0;

  // The session that is open or draining.
  uint64_t peer_instance_ = 0;  // host: the agent's
  TimePoint last_heard_;
  TimePoint next_ping_;
  // A slow agent may have several to answer, and answers those that it finds together by one PONG:
  // not more are to be expected than this.
  uint32_t pings_unanswered_ = 0;
  uint32_t send_seq_ = 0;
  uint32_t receive_seq_ = 0;
  uint64_t peer_window_ = 0;
  uint64_t sent_ = 0;
  uint64_t peer_consumed_ = 0;
  uint64_t received_ = 0;
  uint64_t consumed_ = 0;
  uint64_t consumed_told_ = 0;
  uint64_t useless_ = 0;
  ByteQueue incoming_;
};

}  // namespace virt_reclaim::link

#endif  // VIRT_RECLAIM_PROTO_LINK_SESSION_H_
