// A virtio-serial port without QEMU: the guest's end lives on while hosts come and go, a read
// without host gives kNoPeer, a second host waits until the first one leaves, and bytes of the one
// may run into the other's. As the real one does it, measured with QEMU 7.2.
#ifndef VIRT_RECLAIM_TESTS_COMPONENT_LINK_TEST_PORT_H_
#define VIRT_RECLAIM_TESTS_COMPONENT_LINK_TEST_PORT_H_

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "base/unique_fd.h"
#include "proto/link/port.h"

namespace virt_reclaim::link {

inline std::pair<UniqueFd, UniqueFd> SocketPair() {
  int fds[2] = {-1, -1};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0) abort();
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

// The socket file that QEMU listens on. Any thread.
class TestSocket {
 public:
  TestSocket() : connected_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

  // A host connects, which always succeeds.
  UniqueFd Connect() {
    auto [host, guest] = SocketPair();
    {
      const std::lock_guard lock(mutex_);
      backlog_.push_back(std::move(guest));
    }
    Wake();
    return std::move(host);
  }
  // Hot-unplug.
  void Unplug() {
    unplugged_ = true;
    Wake();
  }

  bool unplugged() const { return unplugged_; }
  int reads() const { return reads_; }

 private:
  friend class TestPort;
  void Wake() {
    const uint64_t one = 1;
    static_cast<void>(!write(connected_.get(), &one, sizeof one));
  }
  UniqueFd Accept() {
    const std::lock_guard lock(mutex_);
    if (backlog_.empty()) return UniqueFd();
    UniqueFd first = std::move(backlog_.front());
    backlog_.pop_front();
    return first;
  }

  const UniqueFd connected_;
  std::atomic<bool> unplugged_ = false;
  std::atomic<int> reads_ = 0;
  std::mutex mutex_;
  std::deque<UniqueFd> backlog_;
};

// The guest's end of it. Its descriptor is an epoll of its own, so that it can change what is
// behind it.
class TestPort final : public Port {
 public:
  explicit TestPort(TestSocket* socket) : socket_(socket), epoll_(epoll_create1(EPOLL_CLOEXEC)) {
    Watch(socket_->connected_.get());
  }

  int fd() const override { return epoll_.get(); }
  void AcknowledgeEdge() override {
    std::array<epoll_event, 8> events;
    static_cast<void>(epoll_wait(epoll_.get(), events.data(), events.size(), 0));
  }
  IoResult Read(std::span<uint8_t> buffer) override {
    ++socket_->reads_;
    if (socket_->unplugged()) return {IoResult::Kind::kGone, 0, "unplugged"};
    if (!HasHost()) return {IoResult::Kind::kNoPeer, 0, ""};
    // One ring buffer's worth at a time.
    const ssize_t n = read(host_.get(), buffer.data(), std::min<size_t>(buffer.size(), 4096));
    if (n > 0) return {IoResult::Kind::kBytes, static_cast<size_t>(n), ""};
    if (n < 0 && errno == EAGAIN) return {};
    host_.Reset();  // the next one is served from the next read on
    socket_->Wake();
    return {IoResult::Kind::kNoPeer, 0, ""};
  }
  IoResult Write(std::span<const uint8_t> bytes) override {
    if (socket_->unplugged()) return {IoResult::Kind::kGone, 0, "unplugged"};
    if (!HasHost()) return {};
    const size_t size = std::min<size_t>(bytes.size(), 32 * 1024);
    const ssize_t n = send(host_.get(), bytes.data(), size, MSG_NOSIGNAL);
    if (n > 0) return {IoResult::Kind::kBytes, static_cast<size_t>(n), ""};
    return {};  // also when the host left: only reading tells
  }

 private:
  bool HasHost() {
    if (host_.valid()) return true;
    host_ = socket_->Accept();
    if (host_.valid()) Watch(host_.get());
    return host_.valid();
  }
  void Watch(int fd) const {
    epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
  }

  TestSocket* const socket_;
  const UniqueFd epoll_;
  UniqueFd host_;
};

}  // namespace virt_reclaim::link

#endif  // VIRT_RECLAIM_TESTS_COMPONENT_LINK_TEST_PORT_H_
