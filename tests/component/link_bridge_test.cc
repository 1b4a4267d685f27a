// Both ends of the link with their real threads, over a port that behaves as virtio-serial does:
// what each promises.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/link/bridge.h"
#include "tests/component/link_bridge_world.h"

namespace virt_reclaim::link {
namespace {

TEST_F(LinkBridge, EchoesFromOneByteToOneMebibyte) {
  const auto agent = NewAgent();
  auto link = OpenOver(socket_.Connect());
  ASSERT_TRUE(link.ok()) << link.status();
  UniqueFd fd;
  for (size_t size = 1; size <= size_t{1} << 20; size *= 4) ExpectEcho(link->get(), &fd, size);
  for (const size_t size : {3, 4095, 32511, 32512, 32513, 65537})
    ExpectEcho(link->get(), &fd, size);
  EXPECT_EQ((*link)->EndReason(), "");
  EXPECT_EQ(agent->sessions(), 1);
}

TEST_F(LinkBridge, HundredReconnectsLeaveNothingBehind) {
  const auto agent = NewAgent();
  ExpectGoodHostGetsThrough();
  ASSERT_TRUE(Eventually([&] { return agent->sessions_over() == 1; }));
  const int descriptors = OpenDescriptors();
  const int threads = Threads();
  for (int i = 0; i < 100; ++i) ExpectGoodHostGetsThrough();
  EXPECT_TRUE(Eventually([&] { return agent->sessions_over() == agent->sessions(); }));
  EXPECT_EQ(agent->sessions(), 101);
  EXPECT_TRUE(Eventually([&] { return OpenDescriptors() <= descriptors; })) << OpenDescriptors();
  EXPECT_TRUE(Eventually([&] { return Threads() <= threads; })) << Threads();
}

TEST_F(LinkBridge, AgentMayStartAfterTheHost) {
  std::unique_ptr<EchoAgent> agent;
  std::jthread starter([&] {
    std::this_thread::sleep_for(milliseconds(400));
    agent = NewAgent();
  });
  ExpectGoodHostGetsThrough();
  starter.join();
  EXPECT_EQ(agent->sessions(), 1);  // the knocks that queued up are one session
}

TEST_F(LinkBridge, NobodyAnswersIsDeadlineExceeded) {
  const auto link = OpenOver(socket_.Connect(), milliseconds(100));
  EXPECT_EQ(link.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(link.status().message(), testing::HasSubstr("100 ms"));
}

TEST_F(LinkBridge, StoppedOpenIsCancelled) {
  std::stop_source source;
  std::jthread stopper([&] {
    std::this_thread::sleep_for(milliseconds(50));
    source.request_stop();
  });
  const auto link = HostLink::Open(NewFdPort(socket_.Connect(), true),
                                   {.connect_timeout = kPatience}, source.get_token());
  EXPECT_EQ(link.status().code(), absl::StatusCode::kCancelled);
}

TEST_F(LinkBridge, BrokenPortIsUnavailable) {
  auto [host, guest] = SocketPair();
  guest.Reset();
  const auto link = OpenOver(std::move(host));
  EXPECT_EQ(link.status().code(), absl::StatusCode::kUnavailable) << link.status();
}

TEST_F(LinkBridge, AgentOfAnotherVersionIsFailedPrecondition) {
  auto [host, guest] = SocketPair();
  std::jthread agent([fd = guest.get()] {
    WaitFor(fd, POLLIN);
    Bytes bytes(1000);
    bytes.resize(static_cast<size_t>(std::max<ssize_t>(read(fd, bytes.data(), bytes.size()), 0)));
    FrameDecoder decoder;
    Frame hello;
    std::span<const uint8_t> rest(bytes);
    if (decoder.Next(&rest, &hello) != FrameDecoder::Found::kFrame) return;
    Bytes refusal;
    AppendFrame({.type = FrameType::kBye, .version = 2, .session = hello.session}, &refusal);
    static_cast<void>(!write(fd, refusal.data(), refusal.size()));
  });
  const auto link = OpenOver(std::move(host));
  EXPECT_EQ(link.status().code(), absl::StatusCode::kFailedPrecondition) << link.status();
}

TEST_F(LinkBridge, AgentEndsItsSessionsAndSaysSoWhenStopped) {
  auto agent = NewAgent();
  auto link = OpenOver(socket_.Connect());
  ASSERT_TRUE(link.ok()) << link.status();
  const UniqueFd fd = (*link)->TakeSocket();
  agent->Stop();
  EXPECT_TRUE(SeesEnd(fd.get()));
  EXPECT_EQ((*link)->EndReason(), "the agent closed the session");
}

TEST_F(LinkBridge, RunReturnsWhenThePortIsUnplugged) {
  EchoAgent agent(std::make_unique<TestPort>(&socket_));
  auto link = OpenOver(socket_.Connect());
  ASSERT_TRUE(link.ok()) << link.status();
  socket_.Unplug();
  const absl::Status status = agent.Join();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(status.message(), "unplugged");
}

TEST_F(LinkBridge, ServerThatClosesEndsTheSessionAfterItsLastBytes) {
  AgentLink link(std::make_unique<TestPort>(&socket_),
                 [](UniqueFd fd) { EXPECT_EQ(send(fd.get(), "farewell", 8, MSG_NOSIGNAL), 8); });
  std::jthread runner([&](const std::stop_token& stop) { EXPECT_TRUE(link.Run(stop).ok()); });
  for (int i = 0; i < 20; ++i) {
    auto host = OpenOver(socket_.Connect());
    if (!host.ok()) {  // all in one read: there is no session any more
      EXPECT_EQ(host.status().code(), absl::StatusCode::kUnavailable);
      continue;
    }
    const UniqueFd fd = (*host)->TakeSocket();
    EXPECT_EQ(Exchange(fd.get(), {}, 1000).size(), 8U);
    EXPECT_EQ((*host)->EndReason(), "the agent closed the session");
  }
}

TEST_F(LinkBridge, ClientThatClosesEndsTheSessionAtTheAgent) {
  const auto agent = NewAgent();
  auto link = OpenOver(socket_.Connect());
  ASSERT_TRUE(link.ok()) << link.status();
  (*link)->TakeSocket().Reset();
  EXPECT_TRUE(Eventually([&] { return agent->sessions_over() == 1; }));
  EXPECT_TRUE(Eventually([&] { return (*link)->EndReason() == "closed by this end"; }));
}

TEST_F(LinkBridge, DeadAgentIsNoticedBySilence) {
  // The agent's process is gone, its port too, but QEMU keeps the host's socket open.
  auto agent = NewAgent();
  auto [near, far] = SocketPair();
  UniqueFd to_agent = socket_.Connect();
  std::atomic<bool> dead = false;
  std::jthread qemu([&, from = far.get(), to = to_agent.get()](const std::stop_token& stop) {
    std::array<uint8_t, 4096> buffer;
    while (!stop.stop_requested()) {
      const ssize_t n = read(from, buffer.data(), buffer.size());
      if (n > 0 && !dead) static_cast<void>(!write(to, buffer.data(), static_cast<size_t>(n)));
      const ssize_t m = read(to, buffer.data(), buffer.size());
      if (m > 0 && !dead) static_cast<void>(!write(from, buffer.data(), static_cast<size_t>(m)));
      if (n <= 0 && m <= 0) std::this_thread::sleep_for(milliseconds(1));
    }
  });
  auto link = OpenOver(std::move(near));
  ASSERT_TRUE(link.ok()) << link.status();
  const UniqueFd fd = (*link)->TakeSocket();
  dead = true;
  EXPECT_TRUE(SeesEnd(fd.get()));
  EXPECT_THAT((*link)->EndReason(), testing::HasSubstr("no sign of life"));
}

// virtio-serial without host: IN and HUP for ever.
class ForeverReadyPort final : public Port {
 public:
  explicit ForeverReadyPort(std::atomic<int>* calls)
      : calls_(calls), fd_(eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK)) {}
  int fd() const override { return fd_.get(); }
  IoResult Read(std::span<uint8_t>) override {
    ++*calls_;
    return {IoResult::Kind::kNoPeer, 0, ""};
  }
  IoResult Write(std::span<const uint8_t>) override {
    ++*calls_;
    return {};
  }

 private:
  std::atomic<int>* const calls_;
  const UniqueFd fd_;
};

TEST(LinkBridgeIdle, AgentWithoutHostSleeps) {
  std::atomic<int> calls = 0;
  AgentLink link(std::make_unique<ForeverReadyPort>(&calls), [](UniqueFd) {});
  std::jthread runner([&](const std::stop_token& stop) { EXPECT_TRUE(link.Run(stop).ok()); });
  std::this_thread::sleep_for(milliseconds(500));
  EXPECT_LE(calls, 5);
}

TEST_F(LinkBridge, OpenSessionWithoutTrafficOnlyPings) {
  const auto agent = NewAgent();
  auto link = OpenOver(socket_.Connect());
  ASSERT_TRUE(link.ok()) << link.status();
  std::this_thread::sleep_for(milliseconds(50));
  const int before = socket_.reads();
  std::this_thread::sleep_for(milliseconds(2500));
  EXPECT_LE(socket_.reads() - before, 40);
  EXPECT_EQ((*link)->EndReason(), "");
}

}  // namespace
}  // namespace virt_reclaim::link
