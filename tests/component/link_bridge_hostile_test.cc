// Both ends of the link with their real threads, with peers that are dead, broken, in the way or
// mean harm.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/link/bridge.h"
#include "tests/component/link_bridge_world.h"

namespace virt_reclaim::link {
namespace {

TEST_F(LinkBridge, SecondHostWaitsForTheFirst) {
  const auto agent = NewAgent();
  auto first = OpenOver(socket_.Connect());
  ASSERT_TRUE(first.ok()) << first.status();
  UniqueFd fd;
  ExpectEcho(first->get(), &fd, 1);
  const auto busy = OpenOver(socket_.Connect(), milliseconds(300));
  EXPECT_EQ(busy.status().code(), absl::StatusCode::kDeadlineExceeded);
  ExpectEcho(first->get(), &fd, 100000);
  std::jthread leaver([&] {
    std::this_thread::sleep_for(milliseconds(200));
    first->reset();
  });
  ExpectGoodHostGetsThrough();
}

TEST_F(LinkBridge, HostsThatDieInTheMiddle) {
  const auto agent = NewAgent();
  for (int i = 0; i < 10; ++i) {
    // A descriptor of its own on the same socket cuts the line under the link, as a SIGKILL does.
    UniqueFd line = socket_.Connect();
    const UniqueFd scissors(dup(line.get()));
    auto link = OpenOver(std::move(line));
    ASSERT_TRUE(link.ok()) << link.status();
    const UniqueFd fd = (*link)->TakeSocket();
    const Bytes sent = RandomBytes(200000, 1);
    std::jthread cutter([&] {
      std::this_thread::sleep_for(milliseconds(i));
      shutdown(scissors.get(), SHUT_RDWR);
    });
    Exchange(fd.get(), sent, SIZE_MAX);
    EXPECT_TRUE(Eventually([&] { return !(*link)->EndReason().empty(); }));
  }
  ExpectGoodHostGetsThrough();
  EXPECT_TRUE(Eventually([&] { return agent->sessions_over() == agent->sessions(); }));
}

TEST_F(LinkBridge, GarbageOfEarlierHosts) {
  const auto agent = NewAgent();
  Bytes half;
  AppendFrame({.type = FrameType::kHello, .session = 1, .payload = Bytes(4)}, &half);
  half.resize(half.size() / 2);
  std::vector<Bytes> garbage{half, Bytes(1 << 20, 0xff), Bytes(1 << 20, 0)};
  for (uint32_t seed = 0; seed < 3; ++seed) garbage.push_back(RandomBytes(200000, seed));
  for (const Bytes& bytes : garbage) {
    const UniqueFd line = socket_.Connect();
    std::jthread reader([fd = line.get()] { Exchange(fd, {}, SIZE_MAX); });
    for (size_t at = 0; at < bytes.size();) {
      const ssize_t n = send(line.get(), &bytes[at], bytes.size() - at, MSG_NOSIGNAL);
      if (n < 0) WaitFor(line.get(), POLLOUT);
      at += static_cast<size_t>(std::max<ssize_t>(n, 0));
    }
    shutdown(line.get(), SHUT_RDWR);
    reader.join();
    ExpectGoodHostGetsThrough();
  }
}

TEST_F(LinkBridge, StaleBytesInFrontOfTheHello) {
  const auto agent = NewAgent();
  for (uint32_t seed = 0; seed < 10; ++seed) {
    UniqueFd line = socket_.Connect();
    Bytes stale;
    for (uint32_t seq = 0; seq < 3; ++seq) {
      AppendFrame(
          {.type = FrameType::kData, .seq = seq, .session = 99, .payload = RandomBytes(3000, seed)},
          &stale);
    }
    ASSERT_GT(write(line.get(), &stale[seed * 100], stale.size() - seed * 150), 0);
    auto link = OpenOver(std::move(line));
    ASSERT_TRUE(link.ok()) << link.status();
    UniqueFd fd;
    ExpectEcho(link->get(), &fd, 5000);
  }
}

// A guest that answers the first HELLO and leaves the rest to the test.
void Welcome(int fd) {
  WaitFor(fd, POLLIN);
  Bytes bytes(1000);
  bytes.resize(static_cast<size_t>(std::max<ssize_t>(read(fd, bytes.data(), bytes.size()), 0)));
  FrameDecoder decoder;
  Frame hello;
  std::span<const uint8_t> rest(bytes);
  ASSERT_EQ(decoder.Next(&rest, &hello), FrameDecoder::Found::kFrame);
  Bytes payload(12);
  PutLittleEndian<uint32_t>(0xffffffff, &payload[8]);
  Bytes welcome;
  AppendFrame({.type = FrameType::kWelcome, .session = hello.session, .payload = payload},
              &welcome);
  ASSERT_GT(write(fd, welcome.data(), welcome.size()), 0);
}

TEST_F(LinkBridge, GarbageFromTheGuestEndsTheSessionOfTheHost) {
  auto [host, guest] = SocketPair();
  std::jthread welcomer([fd = guest.get()] { Welcome(fd); });
  auto link = OpenOver(std::move(host));
  ASSERT_TRUE(link.ok()) << link.status();
  const UniqueFd fd = (*link)->TakeSocket();
  const Bytes garbage = RandomBytes(100000, 1);
  ASSERT_GT(write(guest.get(), garbage.data(), garbage.size()), 0);
  EXPECT_TRUE(SeesEnd(fd.get()));
  EXPECT_THAT((*link)->EndReason(), testing::HasSubstr("damaged"));
}

TEST_F(LinkBridge, GuestThatNeverReadsNorSpeaks) {
  auto [host, guest] = SocketPair();
  std::jthread welcomer([fd = guest.get()] { Welcome(fd); });
  auto link = OpenOver(std::move(host));
  ASSERT_TRUE(link.ok()) << link.status();
  const UniqueFd fd = (*link)->TakeSocket();
  const Bytes sent = RandomBytes(4 << 20, 1);
  Exchange(fd.get(), sent, SIZE_MAX);  // until the link gives up
  EXPECT_THAT((*link)->EndReason(), testing::HasSubstr("no sign of life"));
}

TEST_F(LinkBridge, DestructionDoesNotWaitForABlockedPort) {
  auto [host, guest] = SocketPair();
  std::jthread welcomer([fd = guest.get()] { Welcome(fd); });
  auto link = OpenOver(std::move(host));
  ASSERT_TRUE(link.ok()) << link.status();
  const UniqueFd fd = (*link)->TakeSocket();
  const Bytes bytes(100000, 'x');
  for (int i = 0; i < 100; ++i) {
    static_cast<void>(send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL));
    std::this_thread::sleep_for(milliseconds(1));
  }
  const auto start = steady_clock::now();
  link->reset();
  EXPECT_LT(steady_clock::now() - start, seconds(10));
  EXPECT_TRUE(SeesEnd(fd.get()));
}

TEST_F(LinkBridge, HostThatNeverReads) {
  std::atomic<int> sent = 0;
  std::atomic<int> ended = 0;  // both must, before this frame is gone
  AgentLink link(std::make_unique<TestPort>(&socket_), [&](UniqueFd fd) {
    // A server that has much to say; the link must not take it all.
    std::thread([&sent, &ended, fd = std::move(fd)] {
      const Bytes bytes(10000, 'x');
      while (WaitFor(fd.get(), POLLOUT) == POLLOUT) {
        const ssize_t n = send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) break;
        sent += static_cast<int>(std::max<ssize_t>(n, 0));
      }
      ++ended;
    }).detach();
  });
  std::jthread runner([&](const std::stop_token& stop) { EXPECT_TRUE(link.Run(stop).ok()); });
  {
    const UniqueFd line = socket_.Connect();
    Bytes window(4);
    PutLittleEndian<uint32_t>(0xffffffff, window.data());
    Bytes hello;
    AppendFrame({.type = FrameType::kHello, .session = 5, .payload = window}, &hello);
    ASSERT_GT(write(line.get(), hello.data(), hello.size()), 0);
    ASSERT_TRUE(Eventually([&] { return sent > 0; }));
    std::this_thread::sleep_for(milliseconds(200));
    EXPECT_LT(sent, 4 << 20);
  }
  EXPECT_TRUE(Eventually([&] { return ended == 1; }));
  EXPECT_TRUE(OpenOver(socket_.Connect()).ok());
  EXPECT_TRUE(Eventually([&] { return ended == 2; }));
}

TEST_F(LinkBridge, UserOfTheHostsEndThatNeverReads) {
  const auto agent = NewAgent();
  auto link = OpenOver(socket_.Connect());
  ASSERT_TRUE(link.ok()) << link.status();
  const UniqueFd fd = (*link)->TakeSocket();
  const Bytes bytes(100000, 'x');
  size_t sent = 0;
  for (int i = 0; i < 100; ++i) {
    const ssize_t n = send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    sent += static_cast<size_t>(std::max<ssize_t>(n, 0));
    std::this_thread::sleep_for(milliseconds(5));
  }
  EXPECT_LT(sent, size_t{5} << 20);
  std::this_thread::sleep_for(milliseconds(2500));
  EXPECT_EQ((*link)->EndReason(), "");  // alive: the pings are not stuck behind what nobody reads
  EXPECT_EQ(Exchange(fd.get(), {}, sent).size(), sent);
}

}  // namespace
}  // namespace virt_reclaim::link
