#include "host/services/monitor_calls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <latch>
#include <memory>

#include "absl/time/clock.h"

namespace virt_reclaim {
namespace {

constexpr absl::Duration kMissed = absl::Milliseconds(20);  // the limit of what is to miss it
constexpr absl::Duration kAnyTime = absl::Hours(24);        // of what is not

using Question = std::function<absl::StatusOr<int>()>;

Question NeverAnswered(const std::shared_ptr<std::latch>& gate) {
  return [gate]() -> absl::StatusOr<int> {
    gate->wait();
    return 1;
  };
}

Question AnsweredAtOnce() {
  return []() -> absl::StatusOr<int> { return 2; };
}

TEST(MonitorCalls, AnAnswerOrItsErrorIsPassedOn) {
  MonitorCalls calls;
  EXPECT_EQ(calls.Ask<int>("a", kAnyTime, AnsweredAtOnce()).value(), 2);
  EXPECT_EQ(calls.Ask<int>("a", kAnyTime, [] { return absl::NotFoundError("no"); }).status(),
            absl::NotFoundError("no"));
}

TEST(MonitorCalls, AQemuThatHangsCostsItsLimitOnceAndNoOtherDomainAnything) {
  MonitorCalls calls;
  const auto gate = std::make_shared<std::latch>(1);
  EXPECT_TRUE(
      absl::IsDeadlineExceeded(calls.Ask<int>("hung", kMissed, NeverAnswered(gate)).status()));
  // Would take a day, if it were asked.
  EXPECT_TRUE(
      absl::IsDeadlineExceeded(calls.Ask<int>("hung", kAnyTime, NeverAnswered(gate)).status()));
  EXPECT_EQ(calls.Ask<int>("other", kAnyTime, AnsweredAtOnce()).value(), 2);
  gate->count_down();
  while (!calls.Ask<int>("hung", kAnyTime, AnsweredAtOnce()).ok())
    absl::SleepFor(absl::Milliseconds(1));
}

TEST(MonitorCalls, WhatIsLeftBehindOutlivesThem) {
  const auto gate = std::make_shared<std::latch>(1);
  {
    MonitorCalls calls;
    EXPECT_FALSE(calls.Ask<int>("hung", kMissed, NeverAnswered(gate)).ok());
  }
  gate->count_down();
  while (gate.use_count() > 1) absl::SleepFor(absl::Milliseconds(1));
}

}  // namespace
}  // namespace virt_reclaim
