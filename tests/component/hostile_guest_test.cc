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

#include <algorithm>
#include <atomic>
#include <functional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "host/services/guest_agent.h"
#include "proto/link/bridge.h"
#include "tests/component/guest_limits.h"
#include "tests/component/http2_frame.h"

namespace virt_reclaim {
namespace {

uint32_t BigEndian(absl::string_view bytes) {
  uint32_t value = 0;
  for (const char c : bytes) value = value << 8 | static_cast<uint8_t>(c);
  return value;
}

// How much DATA the client allows on its first stream, from what it sends: RFC 9113
// 5.2, 6.5.2, 6.9.
class FlowControl {
 public:
  bool request_seen() const { return request_seen_; }
  int64_t Allowed() const { return std::min(connection_, stream_); }
  void Use(size_t size) {
    connection_ -= static_cast<int64_t>(size);
    stream_ -= static_cast<int64_t>(size);
  }

  void Receive(absl::string_view bytes) {
    absl::StrAppend(&pending_, bytes);
    if (!preface_seen_) {
      if (pending_.size() < kPreface.size()) return;
      pending_.erase(0, kPreface.size());
      preface_seen_ = true;
    }
    while (pending_.size() >= kHead) {
      const absl::string_view all = pending_;
      const size_t length = BigEndian(all.substr(0, 3));
      if (all.size() < kHead + length) return;
      Take(static_cast<uint8_t>(all[3]), static_cast<uint8_t>(all[4]), BigEndian(all.substr(5, 4)),
           all.substr(kHead, length));
      pending_.erase(0, kHead + length);
    }
  }

 private:
  static constexpr absl::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  static constexpr size_t kHead = 9;
  static constexpr int64_t kFirstWindow = 65535;
  static constexpr uint32_t kInitialWindowSize = 4;  // a setting

  void Take(uint8_t type, uint8_t flags, uint32_t stream, absl::string_view payload) {
    request_seen_ |= type == http2::kHeaders;
    if (type == http2::kWindowUpdate && payload.size() == 4) {
      (stream == 0 ? connection_ : stream_) += BigEndian(payload) & 0x7fffffff;
    } else if (type == http2::kSettings && (flags & http2::kAck) == 0) {
      for (; payload.size() >= 6; payload.remove_prefix(6)) {
        if (BigEndian(payload.substr(0, 2)) != kInitialWindowSize) continue;
        const int64_t initial = BigEndian(payload.substr(2, 4));
        stream_ += initial - initial_;
        initial_ = initial;
      }
    }
  }

  bool preface_seen_ = false;
  bool request_seen_ = false;
  std::string pending_;
  int64_t initial_ = kFirstWindow, connection_ = kFirstWindow, stream_ = kFirstWindow;
};

// The attacker's end of a session's pair: writes until stopped or until the host has gone.
class Wire {
 public:
  Wire(UniqueFd fd, std::stop_token stop) : fd_(std::move(fd)), stop_(std::move(stop)) {}

  // One DATA frame of the first stream, as soon as the client allows it.
  bool SendWithinTheWindow(absl::string_view payload) {
    while (flow_.Allowed() < static_cast<int64_t>(payload.size())) {
      pollfd entry{fd_.get(), POLLIN, 0};
      if (stop_.stop_requested() || poll(&entry, 1, 20) < 0 ||
          (entry.revents & (POLLHUP | POLLERR)) != 0)
        return false;
      if ((entry.revents & POLLIN) != 0) Drain();
    }
    flow_.Use(payload.size());
    return Send(http2::Frame(http2::kData, 0, 1, payload));
  }

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

  // Until the client has sent its first request, which may have come while something was sent.
  bool AwaitRequest() {
    while (!flow_.request_seen()) {
      if (stop_.stop_requested()) return false;
      pollfd entry{fd_.get(), POLLIN, 0};
      if (poll(&entry, 1, 20) > 0) Drain();
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
  void Drain() {
    char buffer[65536];
    const ssize_t n = recv(fd_.get(), buffer, sizeof buffer, MSG_DONTWAIT);
    if (n > 0) flow_.Receive({buffer, static_cast<size_t>(n)});
  }

  UniqueFd fd_;
  std::stop_token stop_;
  FlowControl flow_;
};

std::string Literal(absl::string_view name,
                    absl::string_view value) {  // RFC 7541 6.2.2, no Huffman, short strings
  return absl::StrCat(absl::string_view("\0", 1), std::string(1, static_cast<char>(name.size())),
                      name, std::string(1, static_cast<char>(value.size())), value);
}

std::string ResponseHeaders(absl::string_view more = "") {
  return absl::StrCat("\x88", Literal("content-type", "application/grpc"),
                      more);  // 0x88: ":status 200"
}

bool Begin(Wire& wire) {
  return wire.Send(http2::Frame(http2::kSettings, 0, 0, "")) && wire.AwaitRequest();
}

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

using Call = std::function<absl::Status(GuestAgent&)>;

absl::Status CallGetInfo(GuestAgent& agent) { return agent.GetInfo(kDeadline, {}).status(); }

// Runs one call against the attack and checks time and memory. Returns the call's status.
absl::Status CallUnderAttack(const Attack& attack, const Call& call = CallGetInfo) {
  HostileGuest guest(attack);
  auto agent = ConnectGuestAgent(guest.TakePort(), absl::Seconds(5), {});
  if (!agent.ok()) return agent.status();
  const int64_t before = StatusKiB("VmRSS");
  ResetPeak();
  const absl::Time start = absl::Now();
  const absl::Status status = call(**agent);
  const absl::Duration took = absl::Now() - start;
  agent->reset();
  if (!kSanitized) {
    EXPECT_LE(took, kDeadline + kGrace);
    EXPECT_LE(StatusKiB("VmHWM") - before, kMemoryLimitKiB);
  }
  return status;
}

// The attacks that go for time and memory, against every kind of answer that a guest may give: a
// short one, a long one and a stream.
using Check = std::function<void(absl::string_view call, const absl::Status& status)>;

void AttackEachCall(const Attack& attack, const Check& check) {
  const std::pair<absl::string_view, Call> calls[] = {
      {"GetInfo", CallGetInfo},
      {"ListFilesystems",
       [](GuestAgent& agent) { return agent.ListFilesystems(kDeadline, {}).status(); }},
      {"Trim",
       [](GuestAgent& agent) {
         std::vector<GuestTrim> finished;
         return agent.Trim({}, kDeadline, {}, nullptr, finished);
       }},
  };
  for (const auto& [name, call] : calls) {
    SCOPED_TRACE(name);
    check(name, CallUnderAttack(attack, call));
  }
}

void ExpectNoCallSucceeds(const Attack& attack) {
  AttackEachCall(attack,
                 [](absl::string_view, const absl::Status& status) { EXPECT_FALSE(status.ok()); });
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
                 if (Begin(wire) && wire.Send(http2::Frame(http2::kHeaders, http2::kEndHeaders, 1,
                                                           ResponseHeaders())
                                                  .substr(0, 15)))
                   wire.Idle();
               }).ok());
}

TEST(HostileGuest, FloodOfSettingsAndPings) {
  EXPECT_FALSE(CallUnderAttack([](Wire& wire) {
                 std::string flood;
                 for (int i = 0; i < 500; ++i)
                   flood += http2::Frame(http2::kSettings, 0, 0, "") +
                            http2::Frame(http2::kPing, 0, 0, "12345678");
                 while (wire.Send(flood)) {
                 }
               }).ok());
}

TEST(HostileGuest, HeaderStringOf2GiB) {
  ExpectNoCallSucceeds([](Wire& wire) {
    if (!Begin(wire)) return;
    // Literal header whose value claims 2^31 bytes (RFC 7541 5.1: 7-bit prefix integer), in
    // CONTINUATION frames.
    const std::string start =
        absl::StrCat(absl::string_view("\0\1x\x7f", 4), "\x81\xff\xff\xff\x07");
    if (!wire.Send(http2::Frame(http2::kHeaders, 0, 1, start))) return;
    const std::string piece = http2::Frame(http2::kContinuation, 0, 1, std::string(16000, 'a'));
    while (wire.Send(piece)) {
    }
  });
}

TEST(HostileGuest, HeadersWithoutEnd) {
  ExpectNoCallSucceeds([](Wire& wire) {
    if (!Begin(wire) || !wire.Send(http2::Frame(http2::kHeaders, 0, 1, ResponseHeaders()))) return;
    std::string block;
    while (block.size() < 15000)
      block += Literal("x-header", "0123456789012345678901234567890123456789");
    const std::string piece = http2::Frame(http2::kContinuation, 0, 1, block);
    while (wire.Send(piece)) {
    }
  });
}

constexpr absl::string_view kHeadOf2GiB("\0\x7f\xff\xff\xff", 5);  // of a message

TEST(HostileGuest, MessageOf2GiBBeyondTheWindow) {
  ExpectNoCallSucceeds([](Wire& wire) {
    if (!Begin(wire) ||
        !wire.Send(http2::Frame(http2::kHeaders, http2::kEndHeaders, 1, ResponseHeaders())))
      return;
    if (!wire.Send(http2::Frame(http2::kData, 0, 1, kHeadOf2GiB))) return;
    const std::string piece = http2::Frame(http2::kData, 0, 1, std::string(16000, 'm'));
    while (wire.Send(piece)) {
    }
  });
}

// What gRPC does not mind: it tests the length of a message when it has all of it.
TEST(HostileGuest, MessageOf2GiBWithinTheWindow) {
  std::atomic<size_t> sent = 0;
  ExpectNoCallSucceeds([&](Wire& wire) {
    if (!Begin(wire) ||
        !wire.Send(http2::Frame(http2::kHeaders, http2::kEndHeaders, 1, ResponseHeaders())))
      return;
    if (!wire.SendWithinTheWindow(kHeadOf2GiB)) return;
    const std::string piece(16000, 'm');
    while (wire.SendWithinTheWindow(piece)) sent += piece.size();
  });
  // More than three calls' first windows: the client has opened them again.
  EXPECT_GT(sent, size_t{3} * 65535);
}

// 512 MiB of zeroes as one compressed gRPC message of half a MiB.
std::string BombMessage() {
  constexpr int kPieces = 512;
  std::string zeros(1 << 20, '\0');
  z_stream stream{};
  deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 9, Z_DEFAULT_STRATEGY);
  std::string bomb(1 << 20, '\0');
  stream.next_out = reinterpret_cast<Bytef*>(bomb.data());
  stream.avail_out = static_cast<uInt>(bomb.size());
  for (int i = 1; i <= kPieces; ++i) {
    stream.next_in = reinterpret_cast<Bytef*>(zeros.data());
    stream.avail_in = static_cast<uInt>(zeros.size());
    EXPECT_EQ(deflate(&stream, i < kPieces ? Z_NO_FLUSH : Z_FINISH),
              i < kPieces ? Z_OK : Z_STREAM_END);
  }
  bomb.resize(stream.total_out);
  deflateEnd(&stream);
  std::string message("\1", 1);
  for (const int shift : {24, 16, 8, 0}) message += static_cast<char>(bomb.size() >> shift);
  return message + bomb;
}

TEST(HostileGuest, GzipBomb) {
  const std::string message = BombMessage();  // before memory is measured
  const Attack attack = [&](Wire& wire) {
    if (!Begin(wire)) return;
    const std::string headers = ResponseHeaders(Literal("grpc-encoding", "gzip"));
    if (!wire.Send(http2::Frame(http2::kHeaders, http2::kEndHeaders, 1, headers))) return;
    for (size_t i = 0; i < message.size(); i += 16000) {
      if (!wire.SendWithinTheWindow(absl::string_view(message).substr(i, 16000))) return;
    }
    if (wire.Send(http2::Frame(http2::kHeaders, http2::kEndHeaders | http2::kEndStream, 1,
                               Literal("grpc-status", "0"))))
      wire.Idle();
  };
  AttackEachCall(attack, [](absl::string_view call, const absl::Status& status) {
    // A stream may as well be said to be over without an event: the guest's word is all there is.
    if (call == "Trim") return;
    // As something that cannot be read, not by the deadline nor by the link.
    EXPECT_THAT(status.code(),
                testing::AnyOf(absl::StatusCode::kUnimplemented, absl::StatusCode::kInternal))
        << status;
  });
}

TEST(HostileGuest, GoAwayResetAndEndOfFile) {
  EXPECT_FALSE(CallUnderAttack([](Wire& wire) {
                 if (Begin(wire) &&
                     wire.Send(http2::Frame(http2::kGoAway, 0, 0, std::string(8, '\0'))))
                   wire.Idle();
               }).ok());
  EXPECT_FALSE(CallUnderAttack([](Wire& wire) {
                 if (Begin(wire) &&
                     wire.Send(http2::Frame(http2::kRstStream, 0, 1, std::string("\0\0\0\2", 4))))
                   wire.Idle();
               }).ok());
  EXPECT_FALSE(CallUnderAttack([](Wire& wire) { static_cast<void>(Begin(wire)); }).ok());
}

// The honest answer to ListFilesystems with one filesystem that is mounted there, as bytes: no
// protobuf library would write a string that is not UTF-8.
Attack FilesystemMountedOn(absl::string_view mount_point,
                           const std::vector<std::string>& roots = {}) {
  const auto field = [](uint8_t number, absl::string_view bytes) {
    const char head[] = {static_cast<char>(number << 3 | 2), static_cast<char>(bytes.size())};
    return absl::StrCat(absl::string_view(head, sizeof head), bytes);
  };
  std::string filesystem = field(4, mount_point);  // mount_points
  for (const std::string& root : roots) absl::StrAppend(&filesystem, field(14, root));
  const std::string response = field(1, filesystem);
  const std::string message =
      absl::StrCat(absl::string_view("\0\0\0\0", 4),
                   std::string(1, static_cast<char>(response.size())), response);
  return [message](Wire& wire) {
    if (Begin(wire) &&
        wire.Send(http2::Frame(http2::kHeaders, http2::kEndHeaders, 1, ResponseHeaders())) &&
        wire.SendWithinTheWindow(message) &&
        wire.Send(http2::Frame(http2::kHeaders, http2::kEndHeaders | http2::kEndStream, 1,
                               Literal("grpc-status", "0"))))
      wire.Idle();
  };
}

// Which root is whose is known only when there are as many as mount points.
TEST(HostileGuest, MoreRootsThanMountPoints) {
  for (const size_t count : {0, 1, 2}) {
    std::vector<std::string> roots = {"none"};
    const absl::Status status =
        CallUnderAttack(FilesystemMountedOn("/srv", std::vector<std::string>(count, "/@srv")),
                        [&](GuestAgent& agent) {
                          const auto filesystems = agent.ListFilesystems(kDeadline, {});
                          if (filesystems.ok() && filesystems->size() == 1)
                            roots = filesystems->front().mount_roots;
                          return filesystems.status();
                        });
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_THAT(roots, testing::ElementsAreArray(std::vector<std::string>(count % 2, "/@srv")));
  }
}

TEST(HostileGuest, MountPointThatIsNotUtf8) {
  std::vector<std::string> mount_points;
  const auto list = [&](GuestAgent& agent) {
    const auto filesystems = agent.ListFilesystems(kDeadline, {});
    if (filesystems.ok() && filesystems->size() == 1)
      mount_points = filesystems->front().mount_points;
    return filesystems.status();
  };
  // That the bytes are an answer at all.
  const absl::Status honest = CallUnderAttack(FilesystemMountedOn("/srv"), list);
  EXPECT_TRUE(honest.ok()) << honest;
  EXPECT_THAT(mount_points, testing::ElementsAre("/srv"));
  mount_points.clear();
  // Whether protobuf refuses it or lets it through: clean, and before the deadline.
  const absl::Status status = CallUnderAttack(FilesystemMountedOn("\xff\x1b"), list);
  EXPECT_FALSE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_THAT(status.message().find_first_of("\xff\x1b"), absl::string_view::npos) << status;
  if (status.ok()) {
    EXPECT_THAT(mount_points, testing::ElementsAre("\\xff\\x1b"));
  }
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
