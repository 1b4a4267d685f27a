#include "host/services/call_watchdog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <thread>
#include <vector>

#include "absl/time/clock.h"

namespace virt_reclaim {
namespace {

using testing::HasSubstr;

constexpr size_t kMost = 4;
constexpr absl::Duration kLook = absl::Milliseconds(1);
constexpr absl::Duration kSoon = absl::Milliseconds(20);  // the limit of what is to miss it
constexpr absl::Duration kNever = absl::Hours(24);        // of what is not

absl::Status GoesOn() { return absl::OkStatus(); }

// A call of libvirt's that returns when it is told to, and who owns something that must go with it.
struct Hung {
  std::shared_ptr<std::latch> gate = std::make_shared<std::latch>(1);
  std::shared_ptr<int> owned = std::make_shared<int>(0);
  std::function<absl::StatusOr<std::string>()> call() const {
    return [gate = gate, owned = owned]() -> absl::StatusOr<std::string> {
      gate->wait();
      return "late";
    };
  }
  void Return() const { gate->count_down(); }
  // The thread has come back and dropped what it had.
  bool IsGone() const { return owned.use_count() == 1; }
};

void WaitFor(const std::function<bool()>& condition) {
  while (!condition()) absl::SleepFor(absl::Milliseconds(1));
}

TEST(CallWatchdog, AnAnswerIsPassedOn) {
  CallWatchdog watchdog("somebody", kMost, kLook);
  EXPECT_EQ(watchdog.Run([] { return "yes"; }, kNever, GoesOn, {}).value(), "yes");
  EXPECT_EQ(watchdog.Run([] { return absl::DataLossError("no"); }, kNever, GoesOn, {}).status(),
            absl::DataLossError("no"));
  EXPECT_EQ(watchdog.left_behind(), 0u);
}

TEST(CallWatchdog, WhatTakesSeveralLooksIsWaitedFor) {
  CallWatchdog watchdog("somebody", kMost, kLook);
  const Hung slow;
  size_t looks = 0;
  const auto answer = watchdog.Run(slow.call(), kNever,
                                   [&] {
                                     if (++looks == 5) slow.Return();
                                     return absl::OkStatus();
                                   },
                                   {});
  EXPECT_EQ(answer.value(), "late");
  EXPECT_GE(looks, 5u);
  EXPECT_TRUE(slow.IsGone());
  EXPECT_EQ(watchdog.left_behind(), 0u);
}

TEST(CallWatchdog, ACallThatNeverReturnsDoesNotHangUs) {
  CallWatchdog watchdog("somebody", kMost, kLook);
  const Hung hung;
  const auto answer = watchdog.Run(hung.call(), kSoon, GoesOn, {});
  EXPECT_TRUE(absl::IsDeadlineExceeded(answer.status())) << answer.status();
  EXPECT_EQ(watchdog.left_behind(), 1u);
  EXPECT_FALSE(hung.IsGone());  // what it works with is not pulled away from under it
  // Others are served meanwhile.
  EXPECT_EQ(watchdog.Run([] { return "yes"; }, kNever, GoesOn, {}).value(), "yes");
  hung.Return();
  WaitFor([&] { return watchdog.left_behind() == 0; });
}

TEST(CallWatchdog, OneThatReturnsLateIsHeardByNobody) {
  CallWatchdog watchdog("somebody", kMost, kLook);
  const Hung hung;
  EXPECT_FALSE(watchdog.Run(hung.call(), kSoon, GoesOn, {}).ok());
  hung.Return();
  WaitFor([&] { return watchdog.left_behind() == 0; });
  EXPECT_TRUE(hung.IsGone());
  // The next call has its own answer.
  EXPECT_EQ(watchdog.Run([] { return "new"; }, kNever, GoesOn, {}).value(), "new");
}

TEST(CallWatchdog, OneThatReturnsAfterItsWatchdogIsGone) {
  const Hung hung;
  {
    CallWatchdog watchdog("somebody", kMost, kLook);
    EXPECT_FALSE(watchdog.Run(hung.call(), kSoon, GoesOn, {}).ok());
  }
  hung.Return();
  WaitFor([&] { return hung.IsGone(); });
}

TEST(CallWatchdog, AStopEndsTheWaitAtOnce) {
  CallWatchdog watchdog("somebody", kMost, kNever);  // never looks by itself
  const Hung hung;
  std::stop_source stop;
  const auto answer = watchdog.Run(
      [call = hung.call(), stop]() mutable {
        stop.request_stop();
        return call();
      },
      kNever, GoesOn, stop.get_token());
  EXPECT_TRUE(absl::IsCancelled(answer.status())) << answer.status();
  EXPECT_EQ(watchdog.left_behind(), 1u);
  hung.Return();
  WaitFor([&] { return watchdog.left_behind() == 0; });
}

TEST(CallWatchdog, WhatIsNoLongerWorthWaitingForIsLeft) {
  CallWatchdog watchdog("somebody", kMost, kLook);
  const Hung hung;
  size_t looks = 0;
  const auto answer = watchdog.Run(
      hung.call(), kNever,
      [&] { return ++looks < 3 ? absl::OkStatus() : absl::UnavailableError("paused"); }, {});
  EXPECT_EQ(answer.status(), absl::UnavailableError("paused"));
  EXPECT_EQ(looks, 3u);
  hung.Return();
  WaitFor([&] { return watchdog.left_behind() == 0; });
}

TEST(CallWatchdog, ManyHungOnesAreBounded) {
  CallWatchdog watchdog("somebody", kMost, kLook);
  std::vector<Hung> hung(kMost);
  for (const Hung& each : hung)
    EXPECT_TRUE(absl::IsDeadlineExceeded(watchdog.Run(each.call(), kSoon, GoesOn, {}).status()));
  EXPECT_EQ(watchdog.left_behind(), kMost);
  std::atomic<size_t> begun = 0;
  for (int i = 0; i < 100; ++i) {
    const auto refused = watchdog.Run(
        [&begun] {
          ++begun;
          return "yes";
        },
        kNever, GoesOn, {});
    EXPECT_TRUE(absl::IsResourceExhausted(refused.status())) << refused.status();
    EXPECT_THAT(refused.status().message(), HasSubstr("somebody: 4 calls"));
  }
  EXPECT_EQ(begun, 0u);  // no thread either
  hung[2].Return();
  WaitFor([&] { return watchdog.left_behind() == kMost - 1; });
  EXPECT_EQ(watchdog.Run([] { return "yes"; }, kNever, GoesOn, {}).value(), "yes");
  for (const size_t i : {0, 1, 3}) hung[i].Return();
  WaitFor([&] { return watchdog.left_behind() == 0; });
}

TEST(CallWatchdog, ManyAtOnceEachHaveTheirOwnAnswer) {
  CallWatchdog watchdog("somebody", kMost, kLook);
  const Hung hung;
  std::vector<std::string> answers(64);
  {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < answers.size(); ++i) {
      threads.emplace_back([&, i] {
        // One of them never gets its own.
        const auto answer =
            i == 7 ? watchdog.Run(hung.call(), kSoon, GoesOn, {})
                   : watchdog.Run([i] { return std::to_string(i); }, kNever, GoesOn, {});
        answers[i] = answer.ok() ? *answer : "none";
      });
    }
  }
  for (size_t i = 0; i < answers.size(); ++i)
    EXPECT_EQ(answers[i], i == 7 ? "none" : std::to_string(i));
  hung.Return();
  WaitFor([&] { return watchdog.left_behind() == 0; });
}

}  // namespace
}  // namespace virt_reclaim
