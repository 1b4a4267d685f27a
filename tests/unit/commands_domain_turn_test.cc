// Who works on a domain, who looks, and who waits for whom.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "host/commands/agent_status.h"
#include "host/commands/domain_turn.h"
#include "host/commands/report.h"
#include "tests/unit/trim_fixture.h"

namespace virt_reclaim {
namespace {

using testing::ElementsAre;
using Use = DomainLock::Use;

class DomainTurnTest : public TrimTest {
 protected:
  void Hold(const std::string& name, Use use) {
    other_.emplace(DomainLock::Take(world_.services().lock_directory, UuidOf(name), use).value());
  }
  // `meanwhile` is called whenever somebody has waited for a while.
  Services Waiting(const std::function<void()>& meanwhile) {
    Services services = world_.services();
    services.sleep = [this, meanwhile, sleep = services.sleep](absl::Duration duration) {
      sleep(duration);
      waited_ += duration;
      meanwhile();
    };
    return services;
  }
  static std::vector<std::string> Trim(const Services& services, std::stop_token stop = {}) {
    const auto plan = PlanTrim(services, {}, {});
    EXPECT_TRUE(plan.ok()) << plan.status();
    return Lines(ExecuteTrim(services, {}, *plan, nullptr, stop));
  }

  std::optional<DomainLock> other_;
  absl::Duration waited_;
};

TEST_F(DomainTurnTest, TheHolderTellsWhatItIsAt) {
  const auto take = [&](Use use) {
    return DomainLock::Take(world_.services().lock_directory, UuidOf("web"), use).status().code();
  };
  for (const Use use : {Use::kWork, Use::kLook}) {
    Hold("web", Use::kLook);
    EXPECT_EQ(take(use), absl::StatusCode::kUnavailable);
    other_.reset();
    Hold("web", Use::kWork);  // nothing is left of the look before
    EXPECT_EQ(take(use), absl::StatusCode::kAborted);
    other_.reset();
    EXPECT_EQ(take(use), absl::StatusCode::kOk);
  }
}

TEST_F(DomainTurnTest, ATrimWaitsForALook) {
  Add("web");
  Hold("web", Use::kLook);
  int waits = 0;
  const Services services = Waiting([&] {
    if (++waits == 5) other_.reset();
  });
  EXPECT_THAT(Trim(services), ElementsAre("web: done"));
  EXPECT_GE(waits, 5);
  EXPECT_LT(waited_, absl::Seconds(1));
}

TEST_F(DomainTurnTest, ThroughQemuGuestAgentItDoesToo) {
  AddWithQemuAgent("old");
  Hold("old", Use::kLook);
  const Services services = Waiting([&] { other_.reset(); });
  EXPECT_THAT(Trim(services), ElementsAre("old: done"));
}

TEST_F(DomainTurnTest, SomebodyAtWorkIsNotWaitedFor) {
  Add("web");
  Hold("web", Use::kWork);
  EXPECT_THAT(Trim(Waiting([] {})), ElementsAre("web: skipped busy"));
  EXPECT_EQ(waited_, absl::ZeroDuration());
}

TEST_F(DomainTurnTest, NobodyWaitsForever) {
  Add("web");
  Hold("web", Use::kLook);
  EXPECT_THAT(Trim(Waiting([] {})), ElementsAre("web: skipped busy"));
  EXPECT_GT(waited_, kListingTimeout);  // an agent that is slow to list is looked at for so long
  EXPECT_LT(waited_, absl::Minutes(1));
}

TEST_F(DomainTurnTest, AStopEndsTheWait) {
  Add("web");
  Hold("web", Use::kLook);
  std::stop_source stop;
  const Services services = Waiting([&] { stop.request_stop(); });
  EXPECT_THAT(Trim(services, stop.get_token()), ElementsAre("web: cancelled"));
  EXPECT_LT(waited_, absl::Seconds(1));
}

TEST_F(DomainTurnTest, TwoThatLookTakeTurns) {
  Add("web");
  Hold("web", Use::kLook);
  const auto looked = GetAgentStatus(Waiting([&] { other_.reset(); }), {}, {});
  ASSERT_TRUE(looked.ok()) << looked.status();
  ASSERT_EQ(looked->size(), 1u);
  EXPECT_EQ(looked->front().blocker, std::nullopt);
  EXPECT_GT(waited_, absl::ZeroDuration());
}

TEST_F(DomainTurnTest, WhatIsLookedAtIsNoWork) {
  FakeDomain& domain = Add("web");
  std::optional<absl::StatusCode> seen;
  domain.agent.while_listing = [&] {
    seen = DomainLock::Take(world_.services().lock_directory, UuidOf("web")).status().code();
  };
  ASSERT_TRUE(MakeReport(world_.services(), {}, {}).ok());
  EXPECT_EQ(seen, absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace virt_reclaim
