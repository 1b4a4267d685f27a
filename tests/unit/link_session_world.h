// What the tests of the session layer share: a host, an agent and the two pipes between them, in
// virtual time. A test can cut, damage and fill the pipes as it likes.
#ifndef VIRT_RECLAIM_TESTS_UNIT_LINK_SESSION_WORLD_H_
#define VIRT_RECLAIM_TESTS_UNIT_LINK_SESSION_WORLD_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "proto/link/little_endian.h"
#include "proto/link/session.h"

namespace virt_reclaim::link {

using std::chrono::milliseconds;
using Bytes = std::vector<uint8_t>;
using State = Session::State;
using TimePoint = Session::TimePoint;

inline constexpr milliseconds kLatency{1};

inline Bytes RandomBytes(size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  Bytes bytes(size);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

inline Bytes ToBytes(absl::string_view text) { return Bytes(text.begin(), text.end()); }

struct Parsed {
  FrameType type;
  uint32_t seq;
  uint64_t session;
  Bytes payload;
};

inline std::vector<Parsed> Parse(std::span<const uint8_t> bytes) {
  std::vector<Parsed> frames;
  FrameDecoder decoder;
  Frame frame;
  while (true) {
    const auto found = decoder.Next(&bytes, &frame);
    if (found == FrameDecoder::Found::kNothing) return frames;
    if (found == FrameDecoder::Found::kFrame) {
      frames.push_back({frame.type, frame.seq, frame.session,
                        Bytes(frame.payload.begin(), frame.payload.end())});
    }
  }
}

inline int CountOf(FrameType type, std::span<const uint8_t> bytes) {
  const auto frames = Parse(bytes);
  return static_cast<int>(std::count_if(frames.begin(), frames.end(),
                                        [&](const Parsed& frame) { return frame.type == type; }));
}

inline Bytes Encode(FrameType type, uint64_t session, uint32_t seq, const Bytes& payload) {
  Bytes bytes;
  AppendFrame({.type = type, .seq = seq, .session = session, .payload = payload}, &bytes);
  return bytes;
}

template <typename T>
Bytes Number(T value) {
  Bytes bytes(sizeof value);
  PutLittleEndian(value, bytes.data());
  return bytes;
}

inline Bytes TakeOutput(Session* session) {
  const auto output = session->Output();
  Bytes bytes(output.begin(), output.end());
  session->OutputWritten(bytes.size());
  return bytes;
}

inline Bytes TakeIncoming(Session* session) {
  const auto incoming = session->Incoming();
  Bytes bytes(incoming.begin(), incoming.end());
  session->Consume(bytes.size());
  return bytes;
}

inline Session::Options HostOptions() { return {.role = Session::Role::kHost}; }
inline Session::Options AgentOptions() { return {.role = Session::Role::kAgent}; }

// A host, an agent and the two pipes between them.
class LinkSession : public testing::Test {
 protected:
  void NewHost(Session::Options options = HostOptions()) {
    host_ = std::make_unique<Session>(options, now_);
    host_got_.clear();
  }
  void NewAgent() {
    agent_ = std::make_unique<Session>(AgentOptions(), now_);
    agent_->PeerAppeared(now_);
    agent_got_.clear();
  }

  // One way of the bytes, one latency of time.
  void Step() {
    now_ += kLatency;
    Bytes to_agent = TakeOutput(host_.get());
    Bytes to_host = TakeOutput(agent_.get());
    if (on_way_to_agent_) on_way_to_agent_(&to_agent);
    if (on_way_to_host_) on_way_to_host_(&to_host);
    agent_->Receive(now_, to_agent);
    host_->Receive(now_, to_host);
    Advance(host_.get());
    Advance(agent_.get());
    if (reading_) {
      Append(&host_got_, TakeIncoming(host_.get()));
      Append(&agent_got_, TakeIncoming(agent_.get()));
    }
  }
  void Advance(Session* session) const {
    if (const auto deadline = session->deadline(); deadline && *deadline <= now_) {
      session->Tick(now_);
    }
  }
  void RunFor(milliseconds time) {
    for (const TimePoint end = now_ + time; now_ < end;) Step();
  }
  bool RunUntil(const std::function<bool()>& done, milliseconds limit = milliseconds(2000)) {
    for (const TimePoint end = now_ + limit; now_ < end && !done();) Step();
    return done();
  }
  bool OpenSession() {
    return RunUntil([&] { return host_->state() == State::kOpen && agent_->id() == host_->id(); });
  }
  void OpenedAfresh() {
    NewAgent();
    NewHost();
    ASSERT_TRUE(OpenSession());
  }
  // The property behind all the others: whatever was before, a new host gets through, and what it
  // sends arrives.
  void ExpectGoodHostGetsThrough() {
    on_way_to_agent_ = on_way_to_host_ = nullptr;
    reading_ = true;
    NewHost();
    ASSERT_TRUE(OpenSession());
    agent_got_.clear();
    host_got_.clear();
    const Bytes question = RandomBytes(50000, 1);
    const Bytes answer = RandomBytes(50000, 2);
    host_->Send(question);
    agent_->Send(answer);
    EXPECT_TRUE(RunUntil([&] { return agent_got_ == question && host_got_ == answer; }));
    EXPECT_EQ(host_->state(), State::kOpen);
  }
  static void Append(Bytes* to, const Bytes& bytes) {
    to->insert(to->end(), bytes.begin(), bytes.end());
  }

  TimePoint now_{std::chrono::hours(1)};
  std::unique_ptr<Session> host_;
  std::unique_ptr<Session> agent_;
  std::function<void(Bytes*)> on_way_to_agent_;
  std::function<void(Bytes*)> on_way_to_host_;
  bool reading_ = true;
  Bytes host_got_;
  Bytes agent_got_;
};

}  // namespace virt_reclaim::link

#endif  // VIRT_RECLAIM_TESTS_UNIT_LINK_SESSION_WORLD_H_
