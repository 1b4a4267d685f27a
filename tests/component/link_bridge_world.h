// What the tests of both bridges share: an agent that echoes where gRPC would be, and a host that
// checks the echo. Bounds on time are wide: they tell a hang from a delay, nothing more.
#ifndef VIRT_RECLAIM_TESTS_COMPONENT_LINK_BRIDGE_WORLD_H_
#define VIRT_RECLAIM_TESTS_COMPONENT_LINK_BRIDGE_WORLD_H_

#include <dirent.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <chrono>
#include <random>
#include <thread>
#include <vector>

#include "absl/strings/string_view.h"
#include "proto/link/bridge.h"
#include "proto/link/frame.h"
#include "proto/link/little_endian.h"
#include "tests/component/link_test_port.h"

namespace virt_reclaim::link {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;
using Bytes = std::vector<uint8_t>;

inline constexpr seconds kPatience{20};

inline Bytes RandomBytes(size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  Bytes bytes(size);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

inline int CountEntries(const char* directory) {
  DIR* dir = opendir(directory);
  int count = 0;
  while (readdir(dir) != nullptr) ++count;
  closedir(dir);
  return count;
}
inline int OpenDescriptors() { return CountEntries("/proc/self/fd"); }
inline int Threads() { return CountEntries("/proc/self/task"); }

inline bool Eventually(const std::function<bool()>& done) {
  const auto end = steady_clock::now() + kPatience;
  while (!done() && steady_clock::now() < end) std::this_thread::sleep_for(milliseconds(2));
  return done();
}

inline short WaitFor(int fd, short events) {
  pollfd poll_fd{.fd = fd, .events = events, .revents = 0};
  poll(&poll_fd, 1, static_cast<int>(milliseconds(kPatience).count()));
  return poll_fd.revents;
}

// Sends `out` and reads `want` bytes, both at once as gRPC does. What was read before the end of
// the stream.
inline Bytes Exchange(int fd, std::span<const uint8_t> out, size_t want) {
  Bytes in;
  std::array<uint8_t, 65536> buffer;
  while (in.size() < want || !out.empty()) {
    const short ready = WaitFor(fd, static_cast<short>(POLLIN | (out.empty() ? 0 : POLLOUT)));
    if (ready == 0) break;
    if (!out.empty() && (ready & POLLOUT) != 0) {
      const ssize_t n = send(fd, out.data(), out.size(), MSG_NOSIGNAL);
      if (n > 0) out = out.subspan(static_cast<size_t>(n));
      if (n < 0 && errno != EAGAIN) break;
    }
    const ssize_t n = read(fd, buffer.data(), buffer.size());
    if (n == 0 || (n < 0 && errno != EAGAIN)) break;
    if (n > 0) in.insert(in.end(), buffer.begin(), buffer.begin() + n);
  }
  return in;
}

inline bool SeesEnd(int fd) {
  return Exchange(fd, {}, SIZE_MAX).size() < SIZE_MAX && WaitFor(fd, POLLIN) != 0;
}

// An agent whose server sends back what it gets.
class EchoAgent {
 public:
  explicit EchoAgent(std::unique_ptr<Port> port)
      : link_(std::move(port), [this](UniqueFd socket) { OnSession(std::move(socket)); }),
        runner_([this](const std::stop_token& stop) { result_ = link_.Run(stop); }) {}
  ~EchoAgent() { Stop(); }

  void Stop() {
    runner_.request_stop();
    if (runner_.joinable()) runner_.join();
    echo_ = {};
  }
  absl::Status Join() {
    runner_.join();
    return result_;
  }
  int sessions() const { return sessions_; }
  int sessions_over() const { return over_; }

 private:
  void OnSession(UniqueFd socket) {
    ++sessions_;
    // The link has closed the old pair before: the old thread is at its end.
    echo_ = std::jthread([this, fd = std::move(socket)] {
      std::array<uint8_t, 16384> buffer;
      while (true) {
        WaitFor(fd.get(), POLLIN);
        const ssize_t n = read(fd.get(), buffer.data(), buffer.size());
        if (n < 0 && errno == EAGAIN) continue;
        if (n <= 0) break;
        for (ssize_t at = 0; at < n;) {
          const ssize_t sent = send(fd.get(), &buffer[static_cast<size_t>(at)],
                                    static_cast<size_t>(n - at), MSG_NOSIGNAL);
          if (sent < 0 && errno != EAGAIN) break;
          if (sent < 0) WaitFor(fd.get(), POLLOUT);
          at += std::max<ssize_t>(sent, 0);
        }
      }
      ++over_;
    });
  }

  std::atomic<int> sessions_ = 0;
  std::atomic<int> over_ = 0;
  std::jthread echo_;
  absl::Status result_;
  AgentLink link_;
  std::jthread runner_;
};

inline absl::StatusOr<std::unique_ptr<HostLink>> OpenOver(UniqueFd socket,
                                                          milliseconds timeout = kPatience) {
  return HostLink::Open(NewFdPort(std::move(socket), true), {.connect_timeout = timeout}, {});
}

class LinkBridge : public testing::Test {
 protected:
  std::unique_ptr<EchoAgent> NewAgent() {
    return std::make_unique<EchoAgent>(std::make_unique<TestPort>(&socket_));
  }
  void ExpectEcho(HostLink* link, UniqueFd* fd, size_t size) {
    if (!fd->valid()) *fd = link->TakeSocket();
    const Bytes sent = RandomBytes(size, static_cast<uint32_t>(size));
    EXPECT_TRUE(Exchange(fd->get(), sent, size) == sent) << size << " " << link->EndReason();
  }
  // The property behind the hostile tests.
  void ExpectGoodHostGetsThrough() {
    auto link = OpenOver(socket_.Connect());
    ASSERT_TRUE(link.ok()) << link.status();
    UniqueFd fd;
    ExpectEcho(link->get(), &fd, 1000);
    EXPECT_EQ((*link)->EndReason(), "");
  }

  TestSocket socket_;
};

}  // namespace virt_reclaim::link

#endif  // VIRT_RECLAIM_TESTS_COMPONENT_LINK_BRIDGE_WORLD_H_
