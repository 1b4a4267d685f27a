#include "proto/link/pump.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace virt_reclaim::link {
namespace {

constexpr size_t kReadSize = size_t{64} * 1024;
// A peer that never stops talking must not keep us from looking for edges of the others.
constexpr int kMaxBusyRounds = 16;

Session::TimePoint Now() { return std::chrono::steady_clock::now(); }

constexpr uint32_t kEdges = EPOLLIN | EPOLLET;

// For epoll_wait, rounded up: or the last millisecond before the deadline would be spent spinning.
int Milliseconds(std::optional<Session::TimePoint> until) {
  if (!until) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(*until - Now());
  return static_cast<int>(std::clamp<int64_t>(left.count(), 0, 60'000));
}

}  // namespace

Pump::Pump(std::unique_ptr<Port> port, Session::Options options, Hooks hooks)
    : port_(std::move(port)),
      session_(std::move(options), Now()),
      hooks_(std::move(hooks)),
      buffer_(kReadSize),
      port_edges_(kEdges | EPOLLOUT) {}

absl::Status Pump::Init() {
  epoll_.Reset(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_.valid()) return ErrnoStatus(errno, "epoll_create1");
  wake_.Reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_.valid()) return ErrnoStatus(errno, "eventfd");
  VR_RETURN_IF_ERROR(Watch(wake_.get(), EPOLL_CTL_ADD, Source::kWake, kEdges));
  return Watch(port_->fd(), EPOLL_CTL_ADD, Source::kPort, port_edges_);
}

absl::Status Pump::Watch(int fd, int operation, Source source, uint32_t edges) {
  epoll_event event{};
  event.events = edges;
  event.data.u32 = static_cast<uint32_t>(source);
  if (epoll_ctl(epoll_.get(), operation, fd, &event) != 0) return ErrnoStatus(errno, "epoll_ctl");
  return absl::OkStatus();
}

// Asks for edges of writability only while they are needed: each byte the other side takes makes
// one, and in a small guest every wakeup counts. Changing what is asked for reports again what is
// the case already, so that no edge is lost in between.
void Pump::WatchWhatMatters() {
  const auto ask = [this](int fd, Source source, bool writable, uint32_t* edges) {
    const uint32_t wanted = writable ? kEdges : kEdges | EPOLLOUT;
    if (wanted == *edges || !Watch(fd, EPOLL_CTL_MOD, source, wanted).ok()) return;
    *edges = wanted;
  };
  // A port's first edge of a new peer is that it takes bytes.
  if (port_error_.empty()) {
    ask(port_->fd(), Source::kPort, peer_present_ && port_writable_, &port_edges_);
  }
  if (pair_.valid()) ask(pair_.get(), Source::kPair, pair_writable_, &pair_edges_);
}

void Pump::Wake() {
  const uint64_t one = 1;
  // Can only fail with EAGAIN, when the counter is full: then the edge is there already.
  static_cast<void>(!write(wake_.get(), &one, sizeof one));
}

void Pump::Round(std::optional<TimePoint> until) {
  bool progress = ReadPort();
  // After the read: what lay in the port may be the sign of life that the deadline misses.
  session_.Tick(Now());
  FollowSession();
  progress |= Deliver();
  progress |= Collect();
  FollowSession();
  progress |= WritePort();
  if (progress && ++busy_rounds_ < kMaxBusyRounds) return;
  busy_rounds_ = 0;
  if (progress) return Wait(0);
  const auto deadline = session_.deadline();
  if (deadline && (!until || *deadline < *until)) until = deadline;
  Wait(Milliseconds(until));
}

void Pump::Wait(int milliseconds) {
  WatchWhatMatters();
  std::array<epoll_event, 4> events{};
  const int count = epoll_wait(epoll_.get(), events.data(), events.size(), milliseconds);
  for (int i = 0; i < count; ++i) {
    switch (static_cast<Source>(events[static_cast<size_t>(i)].data.u32)) {
      case Source::kWake: {
        uint64_t value = 0;
        static_cast<void>(!read(wake_.get(), &value, sizeof value));
        break;
      }
      case Source::kPort:
        port_->AcknowledgeEdge();
        port_readable_ = port_writable_ = true;
        break;
      case Source::kPair:
        pair_readable_ = pair_writable_ = true;
        break;
    }
  }
}

bool Pump::ReadPort() {
  if (!port_readable_) return false;
  IoResult result = port_->Read(buffer_);
  switch (result.kind) {
    case IoResult::Kind::kNoPeer:
      port_readable_ = false;
      if (std::exchange(peer_present_, false)) session_.PeerLost(Now());
      return false;
    case IoResult::Kind::kGone:
      PortGone(std::move(result.error));
      return true;  // not to sleep: no edge will come any more
    case IoResult::Kind::kWouldBlock:
      port_readable_ = false;
      if (!write_error_.empty()) {
        PortGone(write_error_);
        return true;
      }
      break;
    case IoResult::Kind::kBytes:
      break;
  }
  if (!peer_present_) {
    peer_present_ = port_writable_ = true;
    session_.PeerAppeared(Now());
  }
  if (result.kind != IoResult::Kind::kBytes) return false;
  session_.Receive(Now(), std::span(buffer_).first(result.bytes));
  return true;
}

bool Pump::WritePort() {
  bool progress = false;
  while (port_writable_ && peer_present_) {
    const auto output = session_.Output();
    if (output.empty()) break;
    IoResult result = port_->Write(output);
    if (result.kind == IoResult::Kind::kBytes) {
      session_.OutputWritten(result.bytes);
      progress = true;
      continue;
    }
    port_writable_ = false;
    if (result.kind == IoResult::Kind::kWouldBlock) break;
    // Reading tells what is the matter, after what is left to read.
    if (result.kind == IoResult::Kind::kGone) write_error_ = std::move(result.error);
    port_readable_ = true;
    progress = true;
  }
  return progress;
}

void Pump::PortGone(std::string error) {
  port_error_ = error.empty() ? "the port is gone" : std::move(error);
  port_readable_ = port_writable_ = peer_present_ = false;
  if (session_.state() == Session::State::kOpen) session_.Abort(port_error_);
  session_.PeerLost(Now());
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, port_->fd(), nullptr);
}

// Gives each session its own pair. Sessions that came and went within one read are never seen here.
void Pump::FollowSession() {
  if (session_.id() == pair_id_ || session_.state() == Session::State::kConnecting) return;
  ClosePair();
  if (session_.state() == Session::State::kOpen) OpenPair();
  // Opened, spoke and left in one breath: there is nobody to answer to.
  if (session_.state() == Session::State::kDraining && !pair_.valid()) {
    session_.Abort(session_.end_reason());
  }
}

void Pump::OpenPair() {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0) {
    return session_.Abort(std::string(ErrnoStatus(errno, "socketpair").message()));
  }
  UniqueFd ours(fds[0]);
  UniqueFd theirs(fds[1]);
  if (const absl::Status status = Watch(ours.get(), EPOLL_CTL_ADD, Source::kPair, kEdges);
      !status.ok()) {
    return session_.Abort(std::string(status.message()));
  }
  if (hooks_.on_deliver) {
    // Or what is looked at is long past: the kernel's own size holds thousands of requests.
    setsockopt(ours.get(), SOL_SOCKET, SO_SNDBUF, &kGuardedBytes, sizeof kGuardedBytes);
  }
  pair_ = std::move(ours);
  pair_edges_ = kEdges;
  pair_id_ = session_.id();
  pair_readable_ = pair_writable_ = true;
  hooks_.on_open(std::move(theirs));
}

void Pump::ClosePair() {
  if (!pair_.valid()) return;
  hooks_.on_end(session_.end_reason());
  // Not left to close(): a process that forked and has not reached its exec yet holds the socket
  // open.
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, pair_.get(), nullptr);
  shutdown(pair_.get(), SHUT_RDWR);
  pair_.Reset();
  pair_id_ = 0;
  pair_readable_ = pair_writable_ = false;
}

bool Pump::Deliver() {
  bool progress = false;
  while (pair_writable_ && !session_.Incoming().empty()) {
    auto bytes = session_.Incoming();
    if (hooks_.on_deliver) {
      bytes = bytes.first(std::min<size_t>(bytes.size(), kGuardedBytes));
      if (std::string reason = hooks_.on_deliver(bytes.size()); !reason.empty()) {
        session_.Abort(std::move(reason));
        return true;
      }
    }
    const ssize_t n = send(pair_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      pair_writable_ = false;
      break;
    }
    // gRPC has closed its end: what it wrote before still has to be read and sent, what is for it
    // goes nowhere.
    session_.Consume(n < 0 ? bytes.size() : static_cast<size_t>(n));
    progress = true;
  }
  return progress;
}

bool Pump::Collect() {
  const size_t room = std::min(session_.SendCapacity(), buffer_.size());
  if (!pair_readable_ || room == 0) return false;
  const ssize_t n = read(pair_.get(), buffer_.data(), room);
  if (n > 0) {
    session_.Send(std::span(buffer_).first(static_cast<size_t>(n)));
  } else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
    pair_readable_ = false;
    return false;
  } else if (n == 0 || errno != EINTR) {
    // End of file, or ECONNRESET: it closed without reading all.
    session_.Finish();
  }
  return true;
}

void Pump::Goodbye() {
  session_.Finish();
  FollowSession();
  ClosePair();
  const TimePoint until = Now() + kGoodbyeLimit;
  // Only writing: a knock that is read now would open a session.
  while (peer_present_ && write_error_.empty() && !session_.Output().empty() && Now() < until) {
    if (!WritePort()) Wait(Milliseconds(until));
  }
}

}  // namespace virt_reclaim::link
