// The session layer as it should go, and what a virtio-serial port does to it: bytes stale, lost,
// damaged, peers that vanish, restart, wait. Where a test repeats something that was seen on a real
// port, its name says what.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/link/session.h"
#include "tests/unit/link_session_world.h"

namespace virt_reclaim::link {
namespace {

TEST_F(LinkSession, OpensAtOnce) {
  NewAgent();
  NewHost();
  Step();
  Step();
  EXPECT_EQ(host_->state(), State::kOpen);
  EXPECT_EQ(agent_->state(), State::kOpen);
  EXPECT_NE(host_->id(), 0U);
  EXPECT_EQ(agent_->id(), host_->id());
  EXPECT_EQ(host_->end_reason(), "");
}

TEST_F(LinkSession, BytesArriveInOrderBothWays) {
  OpenedAfresh();
  const Bytes to_agent = RandomBytes(3 << 20, 1);
  const Bytes to_host = RandomBytes(2 << 20, 2);
  size_t agent_at = 0;
  size_t host_at = 0;
  EXPECT_TRUE(RunUntil([&] {
    const auto rest = std::span(to_agent).subspan(host_at);
    const size_t count = std::min(rest.size(), host_->SendCapacity());
    host_->Send(rest.first(count));
    host_at += count;
    const auto other = std::span(to_host).subspan(agent_at);
    const size_t other_count = std::min(other.size(), agent_->SendCapacity());
    agent_->Send(other.first(other_count));
    agent_at += other_count;
    return agent_got_.size() == to_agent.size() && host_got_.size() == to_host.size();
  }));
  EXPECT_TRUE(agent_got_ == to_agent);
  EXPECT_TRUE(host_got_ == to_host);
  EXPECT_EQ(host_->state(), State::kOpen);
}

TEST_F(LinkSession, IdleSessionStaysOpenAndCostsTwoPingsASecond) {
  OpenedAfresh();
  int pings = 0;
  int from_agent = 0;
  on_way_to_agent_ = [&](Bytes* bytes) { pings += CountOf(FrameType::kPing, *bytes); };
  on_way_to_host_ = [&](Bytes* bytes) { from_agent += static_cast<int>(Parse(*bytes).size()); };
  RunFor(std::chrono::seconds(60));
  EXPECT_EQ(host_->state(), State::kOpen);
  EXPECT_EQ(agent_->state(), State::kOpen);
  EXPECT_NEAR(pings, 120, 2);
  EXPECT_EQ(from_agent, pings);
}

TEST_F(LinkSession, AgentWithoutSessionHasNoTimer) {
  NewAgent();
  EXPECT_EQ(agent_->deadline(), std::nullopt);
  TakeOutput(agent_.get());
  EXPECT_EQ(agent_->deadline(), std::nullopt);
  NewHost();
  ASSERT_TRUE(OpenSession());
  EXPECT_NE(agent_->deadline(), std::nullopt);
  host_->Finish();
  RunFor(milliseconds(10));
  EXPECT_EQ(agent_->state(), State::kIdle);
  EXPECT_EQ(agent_->deadline(), std::nullopt);
  EXPECT_EQ(host_->deadline(), std::nullopt);
}

TEST_F(LinkSession, DataReadTogetherWithWelcomeIsKept) {
  NewAgent();
  NewHost();
  agent_->Receive(now_, TakeOutput(host_.get()));
  agent_->Send(ToBytes("SETTINGS"));
  host_->Receive(now_, TakeOutput(agent_.get()));
  EXPECT_EQ(host_->state(), State::kOpen);
  EXPECT_EQ(TakeIncoming(host_.get()), ToBytes("SETTINGS"));
}

TEST_F(LinkSession, DataReadTogetherWithHelloIsKept) {
  NewAgent();
  Bytes bytes = Encode(FrameType::kHello, 77, 0, Number<uint32_t>(1000));
  Append(&bytes, Encode(FrameType::kData, 77, 0, ToBytes("PRI")));
  agent_->Receive(now_, bytes);
  EXPECT_EQ(agent_->id(), 77U);
  EXPECT_EQ(TakeIncoming(agent_.get()), ToBytes("PRI"));
}

TEST_F(LinkSession, KnocksThatQueuedUpWhileTheGuestBootsOpenOneSession) {
  NewHost();
  Bytes queued;
  while (CountOf(FrameType::kHello, queued) < 14) {
    now_ = *host_->deadline();
    host_->Tick(now_);
    Append(&queued, TakeOutput(host_.get()));
  }
  NewAgent();
  TakeOutput(agent_.get());
  agent_->Receive(now_, queued);
  agent_->Send(ToBytes("SETTINGS"));
  const Bytes answer = TakeOutput(agent_.get());
  EXPECT_GE(CountOf(FrameType::kWelcome, answer), 2);
  host_->Receive(now_, answer);
  EXPECT_EQ(host_->state(), State::kOpen);
  EXPECT_EQ(host_->id(), agent_->id());
  RunFor(milliseconds(3000));
  EXPECT_EQ(host_->state(), State::kOpen);
  EXPECT_EQ(host_got_, ToBytes("SETTINGS"));
}

TEST_F(LinkSession, LostHelloIsRepeated) {
  NewAgent();
  NewHost();
  int lost = 0;
  on_way_to_agent_ = [&](Bytes* bytes) {
    if (!bytes->empty() && lost++ < 3) bytes->clear();
  };
  EXPECT_TRUE(OpenSession());
}

TEST_F(LinkSession, LostWelcomeIsRepeatedForTheSameSession) {
  NewAgent();
  TakeOutput(agent_.get());
  NewHost();
  const uint64_t id = host_->id();
  int lost = 0;
  on_way_to_host_ = [&](Bytes* bytes) {
    if (!bytes->empty() && lost++ == 0) bytes->at(5) ^= 0xff;
  };
  EXPECT_TRUE(OpenSession());
  EXPECT_EQ(lost, 2);
  EXPECT_EQ(host_->id(), id);
}

TEST_F(LinkSession, LostWelcomeWithDataBehindItStartsAfresh) {
  NewAgent();
  TakeOutput(agent_.get());
  NewHost();
  const uint64_t id = host_->id();
  agent_->Receive(now_, TakeOutput(host_.get()));
  TakeOutput(agent_.get());  // WELCOME
  agent_->Send(ToBytes("lost session's settings"));
  ASSERT_TRUE(OpenSession());
  EXPECT_NE(host_->id(), id);
  agent_->Send(ToBytes("new"));
  RunFor(milliseconds(10));
  EXPECT_EQ(host_got_, ToBytes("new"));
}

TEST_F(LinkSession, NewHostEndsTheOldSession) {
  OpenedAfresh();
  const uint64_t old = agent_->id();
  agent_->Receive(now_, Encode(FrameType::kData, old, 0, ToBytes("for the old one")));
  NewHost();
  agent_->Send(Bytes(1000, 'x'));
  ASSERT_TRUE(OpenSession());
  EXPECT_NE(agent_->id(), old);
  RunFor(milliseconds(10));
  EXPECT_TRUE(host_got_.empty());
  EXPECT_TRUE(agent_got_.empty());
}

TEST_F(LinkSession, FramesOfOtherSessionsAreDropped) {
  OpenedAfresh();
  for (const uint64_t other : {host_->id() + 1, uint64_t{0}, uint64_t{12345}}) {
    for (int type = 0; type < 256; ++type) {
      const auto frame_type = static_cast<FrameType>(type);
      const Bytes frame = Encode(frame_type, other, 0, Number<uint64_t>(0));
      if (frame_type != FrameType::kHello) agent_->Receive(now_, frame);
      if (frame_type != FrameType::kAnnounce) host_->Receive(now_, frame);
    }
  }
  RunFor(milliseconds(100));
  EXPECT_EQ(host_->state(), State::kOpen);
  EXPECT_EQ(agent_->id(), host_->id());
  EXPECT_TRUE(host_got_.empty());
  EXPECT_TRUE(agent_got_.empty());
}

TEST_F(LinkSession, DamagedFrameEndsTheSessionOnBothSides) {
  OpenedAfresh();
  agent_->Send(ToBytes("the end of a reply"));
  on_way_to_host_ = [&](Bytes* bytes) {
    if (bytes->size() > 30) bytes->at(20) ^= 1;
  };
  Step();
  EXPECT_EQ(host_->state(), State::kEnded);
  EXPECT_THAT(host_->end_reason(), testing::HasSubstr("damaged"));
  Step();
  EXPECT_EQ(agent_->state(), State::kIdle);
  EXPECT_THAT(agent_->end_reason(), testing::HasSubstr("damaged"));
  ExpectGoodHostGetsThrough();
}

TEST_F(LinkSession, DamagedFrameToTheAgentIsReportedByTheHost) {
  OpenedAfresh();
  host_->Send(ToBytes("a request"));
  on_way_to_agent_ = [&](Bytes* bytes) {
    if (!bytes->empty()) bytes->at(3) ^= 4;
  };
  Step();
  Step();
  EXPECT_EQ(host_->state(), State::kEnded);
  EXPECT_EQ(host_->end_reason(), "the agent received a damaged frame");
  ExpectGoodHostGetsThrough();
}

TEST_F(LinkSession, SeventeenCutBytesEndTheSession) {
  OpenedAfresh();
  agent_->Send(Bytes(100, 'a'));
  agent_->Send(Bytes(100, 'b'));
  on_way_to_host_ = [&](Bytes* bytes) {
    if (bytes->size() > 100) bytes->erase(bytes->begin() + 90, bytes->begin() + 107);
  };
  Step();
  EXPECT_EQ(host_->state(), State::kEnded);
}

TEST_F(LinkSession, WholeFrameLostWithoutTraceIsNoticedByTheNextPong) {
  OpenedAfresh();
  agent_->Send(ToBytes("the end of a reply"));
  TakeOutput(agent_.get());
  EXPECT_TRUE(RunUntil([&] { return host_->state() == State::kEnded; }, milliseconds(600)));
  EXPECT_THAT(host_->end_reason(), testing::HasSubstr("lost"));
}

TEST_F(LinkSession, WholeFrameToTheAgentLostIsNoticedByTheNextPing) {
  OpenedAfresh();
  host_->Send(ToBytes("a request"));
  TakeOutput(host_.get());
  EXPECT_TRUE(RunUntil([&] { return host_->state() == State::kEnded; }, milliseconds(600)));
  EXPECT_EQ(host_->end_reason(), "frames to the agent were lost");
}

TEST_F(LinkSession, RepeatedDataEndsTheSession) {
  OpenedAfresh();
  agent_->Send(ToBytes("once"));
  on_way_to_host_ = [](Bytes* bytes) { Append(bytes, Bytes(*bytes)); };
  Step();
  EXPECT_EQ(host_->state(), State::kEnded);
  EXPECT_TRUE(host_got_.empty());
}

TEST_F(LinkSession, SilentAgentIsGivenUpAfterTwoSeconds) {
  OpenedAfresh();
  const TimePoint start = now_;
  on_way_to_host_ = [](Bytes* bytes) { bytes->clear(); };
  EXPECT_TRUE(RunUntil([&] { return host_->state() == State::kEnded; }, milliseconds(2600)));
  EXPECT_GE(now_ - start, milliseconds(1400));
  EXPECT_THAT(host_->end_reason(), testing::HasSubstr("no sign of life"));
  RunFor(milliseconds(5));
  EXPECT_EQ(agent_->state(), State::kIdle);  // by the host's BYE
}

TEST_F(LinkSession, SilentHostIsGivenUpAfterTwoSeconds) {
  OpenedAfresh();
  on_way_to_agent_ = [](Bytes* bytes) { bytes->clear(); };
  EXPECT_TRUE(RunUntil([&] { return agent_->state() == State::kIdle; }, milliseconds(2600)));
  EXPECT_THAT(agent_->end_reason(), testing::HasSubstr("no sign of life"));
  EXPECT_EQ(agent_->deadline(), std::nullopt);
}

TEST_F(LinkSession, WhoSleptItselfGivesThePeerASecondChance) {
  OpenedAfresh();
  now_ += std::chrono::seconds(30);
  host_->Tick(now_);
  agent_->Tick(now_);
  EXPECT_EQ(host_->state(), State::kOpen);
  EXPECT_EQ(agent_->state(), State::kOpen);
  RunFor(milliseconds(3000));
  EXPECT_EQ(host_->state(), State::kOpen);
  EXPECT_EQ(agent_->state(), State::kOpen);
  now_ += std::chrono::seconds(30);
  host_->Tick(now_);
  EXPECT_EQ(host_->state(), State::kOpen);
  now_ = *host_->deadline();
  host_->Tick(now_);
  now_ = std::max(now_, host_->deadline().value_or(now_));
  for (int i = 0; i < 5 && host_->state() == State::kOpen; ++i) {
    now_ = *host_->deadline();
    host_->Tick(now_);
  }
  EXPECT_EQ(host_->state(), State::kEnded);
}

TEST_F(LinkSession, RestartedAgentEndsTheHostsSession) {
  OpenedAfresh();
  NewAgent();
  Step();
  EXPECT_EQ(host_->state(), State::kEnded);
  EXPECT_EQ(host_->end_reason(), "the agent restarted");
  ExpectGoodHostGetsThrough();
}

TEST_F(LinkSession, WelcomeOfAnotherAgentEndsTheHostsSession) {
  OpenedAfresh();
  Bytes payload = Number<uint64_t>(4711);
  Append(&payload, Number<uint32_t>(1000));
  host_->Receive(now_, Encode(FrameType::kWelcome, host_->id(), 0, payload));
  EXPECT_EQ(host_->end_reason(), "the agent restarted");
}

TEST_F(LinkSession, AnnounceOfTheSameAgentChangesNothing) {
  OpenedAfresh();
  agent_->PeerAppeared(now_);
  RunFor(milliseconds(10));
  EXPECT_EQ(host_->state(), State::kOpen);
}

TEST_F(LinkSession, AnnounceIsAnsweredByHelloAtOnce) {
  NewHost();
  TakeOutput(host_.get());
  now_ += milliseconds(50);
  NewAgent();
  const TimePoint start = now_;
  ASSERT_TRUE(OpenSession());
  EXPECT_LE(now_ - start, milliseconds(5));
}

TEST_F(LinkSession, FloodOfAnnouncesIsNoFloodOfHellos) {
  NewHost();
  int hellos = 0;
  for (int i = 0; i < 1000; ++i) {
    host_->Receive(now_, Encode(FrameType::kAnnounce, 0, 0, RandomBytes(8, 1)));
    hellos += CountOf(FrameType::kHello, TakeOutput(host_.get()));
  }
  EXPECT_EQ(hellos, 1);
}

TEST_F(LinkSession, HostLeavingThePortEndsTheAgentsSessionAndDropsItsBytes) {
  OpenedAfresh();
  agent_->Send(Bytes(50000, 'x'));
  const auto part = agent_->Output();
  agent_->OutputWritten(part.size() / 2);
  agent_->PeerLost(now_);
  EXPECT_EQ(agent_->state(), State::kIdle);
  EXPECT_TRUE(agent_->Output().empty());
  agent_->PeerAppeared(now_);
  EXPECT_EQ(CountOf(FrameType::kAnnounce, TakeOutput(agent_.get())), 1);
  ExpectGoodHostGetsThrough();
}

TEST_F(LinkSession, OrderlyEndDeliversAllThatWasSent) {
  OpenedAfresh();
  reading_ = false;
  const Bytes answer = RandomBytes(100000, 3);
  agent_->Send(answer);
  agent_->Finish();
  EXPECT_EQ(agent_->state(), State::kIdle);
  RunFor(milliseconds(10));
  EXPECT_EQ(host_->state(), State::kDraining);
  EXPECT_TRUE(TakeIncoming(host_.get()) == answer);
  EXPECT_EQ(host_->state(), State::kEnded);
  EXPECT_EQ(host_->end_reason(), "the agent closed the session");
}

TEST_F(LinkSession, OrderlyEndByTheHost) {
  OpenedAfresh();
  host_->Send(ToBytes("last words"));
  host_->Finish();
  RunFor(milliseconds(5));
  EXPECT_EQ(agent_got_, ToBytes("last words"));
  EXPECT_EQ(agent_->state(), State::kIdle);
  EXPECT_EQ(agent_->end_reason(), "the host closed the session");
}

TEST_F(LinkSession, OrderlyEndAfterLostDataIsNone) {
  OpenedAfresh();
  agent_->Send(ToBytes("the end of a reply"));
  TakeOutput(agent_.get());
  agent_->Finish();
  RunFor(milliseconds(5));
  EXPECT_EQ(host_->state(), State::kEnded);
  EXPECT_THAT(host_->end_reason(), testing::HasSubstr("lost"));
}

TEST_F(LinkSession, DrainingIsLimitedInTime) {
  OpenedAfresh();
  reading_ = false;
  host_->Send(ToBytes("nobody reads this"));
  host_->Finish();
  RunFor(milliseconds(5));
  EXPECT_EQ(agent_->state(), State::kDraining);
  RunFor(milliseconds(2100));
  EXPECT_EQ(agent_->state(), State::kIdle);
  EXPECT_EQ(agent_->deadline(), std::nullopt);
}

TEST_F(LinkSession, DrainingHostReadsOnWhenThePortIsGone) {
  OpenedAfresh();
  reading_ = false;
  agent_->Send(ToBytes("answer"));
  agent_->Finish();
  RunFor(milliseconds(5));
  host_->PeerLost(now_);
  EXPECT_EQ(TakeIncoming(host_.get()), ToBytes("answer"));
}

TEST_F(LinkSession, SlowReaderIsPacedAndControlFramesStillPass) {
  OpenedAfresh();
  reading_ = false;
  size_t sent = 0;
  for (int i = 0; i < 8000; ++i) {
    const size_t count = agent_->SendCapacity();
    agent_->Send(Bytes(count, 'x'));
    sent += count;
    Step();
  }
  EXPECT_EQ(sent, size_t{kDefaultWindow});
  EXPECT_EQ(host_->Incoming().size(), size_t{kDefaultWindow});
  EXPECT_EQ(host_->state(), State::kOpen);  // 8 s: the pings got through
  reading_ = true;
  RunFor(milliseconds(5));
  EXPECT_GT(agent_->SendCapacity(), 0U);
}

// An emulated guest on a busy machine: 'a frame of type 6 was received where it has no place'.
TEST_F(LinkSession, AnswersToSeveralPingsMayComeTogether) {
  OpenedAfresh();
  Bytes held;
  on_way_to_host_ = [&](Bytes* bytes) {
    Append(&held, *bytes);
    bytes->clear();
  };
  RunFor(milliseconds(1600));  // three PINGs
  EXPECT_FALSE(held.empty());
  on_way_to_host_ = nullptr;
  host_->Receive(now_, held);
  EXPECT_EQ(host_->state(), State::kOpen) << host_->end_reason();
  RunFor(milliseconds(1600));
  EXPECT_EQ(host_->state(), State::kOpen) << host_->end_reason();
}

TEST_F(LinkSession, CreditLostWithoutTraceIsReplacedByPong) {
  OpenedAfresh();
  agent_->Send(Bytes(agent_->SendCapacity(), 'x'));
  Step();
  agent_->Send(Bytes(agent_->SendCapacity(), 'x'));
  Step();
  agent_->Send(Bytes(agent_->SendCapacity(), 'x'));
  Step();
  TakeOutput(host_.get());  // CREDIT
  RunFor(milliseconds(600));
  EXPECT_GT(agent_->SendCapacity(), 0U);
  EXPECT_EQ(host_->state(), State::kOpen);
}

TEST(LinkRandomId, IsNeverZeroAndDiffers) {
  const uint64_t first = RandomId();
  EXPECT_NE(first, 0U);
  EXPECT_NE(first, RandomId());
}

}  // namespace
}  // namespace virt_reclaim::link
