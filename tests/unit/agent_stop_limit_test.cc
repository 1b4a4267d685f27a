// Races of the end of a daemon with the signal that asks for it.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "guest-agent/stop_limit.h"

namespace virt_reclaim::agent {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;

TEST(StopLimitTest, EndsAtOnceWhenNothingWasAsked) {
  const std::stop_source source;
  const StopLimit limit(source.get_token(), hours(1));
}

TEST(StopLimitTest, AStopOfBeforeHoldsNothingUp) {
  for (int i = 0; i < 200; ++i) {
    std::stop_source source;
    source.request_stop();
    const StopLimit limit(source.get_token(), hours(1));
  }
}

// The signal's thread is still calling what was registered when the daemon is through.
TEST(StopLimitTest, AnEndWhileTheStopIsToldHoldsNothingUp) {
  for (int i = 0; i < 2000; ++i) {
    std::stop_source source;
    std::jthread signal;
    const StopLimit limit(source.get_token(), hours(1));
    signal = std::jthread([&source] { source.request_stop(); });
    while (!source.stop_requested()) std::this_thread::yield();
  }
}

TEST(StopLimitDeathTest, EndsTheProcessThatHangs) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        std::stop_source source;
        const StopLimit limit(source.get_token(), milliseconds(20));
        source.request_stop();
        std::this_thread::sleep_for(hours(1));
      },
      testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace virt_reclaim::agent
