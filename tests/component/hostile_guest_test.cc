// A guest that attacks the host's gRPC client. The attacker speaks the session layer honestly (that
// layer has its own tests) and then HTTP/2 as it likes. Whatever it does: every call ends within
// its deadline + 0.5 s, and the host's memory grows by at most 64 MiB.
//
// HTTP/2 frames: RFC 9113; header compression: RFC 7541; messages: gRPC over HTTP/2.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include <functional>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "host/services/guest_agent.h"
#include "proto/link/bridge.h"
#include "tests/component/guest_limits.h"

namespace virt_reclaim {
namespace {

// The attacker's end of a session's pair: writes until stopped or until the host has gone.
class Wire {
 public:
  Wire(UniqueFd fd, std::stop_token stop) : fd_(std::move(fd)), stop_(std::move(stop)) {}

  // False when there is no point in going on.
  bool Send(absl::string_view bytes) {
    while (!bytes.empty()) {
      pollfd entry{fd_.get(), POLLOUT | POLLIN, 0};
      if (stop_.stop_requested() || poll(&entry, 1, 20) < 0 ||
          (entry.revents & (POLLHUP | POLLERR)) != 0)
        return false;
      if ((entry.revents & POLLIN) != 0) Drain();
      const ssize_t n = send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n < 0 && errno != EAGAIN) return false;
      if (n > 0) bytes.remove_prefix(static_cast<size_t>(n));
    }
    return !stop_.stop_requested();
  }

  // Until the client has sent something that looks like its first request.
  bool AwaitRequest() {
    for (size_t got = 0; got < 100;) {
      if (stop_.stop_requested()) return false;
      pollfd entry{fd_.get(), POLLIN, 0};
      if (poll(&entry, 1, 20) > 0) got += Drain();
    }
    return true;
  }

  void Idle() {
    while (!stop_.stop_requested()) {
      Drain();
      absl::SleepFor(absl::Milliseconds(5));
    }
  }

  bool stopped() const { return stop_.stop_requested(); }

 private:
  size_t Drain() {
    char buffer[65536];
    const ssize_t n = recv(fd_.get(), buffer, sizeof buffer, MSG_DONTWAIT);
    return n > 0 ? static_cast<size_t>(n) : 0;
  }

  UniqueFd fd_;
  std::stop_token stop_;
};

std::string Frame(uint8_t type, uint8_t flags, uint32_t stream, absl::string_view payload) {
  std::string frame;
  for (const int shift : {16, 8, 0}) frame += static_cast<char>(payload.size() >> shift);
  frame += static_cast<char>(type);
  frame += static_cast<char>(flags);
  for (const int shift : {24, 16, 8, 0}) frame += static_cast<char>(stream >> shift);
  return frame + std::string(payload);
}

constexpr uint8_t kData = 0, kHeaders = 1, kRstStream = 3, kSettings = 4, kPing = 6, kGoAway = 7,
                  kContinuation = 9;
constexpr uint8_t kEndHeaders = 4;

std::string Literal(absl::string_view name,
                    absl::string_view value) {  // RFC 7541 6.2.2, no Huffman, short strings
  return absl::StrCat(absl::string_view("\0", 1), std::string(1, static_cast<char>(name.size())),
                      name, std::string(1, static_cast<char>(value.size())), value);
}

std::string ResponseHeaders(absl::string_view more = "") {
  return absl::StrCat("\x88", Literal("content-type", "application/grpc"),
                      more);  // 0x88: ":status 200"
}

bool Begin(Wire& wire) { return wire.Send(Frame(kSettings, 0, 0, "")) && wire.AwaitRequest(); }

using Attack = std::function<void(Wire&)>;

// A guest: the agent's end of the link over one half of a socketpair, each session handed to the
// attack on a thread.
class HostileGuest {
 public:
  explicit HostileGuest(Attack attack) {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    host_port_ = link::NewFdPort(UniqueFd(fds[0]), true);
    link_ = std::make_unique<link::AgentLink>(
        link::NewFdPort(UniqueFd(fds[1]), true), [this, attack](UniqueFd socket) {
          attacker_ = std::jthread([attack, fd = socket.Release()](std::stop_token stop) {
            Wire wire(UniqueFd(fd), stop);
            attack(wire);
          });
        });
    link_thread_ =
        std::jthread([this](std::stop_token stop) { static_cast<void>(link_->Run(stop)); });
  }
  ~HostileGuest() { attacker_.request_stop(); }

  std::unique_ptr<link::Port> TakePort() { return std::move(host_port_); }

 private:
  std::unique_ptr<link::Port> host_port_;
  std::unique_ptr<link::AgentLink> link_;
  std::jthread attacker_;
  std::jthread link_thread_;  // stops first
};

// Runs one call against the attack and checks time and memory. Returns the call's status.
absl::Status CallUnderAttack(const Attack& attack) {
  HostileGuest guest(attack);
  auto agent = ConnectGuestAgent(guest.TakePort(), absl::Seconds(5), {});
  if (!agent.ok()) return agent.status();
  const int64_t before = StatusKiB("VmRSS");
  ResetPeak();
  const absl::Time start = absl::Now();
  const absl::Status status = (*agent)->GetInfo(kDeadline, {}).status();
  const absl::Duration took = absl::Now() - start;
  agent->reset();
  if (!kSanitized) {
    EXPECT_LE(took, kDeadline + kGrace);
    EXPECT_LE(StatusKiB("VmHWM") - before, kMemoryLimitKiB);
  }
  return status;
}

TEST(HostileGuest, RandomBytes) {
  const absl::Status status = CallUnderAttack([](Wire& wire) {
    std::mt19937 random(1);
    std::string bytes(1 << 20, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    if (wire.Send(bytes)) wire.Idle();
  });
  EXPECT_FALSE(status.ok());
}

TEST(HostileGuest, Silence) {
  EXPECT_TRUE(absl::IsDeadlineExceeded(CallUnderAttack([](Wire& wire) { wire.Idle(); })));
}

TEST(HostileGuest, SettingsAndThenSilence) {
  EXPECT_FALSE(CallUnderAttack([](Wire& wire) {
                 if (Begin(wire)) wire.Idle();
               }).ok());
}

TEST(HostileGuest, HalfAFrame) {
  EXPECT_FALSE(CallUnderAttack([](Wire& wire) {
                 if (Begin(wire) &&
                     wire.Send(Frame(kHeaders, kEndHeaders, 1, ResponseHeaders()).substr(0, 15)))
                   wire.Idle();
               }).ok());
}

TEST(HostileGuest, FloodOfSettingsAndPings) {
  EXPECT_FALSE(CallUnderAttack([](Wire& wire) {
                 std::string flood;
                 for (int i = 0; i < 500; ++i)
                   flood += Frame(kSettings, 0, 0, "") + Frame(kPing, 0, 0, "12345678");
                 while (wire.Send(flood)) {
                 }
               }).ok());
}

TEST(HostileGuest, HeaderStringOf2GiB) {
  EXPECT_FALSE(CallUnderAttack([](Wire& wire) {
                 if (!Begin(wire)) return;
                 // Literal header whose value claims 2^31 bytes (RFC 7541 5.1: 7-bit prefix
                 // integer), in CONTINUATION frames.
                 const std::string start =
                     absl::StrCat(absl::string_view("\0\1x\x7f", 4), "\x81\xff\xff\xff\x07");
                 if (!wire.Send(Frame(kHeaders, 0, 1, start))) return;
                 const std::string piece = Frame(kContinuation, 0, 1, std::string(16000, 'a'));
                 while (wire.Send(piece)) {
                 }
               }).ok());
}

TEST(HostileGuest, HeadersWithoutEnd) {
  EXPECT_FALSE(CallUnderAttack([](Wire& wire) {
                 if (!Begin(wire) || !wire.Send(Frame(kHeaders, 0, 1, ResponseHeaders()))) return;
                 std::string block;
                 while (block.size() < 15000)
                   block += Literal("x-header", "0123456789012345678901234567890123456789");
                 const std::string piece = Frame(kContinuation, 0, 1, block);
                 while (wire.Send(piece)) {
                 }
               }).ok());
}

TEST(HostileGuest, MessageOf2GiBInSmallFrames) {
  EXPECT_FALSE(CallUnderAttack([](Wire& wire) {
                 if (!Begin(wire) || !wire.Send(Frame(kHeaders, kEndHeaders, 1, ResponseHeaders())))
                   return;
                 if (!wire.Send(Frame(kData, 0, 1, absl::string_view("\0\x7f\xff\xff\xff", 5))))
                   return;
                 const std::string piece = Frame(kData, 0, 1, std::string(16000, 'm'));
                 while (wire.Send(piece)) {
                 }
               }).ok());
}

// 64 MiB of zeroes as one compressed gRPC message of 64 KiB.
std::string BombMessage() {
  const std::string zeros(64 << 20, '\0');
  z_stream stream{};
  deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 9, Z_DEFAULT_STRATEGY);
  std::string bomb(1 << 20, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(zeros.data()));
  stream.avail_in = static_cast<uInt>(zeros.size());
  stream.next_out = reinterpret_cast<Bytef*>(bomb.data());
  stream.avail_out = static_cast<uInt>(bomb.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  bomb.resize(stream.total_out);
  deflateEnd(&stream);
  std::string message("\1", 1);
  for (const int shift : {24, 16, 8, 0}) message += static_cast<char>(bomb.size() >> shift);
  return message + bomb;
}

TEST(HostileGuest, GzipBomb) {
  const std::string message = BombMessage();  // before memory is measured
  EXPECT_FALSE(CallUnderAttack([&](Wire& wire) {
                 if (!Begin(wire)) return;
                 const std::string headers = ResponseHeaders(Literal("grpc-encoding", "gzip"));
                 if (!wire.Send(Frame(kHeaders, kEndHeaders, 1, headers))) return;
                 for (size_t i = 0; i < message.size(); i += 16000) {
                   if (!wire.Send(Frame(kData, 0, 1, absl::string_view(message).substr(i, 16000))))
                     return;
                 }
                 wire.Idle();
               }).ok());
}

TEST(HostileGuest, GoAwayResetAndEndOfFile) {
  EXPECT_FALSE(CallUnderAttack([](Wire& wire) {
                 if (Begin(wire) && wire.Send(Frame(kGoAway, 0, 0, std::string(8, '\0'))))
                   wire.Idle();
               }).ok());
  EXPECT_FALSE(CallUnderAttack([](Wire& wire) {
                 if (Begin(wire) && wire.Send(Frame(kRstStream, 0, 1, std::string("\0\0\0\2", 4))))
                   wire.Idle();
               }).ok());
  EXPECT_FALSE(CallUnderAttack([](Wire& wire) { static_cast<void>(Begin(wire)); }).ok());
}

TEST(HostileGuest, StopEndsACallAtOnce) {
  HostileGuest guest([](Wire& wire) { wire.Idle(); });
  auto agent = ConnectGuestAgent(guest.TakePort(), absl::Seconds(5), {}).value();
  std::stop_source stop;
  std::jthread later([&] {
    absl::SleepFor(absl::Milliseconds(200));
    stop.request_stop();
  });
  const absl::Time start = absl::Now();
  EXPECT_TRUE(absl::IsCancelled(agent->GetInfo(absl::Seconds(30), stop.get_token()).status()));
  EXPECT_LE(absl::Now() - start, absl::Seconds(5));
}

}  // namespace
}  // namespace virt_reclaim
