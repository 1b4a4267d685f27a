// The session layer against a peer that is broken or means harm, and against a line that is.
// Whatever comes, buffers stay bounded, sessions do not mix, and the next good host gets through.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "proto/link/session.h"
#include "tests/unit/link_session_world.h"

namespace virt_reclaim::link {
namespace {

TEST_F(LinkSession, SendingBeyondTheWindowEndsTheSession) {
  OpenedAfresh();
  const uint64_t id = host_->id();
  for (uint32_t seq = 0; seq < 10; ++seq) {
    host_->Receive(now_, Encode(FrameType::kData, id, seq, Bytes(30000, 'x')));
    EXPECT_LE(host_->Incoming().size(), size_t{kDefaultWindow});
  }
  EXPECT_EQ(host_->state(), State::kEnded);
  EXPECT_THAT(host_->end_reason(), testing::HasSubstr("window"));
}

TEST_F(LinkSession, PeersSmallWindowIsRespected) {
  NewAgent();
  agent_->Receive(now_, Encode(FrameType::kHello, 5, 0, Number<uint32_t>(10)));
  EXPECT_EQ(agent_->SendCapacity(), 10U);
  agent_->Send(Bytes(100, 'x'));
  EXPECT_EQ(agent_->SendCapacity(), 0U);
  agent_->Receive(now_, Encode(FrameType::kCredit, 5, 0, Number<uint64_t>(4)));
  EXPECT_EQ(agent_->SendCapacity(), 4U);
  agent_->Receive(now_, Encode(FrameType::kCredit, 5, 0, Number<uint64_t>(4)));
  EXPECT_EQ(agent_->state(), State::kIdle);  // no progress
}

TEST_F(LinkSession, CreditForMoreThanWasSentEndsTheSession) {
  OpenedAfresh();
  host_->Receive(now_, Encode(FrameType::kCredit, host_->id(), 0, Number<uint64_t>(1)));
  EXPECT_EQ(host_->state(), State::kEnded);
}

TEST_F(LinkSession, HostCapsWhatTheGuestMaySend) {
  NewAgent();
  Session::Options options = HostOptions();
  options.max_received_bytes = 100000;
  NewHost(options);
  ASSERT_TRUE(OpenSession());
  for (int i = 0; i < 200 && host_->state() == State::kOpen; ++i) {
    agent_->Send(Bytes(std::min<size_t>(1000, agent_->SendCapacity()), 'x'));
    Step();
  }
  EXPECT_EQ(host_->state(), State::kEnded);
  EXPECT_EQ(host_got_.size(), 100000U);
  EXPECT_THAT(host_->end_reason(), testing::HasSubstr("97.7 KiB"));
}

TEST_F(LinkSession, HostEndsASessionThatIsOnlyNoise) {
  OpenedAfresh();
  const Bytes noise = Encode(FrameType::kData, 1, 0, Bytes(30000, 'x'));
  int frames = 0;
  while (host_->state() == State::kOpen && ++frames < 10000) host_->Receive(now_, noise);
  EXPECT_LE(frames, 600);
  EXPECT_EQ(host_->state(), State::kEnded);
}

TEST_F(LinkSession, PeerThatAsksAndNeverReadsFillsNothing) {
  OpenedAfresh();
  const uint64_t id = agent_->id();
  for (int i = 0; i < 20000; ++i) {
    agent_->Receive(now_, Encode(FrameType::kPing, id, 0, Number<uint64_t>(0)));
    agent_->Receive(now_, Encode(FrameType::kHello, id, 0, Number<uint32_t>(1000)));
    agent_->Receive(now_, Encode(FrameType::kHello, 0x1234, 0, Bytes{}));
    agent_->Output();
  }
  EXPECT_LE(agent_->Output().size(), kOutboxTarget + 1000);
  for (uint64_t other = 100000; other < 120000; ++other) {
    agent_->Receive(now_, Encode(FrameType::kHello, other, 0, Number<uint32_t>(1000)));
    agent_->Receive(now_, Encode(FrameType::kData, other, 5, Bytes(1)));
    agent_->Output();
  }
  EXPECT_LE(agent_->Output().size(), kOutboxTarget + 1000);
}

TEST_F(LinkSession, EveryFrameThatHasNoPlaceOnlyEndsTheSession) {
  for (int type = 0; type < 256; ++type) {
    for (const size_t size : {0, 1, 4, 8, 12, 100}) {
      for (const uint32_t seq : {0U, 1U, 0xffffffffU}) {
        for (const bool to_host : {false, true}) {
          for (const bool connecting : {false, true}) {
            NewAgent();
            NewHost();
            if (!connecting) {
              ASSERT_TRUE(OpenSession());
            }
            Session* target = to_host ? host_.get() : agent_.get();
            target->Receive(now_, Encode(static_cast<FrameType>(type), host_->id(), seq,
                                         Bytes(size, static_cast<uint8_t>(type))));
            if (host_->state() == State::kOpen) RunFor(milliseconds(2));
          }
        }
      }
    }
    ExpectGoodHostGetsThrough();
  }
}

TEST_F(LinkSession, HostEndsOnPingOfTheAgent) {
  OpenedAfresh();
  host_->Receive(now_, Encode(FrameType::kPing, host_->id(), 0, Number<uint64_t>(0)));
  EXPECT_EQ(host_->state(), State::kEnded);
}

TEST_F(LinkSession, HostEndsOnPongNobodyAskedFor) {
  OpenedAfresh();
  host_->Receive(now_, Encode(FrameType::kPong, host_->id(), 0, Number<uint64_t>(0)));
  EXPECT_EQ(host_->state(), State::kEnded);
}

TEST_F(LinkSession, UnknownTypeIsLeftForLaterVersions) {
  OpenedAfresh();
  host_->Receive(now_, Encode(static_cast<FrameType>(99), host_->id(), 0, Bytes(10)));
  agent_->Receive(now_, Encode(static_cast<FrameType>(99), host_->id(), 0, Bytes(10)));
  EXPECT_EQ(host_->state(), State::kOpen);
  EXPECT_EQ(agent_->state(), State::kOpen);
}

TEST_F(LinkSession, AgentOfAnotherVersionIsTold) {
  NewAgent();
  NewHost();
  Bytes refusal;
  const Bytes code{static_cast<uint8_t>(EndCode::kVersion)};
  AppendFrame({.type = FrameType::kBye, .version = 9, .session = host_->id(), .payload = code},
              &refusal);
  host_->Receive(now_, refusal);
  EXPECT_EQ(host_->state(), State::kEnded);
  EXPECT_EQ(host_->refused_by_version(), 9);
  EXPECT_EQ(host_->end_reason(), "the agent speaks version 9 of the link, this program version 1");
}

TEST_F(LinkSession, HelloOfAnotherVersionIsRefused) {
  NewAgent();
  TakeOutput(agent_.get());
  Bytes hello;
  AppendFrame({.type = FrameType::kHello, .version = 9, .session = 3, .payload = Bytes(4)}, &hello);
  agent_->Receive(now_, hello);
  EXPECT_EQ(agent_->state(), State::kIdle);
  const auto frames = Parse(TakeOutput(agent_.get()));
  ASSERT_EQ(frames.size(), 1U);
  EXPECT_EQ(frames[0].type, FrameType::kBye);
  EXPECT_EQ(frames[0].session, 3U);
}

TEST_F(LinkSession, PortThatEchoesNeverOpens) {
  NewHost();
  for (int i = 0; i < 2000; ++i) {
    now_ += kLatency;
    host_->Receive(now_, TakeOutput(host_.get()));
    Advance(host_.get());
  }
  EXPECT_EQ(host_->state(), State::kConnecting);
}

TEST_F(LinkSession, AgentThatRefusesEverythingIsNotKnockedInALoop) {
  NewHost();
  int hellos = 0;
  for (int i = 0; i < 2000; ++i) {
    now_ += kLatency;
    const Bytes output = TakeOutput(host_.get());
    hellos += CountOf(FrameType::kHello, output);
    for (const Parsed& frame : Parse(output)) {
      host_->Receive(now_, Encode(FrameType::kBye, frame.session, 0, Bytes{1}));
    }
    Advance(host_.get());
  }
  EXPECT_EQ(host_->state(), State::kConnecting);
  EXPECT_LE(hellos, 20);
}

// A host's and an agent's whole recorded sessions, for replay.
struct Recording {
  Bytes to_agent;
  Bytes to_host;
};

TEST_F(LinkSession, ReplayOfAnOldSessionDoesNotGetIntoTheNewOne) {
  Recording old;
  on_way_to_agent_ = [&](Bytes* bytes) { Append(&old.to_agent, *bytes); };
  on_way_to_host_ = [&](Bytes* bytes) { Append(&old.to_host, *bytes); };
  OpenedAfresh();
  host_->Send(ToBytes("trim"));
  agent_->Send(ToBytes("trimmed"));
  RunFor(milliseconds(600));
  host_->Finish();
  RunFor(milliseconds(5));
  on_way_to_agent_ = on_way_to_host_ = nullptr;
  NewHost();
  ASSERT_TRUE(OpenSession());
  agent_got_.clear();
  const uint64_t id = agent_->id();
  agent_->Receive(now_, old.to_agent);
  host_->Receive(now_, old.to_host);
  RunFor(milliseconds(50));
  EXPECT_EQ(agent_->id(), id);
  EXPECT_TRUE(agent_got_.empty());
  EXPECT_TRUE(host_got_.empty());
  EXPECT_EQ(host_->state(), State::kOpen);
}

TEST_F(LinkSession, StaleBytesOfADeadAgentBeforeTheNewOne) {
  OpenedAfresh();
  agent_->Send(Bytes(90000, 'A'));
  const Bytes stale = TakeOutput(agent_.get());
  NewAgent();
  NewHost();
  host_->Receive(now_, stale);
  ASSERT_TRUE(OpenSession());
  EXPECT_TRUE(host_got_.empty());
}

TEST_F(LinkSession, StaleBytesOfADeadHostRunIntoTheNewHosts) {
  OpenedAfresh();
  host_->Send(Bytes(90000, 'A'));
  Bytes stale = TakeOutput(host_.get());
  stale.resize(stale.size() - 100);
  NewHost();
  bool first = true;
  on_way_to_agent_ = [&](Bytes* bytes) {
    if (std::exchange(first, false)) bytes->insert(bytes->begin(), stale.begin(), stale.end());
  };
  reading_ = false;
  ASSERT_TRUE(OpenSession());
  EXPECT_TRUE(agent_->Incoming().empty());
}

TEST_F(LinkSession, GarbageFromEitherSideThenAGoodHost) {
  std::vector<Bytes> garbage;
  for (uint32_t seed = 0; seed < 3; ++seed) garbage.push_back(RandomBytes(1 << 20, seed));
  garbage.emplace_back(size_t{5} << 20, uint8_t{0xff});
  garbage.emplace_back(1 << 20, uint8_t{0});
  garbage.emplace_back(1 << 20, uint8_t{1});
  Bytes half = Encode(FrameType::kData, 1, 0, Bytes(30000, 'x'));
  half.resize(half.size() / 2);
  garbage.push_back(half);
  for (const Bytes& bytes : garbage) {
    NewAgent();
    agent_->Receive(now_, bytes);
    ExpectGoodHostGetsThrough();  // no session before
    agent_->Receive(now_, bytes);
    ExpectGoodHostGetsThrough();  // in the middle of one
    NewHost();
    host_->Receive(now_, bytes);
    EXPECT_TRUE(OpenSession());
    host_->Receive(now_, bytes);
    RunFor(milliseconds(10));
    ExpectGoodHostGetsThrough();
  }
}

TEST_F(LinkSession, GarbageThatIsNoFrameEndsAnOpenSession) {
  OpenedAfresh();
  host_->Receive(now_, Bytes(100000, 0xff));
  EXPECT_EQ(host_->state(), State::kEnded);
}

TEST_F(LinkSession, ManySessionsInOneReadLeaveOneOpen) {
  NewAgent();
  Bytes bytes;
  for (uint64_t id = 1; id <= 500; ++id) {
    Append(&bytes, Encode(FrameType::kHello, id, 0, Number<uint32_t>(1000)));
  }
  agent_->Receive(now_, bytes);
  EXPECT_EQ(agent_->id(), 500U);
  ExpectGoodHostGetsThrough();
}

// Damages, cuts, repeats, reorders or loses pieces of what passes.
class Chaos {
 public:
  Chaos(uint32_t seed, double rate) : random_(seed), rate_(rate) {}
  void operator()(Bytes* bytes) {
    if (!kept_.empty() && Chance()) {
      bytes->insert(bytes->begin(), kept_.begin(), kept_.end());
      kept_.clear();
    }
    if (bytes->empty() || !Chance()) return;
    const size_t at = random_() % bytes->size();
    const size_t count = std::min<size_t>(random_() % 40, bytes->size() - at);
    const auto begin = bytes->begin() + static_cast<ptrdiff_t>(at);
    switch (random_() % 5) {
      case 0:
        *begin ^= static_cast<uint8_t>(1 << (random_() % 8));
        break;
      case 1:
        bytes->erase(begin, begin + static_cast<ptrdiff_t>(count));
        break;
      case 2: {
        const Bytes piece(begin, begin + static_cast<ptrdiff_t>(count));
        bytes->insert(begin, piece.begin(), piece.end());
        break;
      }
      case 3:
        std::swap(kept_, *bytes);
        break;
      default:
        bytes->clear();
        break;
    }
  }

 private:
  bool Chance() { return std::uniform_real_distribution<>(0, 1)(random_) < rate_; }
  std::mt19937 random_;
  double rate_;
  Bytes kept_;
};

// Under any damage: what arrives in a session is a prefix of what was sent in it, and a good host
// gets through after.
TEST_F(LinkSession, UnderChaosWhatArrivesIsAPrefixOfWhatWasSent) {
  int sessions = 0;
  int ended = 0;
  for (uint32_t seed = 0; seed < 150; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    uint32_t piece_seed = 1000 * seed;
    if (seed % 10 == 0) NewAgent();
    on_way_to_agent_ = Chaos(seed * 2, 0.03);
    on_way_to_host_ = Chaos(seed * 2 + 1, 0.03);
    NewHost();
    if (!OpenSession()) continue;
    ++sessions;
    const uint64_t id = host_->id();
    host_got_.clear();
    agent_got_.clear();
    Bytes to_agent;
    Bytes to_host;
    for (int i = 0; i < 700 && host_->state() == State::kOpen && agent_->id() == id; ++i) {
      const Bytes request =
          RandomBytes(std::min(host_->SendCapacity(), random() % 5000), piece_seed++);
      host_->Send(request);
      Append(&to_agent, request);
      const Bytes reply =
          RandomBytes(std::min(agent_->SendCapacity(), random() % 5000), piece_seed++);
      agent_->Send(reply);
      Append(&to_host, reply);
      Step();
    }
    if (host_->state() != State::kOpen) ++ended;
    ASSERT_LE(agent_got_.size(), to_agent.size());
    ASSERT_LE(host_got_.size(), to_host.size());
    EXPECT_TRUE(std::equal(agent_got_.begin(), agent_got_.end(), to_agent.begin()));
    EXPECT_TRUE(std::equal(host_got_.begin(), host_got_.end(), to_host.begin()));
    ExpectGoodHostGetsThrough();
  }
  EXPECT_GT(sessions, 75);
  EXPECT_GT(ended, 20);
}

}  // namespace
}  // namespace virt_reclaim::link
