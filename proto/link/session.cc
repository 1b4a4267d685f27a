#include "proto/link/session.h"

#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/unique_fd.h"
#include "proto/link/little_endian.h"

namespace virt_reclaim::link {
namespace {

// The answer to an ANNOUNCE does not wait for the next knock, but a flood of them must not become a
// flood of HELLOs.
constexpr std::chrono::milliseconds kMinHelloInterval{10};

std::string SaidBye(absl::string_view peer, uint8_t code) {
  switch (static_cast<EndCode>(code)) {
    case EndCode::kFinished:
      return absl::StrCat("the ", peer, " closed the session");
    case EndCode::kBadFrame:
      return absl::StrCat("the ", peer, " received a damaged frame");
    case EndCode::kLostFrame:
      return absl::StrCat("frames to the ", peer, " were lost");
    case EndCode::kProtocol:
      return absl::StrCat("the ", peer, " saw a breach of the link's protocol");
    case EndCode::kSilence:
      return absl::StrCat("the ", peer, " had no sign of life from here");
    case EndCode::kVersion:
      return absl::StrCat("the ", peer, " speaks another version of the link");
    case EndCode::kTooMuch:
      return absl::StrCat("the ", peer, " takes no more bytes");
    case EndCode::kTrouble:
      break;
  }
  return absl::StrCat("the ", peer, " gave up the session");
}

}  // namespace

uint64_t RandomId() {
  uint64_t id = 0;
  while (id == 0) {
    if (getrandom(&id, sizeof id, 0) == sizeof id) continue;
    // Only a kernel older than 3.17 or a seccomp filter gets here. Ids must differ, they need not
    // be secret: std::random_device may wait until the kernel has gathered enough for secrets,
    // which in an idle guest takes minutes.
    const UniqueFd device(open("/dev/urandom", O_RDONLY | O_CLOEXEC));
    if (device.valid() && read(device.get(), &id, sizeof id) == sizeof id) continue;
    id = static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count());
  }
  return id;
}

Session::Session(Options options, TimePoint now)
    : options_(std::move(options)), instance_(is_host() ? 0 : options_.random()) {
  if (!is_host()) return;
  state_ = State::kConnecting;
  id_ = options_.random();
  hello_due_ = true;
  last_hello_ = now;
  next_hello_ = now + kHelloInterval;
}

void Session::PeerAppeared(TimePoint now) {
  if (!is_host()) announce_due_ = true;
  if (state_ == State::kConnecting) {
    hello_due_ = true;
    last_hello_ = now;
  }
}

void Session::PeerLost(TimePoint) {
  decoder_.Reset();
  outbox_.Clear();
  announce_due_ = false;
  refusal_due_.reset();
  // A host may still read what the agent had said before it left in order; for an agent nobody
  // waits any more.
  if (state_ == State::kOpen || (state_ == State::kDraining && !is_host())) {
    End(absl::StrCat("the ", is_host() ? "agent" : "host", " left the port"));
  }
}

void Session::Receive(TimePoint now, std::span<const uint8_t> bytes) {
  Frame frame;
  while (true) {
    const size_t before = bytes.size();
    switch (decoder_.Next(&bytes, &frame)) {
      case FrameDecoder::Found::kNothing:
        return;
      case FrameDecoder::Found::kBadFrame:
        // Outside a session: somebody's remains. Inside, it may have been ours, the last one of a
        // reply, after which no gap would ever show.
        if (state_ == State::kOpen) Fail(EndCode::kBadFrame, "a damaged frame was received");
        break;
      case FrameDecoder::Found::kFrame:
        OnFrame(now, frame, before - bytes.size());
        break;
    }
  }
}

void Session::OnFrame(TimePoint now, const Frame& frame, size_t cost) {
  if (!is_host() && frame.type == FrameType::kHello) return OnHello(now, frame);
  if (is_host() && frame.type == FrameType::kAnnounce) {
    OnUseless(cost);
    return OnAnnounce(now, frame);
  }
  if (id_ == 0 || frame.session != id_) return OnUseless(cost);
  if (state_ == State::kConnecting) return OnKnockAnswer(now, frame);
  if (state_ == State::kOpen && frame.version != kWireVersion) {
    return Fail(EndCode::kProtocol, "a frame of another version was received");
  }
  if (state_ == State::kOpen) return OnSessionFrame(now, frame);
  OnUseless(cost);
}

void Session::OnHello(TimePoint now, const Frame& frame) {
  if (frame.session == 0) return;
  if (frame.version != kWireVersion) {
    refusal_due_ = Refusal{frame.session, EndCode::kVersion};
    return;
  }
  if (frame.payload.size() < sizeof(uint32_t)) return;
  if (state_ == State::kOpen && frame.session == id_) {
    // The host knocks until it hears WELCOME, and its knocks queue up while the guest boots.
    last_heard_ = now;
    welcome_due_ = true;
    return;
  }
  if (frame.session == id_ || HasEnded(frame.session)) {
    refusal_due_ = Refusal{frame.session, EndCode::kFinished};
    return;
  }
  if (IsLive()) End("another host opened a session");
  outbox_.DropUnstarted();
  id_ = frame.session;
  Open(now, GetLittleEndian<uint32_t>(frame.payload.data()));
  AppendWelcome();
}

void Session::OnAnnounce(TimePoint now, const Frame& frame) {
  if (frame.version != kWireVersion || frame.payload.size() < sizeof(uint64_t)) return;
  if (state_ == State::kConnecting && now - last_hello_ >= kMinHelloInterval) {
    hello_due_ = true;
    last_hello_ = now;
  } else if (state_ == State::kOpen &&
             GetLittleEndian<uint64_t>(frame.payload.data()) != peer_instance_) {
    outbox_.DropUnstarted();
    End("the agent restarted");
  }
}

void Session::OnKnockAnswer(TimePoint now, const Frame& frame) {
  if (frame.version != kWireVersion) {
    refused_by_version_ = frame.version;
    return End(absl::StrCat("the agent speaks version ", frame.version,
                            " of the link, this program version ", kWireVersion));
  }
  if (frame.type != FrameType::kWelcome || frame.payload.size() < 12) {
    // The agent has the session open, or open and ended, but its WELCOME was lost; DATA may be lost
    // with it. A new id starts afresh, at the next knock: an agent that refuses all must not make
    // us knock in a loop.
    new_id_next_ = true;
    return;
  }
  peer_instance_ = GetLittleEndian<uint64_t>(frame.payload.data());
  Open(now, GetLittleEndian<uint32_t>(&frame.payload[8]));
  next_ping_ = now + kPingInterval;
}

void Session::OnRepeatedWelcome(TimePoint now, const Frame& frame) {
  // One of our queued knocks may have been answered by the next agent after ours died.
  if (frame.payload.size() >= 12 &&
      GetLittleEndian<uint64_t>(frame.payload.data()) != peer_instance_) {
    outbox_.DropUnstarted();
    return End("the agent restarted");
  }
  last_heard_ = now;
  OnUseless(kFrameHeaderSize);
}

void Session::OnSessionFrame(TimePoint now, const Frame& frame) {
  const bool from_agent = is_host();
  switch (frame.type) {
    case FrameType::kWelcome:
      if (from_agent) return OnRepeatedWelcome(now, frame);
      break;
    case FrameType::kBye:
      return OnBye(now, frame);
    case FrameType::kData:
    case FrameType::kCredit:
    case FrameType::kPing:
    case FrameType::kPong:
      if (frame.seq != receive_seq_) {
        return Fail(EndCode::kLostFrame, "frames were lost on the way");
      }
      last_heard_ = now;
      if (frame.type == FrameType::kData) return OnData(frame.payload);
      if (frame.type == FrameType::kPing && from_agent) break;
      if (frame.type == FrameType::kPong && (!from_agent || pings_unanswered_ == 0)) break;
      return OnCount(frame.type, frame.payload);
    case FrameType::kHello:
    case FrameType::kAnnounce:
      break;
    default:
      return OnUseless(kFrameHeaderSize + frame.payload.size());
  }
  Fail(EndCode::kProtocol, absl::StrCat("a frame of type ", static_cast<int>(frame.type),
                                        " was received where it has no place"));
}

void Session::OnData(std::span<const uint8_t> payload) {
  if (payload.empty()) return Fail(EndCode::kProtocol, "an empty data frame was received");
  if (payload.size() > options_.window - incoming_.size()) {
    return Fail(EndCode::kProtocol, "more bytes were received than the window allows");
  }
  if (options_.max_received_bytes != 0 &&
      payload.size() > options_.max_received_bytes - received_) {
    return Fail(EndCode::kTooMuch,
                absl::StrCat("more than ", FormatByteSize(options_.max_received_bytes),
                             " were received in one session"));
  }
  incoming_.Append(payload);
  received_ += payload.size();
  ++receive_seq_;
}

void Session::OnCount(FrameType type, std::span<const uint8_t> payload) {
  if (payload.size() < sizeof(uint64_t)) {
    return Fail(EndCode::kProtocol, "a frame that is too short was received");
  }
  const uint64_t consumed = GetLittleEndian<uint64_t>(payload.data());
  // CREDIT without any progress would be a way to keep us busy for nothing.
  const uint64_t least = peer_consumed_ + (type == FrameType::kCredit ? 1 : 0);
  if (consumed < least || consumed > sent_) {
    return Fail(EndCode::kProtocol, "an impossible count of consumed bytes was received");
  }
  peer_consumed_ = consumed;
  if (type == FrameType::kPing) pong_due_ = true;
  if (type == FrameType::kPong) --pings_unanswered_;
}

void Session::OnBye(TimePoint now, const Frame& frame) {
  const uint8_t code = frame.payload.empty() ? uint8_t{0} : frame.payload[0];
  const bool finished = code == static_cast<uint8_t>(EndCode::kFinished);
  outbox_.DropUnstarted();
  // A peer that gives up drops what it had not sent yet, so only the seq of an orderly end says
  // something.
  if (finished && frame.seq != receive_seq_) return End("frames were lost on the way");
  std::string reason = SaidBye(is_host() ? "agent" : "host", code);
  if (!finished || incoming_.empty()) return End(std::move(reason));
  state_ = State::kDraining;
  end_reason_ = std::move(reason);
  last_heard_ = now;
}

void Session::OnUseless(size_t cost) {
  if (!is_host() || state_ != State::kOpen) return;
  useless_ += cost;
  if (useless_ > kMaxUselessBytes) {
    Fail(EndCode::kTooMuch, "too many frames that belong to no session were received");
  }
}

void Session::Open(TimePoint now, uint32_t peer_window) {
  state_ = State::kOpen;
  end_reason_.clear();
  last_heard_ = now;
  hello_due_ = welcome_due_ = ping_due_ = pong_due_ = credit_due_ = false;
  pings_unanswered_ = 0;
  send_seq_ = receive_seq_ = 0;
  peer_window_ = peer_window;
  sent_ = peer_consumed_ = received_ = consumed_ = consumed_told_ = useless_ = 0;
  incoming_.Clear();
}

void Session::Fail(EndCode code, std::string reason) {
  outbox_.DropUnstarted();
  SayBye(id_, send_seq_, code);
  End(std::move(reason));
}

void Session::End(std::string reason) {
  if (!is_host()) {
    ended_[ended_next_] = id_;
    ended_next_ = (ended_next_ + 1) % ended_.size();
  }
  state_ = is_host() ? State::kEnded : State::kIdle;
  id_ = 0;
  end_reason_ = std::move(reason);
  hello_due_ = welcome_due_ = ping_due_ = pong_due_ = credit_due_ = false;
  incoming_.Clear();
}

bool Session::HasEnded(uint64_t id) const {
  return std::find(ended_.begin(), ended_.end(), id) != ended_.end();
}

std::span<const uint8_t> Session::Output() {
  if (outbox_.size() < kOutboxTarget) AppendDue();
  return outbox_.bytes();
}

void Session::AppendDue() {
  if (std::exchange(announce_due_, false)) {
    std::array<uint8_t, 8> payload;
    PutLittleEndian(instance_, payload.data());
    outbox_.Append({.type = FrameType::kAnnounce, .payload = payload});
  }
  if (refusal_due_) SayBye(refusal_due_->id, 0, refusal_due_->code);
  refusal_due_.reset();
  if (std::exchange(hello_due_, false)) {
    std::array<uint8_t, 4> payload;
    PutLittleEndian(options_.window, payload.data());
    outbox_.Append({.type = FrameType::kHello, .session = id_, .payload = payload});
  }
  if (std::exchange(welcome_due_, false)) AppendWelcome();
  if (std::exchange(ping_due_, false)) {
    ++pings_unanswered_;
    AppendCount(FrameType::kPing);
  }
  if (std::exchange(pong_due_, false)) AppendCount(FrameType::kPong);
  if (std::exchange(credit_due_, false) && consumed_ != consumed_told_) {
    AppendCount(FrameType::kCredit);
  }
}

void Session::AppendWelcome() {
  std::array<uint8_t, 12> payload;
  PutLittleEndian(instance_, payload.data());
  PutLittleEndian(options_.window, &payload[8]);
  outbox_.Append({.type = FrameType::kWelcome, .session = id_, .payload = payload});
}

void Session::AppendCount(FrameType type) {
  std::array<uint8_t, 8> payload;
  PutLittleEndian(consumed_, payload.data());
  consumed_told_ = consumed_;
  outbox_.Append({.type = type, .seq = send_seq_, .session = id_, .payload = payload});
}

void Session::SayBye(uint64_t id, uint32_t seq, EndCode code) {
  const std::array<uint8_t, 1> payload{static_cast<uint8_t>(code)};
  outbox_.Append({.type = FrameType::kBye, .seq = seq, .session = id, .payload = payload});
}

void Session::Consume(size_t count) {
  incoming_.Pop(count);
  consumed_ += count;
  if (consumed_ - consumed_told_ >= options_.window / 4) credit_due_ = state_ == State::kOpen;
  if (state_ == State::kDraining && incoming_.empty()) End(end_reason_);
}

size_t Session::SendCapacity() const {
  if (state_ != State::kOpen || outbox_.size() >= kOutboxTarget) return 0;
  // Up to two targets, so that an outbox that is nearly full does not lead to tiny frames.
  const uint64_t room = 2 * kOutboxTarget - outbox_.size();
  return static_cast<size_t>(
      std::min(room, peer_window_ - std::min(peer_window_, sent_ - peer_consumed_)));
}

void Session::Send(std::span<const uint8_t> bytes) {
  bytes = bytes.first(std::min(bytes.size(), SendCapacity()));
  sent_ += bytes.size();
  while (!bytes.empty()) {
    const auto piece = bytes.first(std::min(bytes.size(), kMaxPayload));
    outbox_.Append(
        {.type = FrameType::kData, .seq = send_seq_++, .session = id_, .payload = piece});
    bytes = bytes.subspan(piece.size());
  }
}

void Session::Finish() {
  if (state_ == State::kOpen) SayBye(id_, send_seq_, EndCode::kFinished);
  if (IsLive()) End("closed by this end");
}

void Session::Abort(std::string reason) {
  if (state_ == State::kOpen) return Fail(EndCode::kTrouble, std::move(reason));
  if (id_ != 0) End(std::move(reason));
}

std::optional<Session::TimePoint> Session::deadline() const {
  switch (state_) {
    case State::kConnecting:
      return next_hello_;
    case State::kOpen:
      return is_host() ? std::min(next_ping_, last_heard_ + kSilenceLimit)
                       : last_heard_ + kSilenceLimit;
    case State::kDraining:
      return last_heard_ + kDrainLimit;
    case State::kIdle:
    case State::kEnded:
      break;
  }
  return std::nullopt;
}

void Session::Tick(TimePoint now) {
  if (state_ == State::kConnecting && now >= next_hello_) {
    if (std::exchange(new_id_next_, false)) id_ = options_.random();
    hello_due_ = true;
    last_hello_ = now;
    next_hello_ = now + kHelloInterval;
  }
  if (state_ == State::kDraining && now >= last_heard_ + kDrainLimit) End(end_reason_);
  if (state_ != State::kOpen) return;
  if (is_host() && now >= next_ping_) {
    ping_due_ = true;
    next_ping_ = now + kPingInterval;
  }
  const auto late = now - (last_heard_ + kSilenceLimit);
  if (late >= kOversleep) {
    last_heard_ = now - kSilenceLimit / 2;
  } else if (late >= TimePoint::duration::zero()) {
    Fail(EndCode::kSilence, absl::StrCat("no sign of life of the ", is_host() ? "agent" : "host",
                                         " for ", kSilenceLimit.count() / 1000, " s"));
  }
}

}  // namespace virt_reclaim::link
