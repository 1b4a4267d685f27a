#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "base/byte_size.h"
#include "guest-agent/pacing.h"
#include "guest-agent/shared_pause.h"

namespace virt_reclaim::agent {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

std::optional<uint64_t> Parse(const std::string& text) {
  return ParsePressure(text.data(), text.size());
}

TEST(PacingTest, PercentOfTheRange) {
  const Pace pace{.pause_percent = 300};
  EXPECT_EQ(PauseAfter(pace, milliseconds(100), 0), milliseconds(300));
  EXPECT_EQ(PauseAfter(pace, milliseconds(1), 0), milliseconds(0));  // nobody noticed
  EXPECT_EQ(PauseAfter({.pause_percent = 1}, milliseconds(3), 0), milliseconds(5));
  EXPECT_EQ(PauseAfter(pace, seconds(20), 0), seconds(6));
  EXPECT_EQ(PauseAfter({.pause_percent = kMaxPausePercent}, hours(1000000), 0), kMaxPause);
}

TEST(PacingTest, GentleIsThirtyTimesAlsoOfLongRanges) {
  const Pace gentle{.pause_percent = 3000};
  EXPECT_EQ(PauseAfter(gentle, milliseconds(400), 0), seconds(12));
  EXPECT_EQ(PauseAfter(gentle, seconds(2), 0), seconds(60));
  EXPECT_EQ(PauseAfter(gentle, seconds(20), 0), seconds(60));
}

TEST(PacingTest, TheLongestWishWins) {
  EXPECT_EQ(PauseAfter({.pause = milliseconds(700), .pause_percent = 300}, milliseconds(100), 0),
            milliseconds(700));
  EXPECT_EQ(PauseAfter({.pause = milliseconds(7)}, milliseconds(1), 0), milliseconds(7));
}

TEST(PacingTest, TheHostMayAskForMoreMeanwhile) {
  SharedPause shared;
  ASSERT_NE(shared.value(), nullptr);
  Pace pace;
  pace.least_pause = shared.value();
  EXPECT_EQ(PauseAfter(pace, milliseconds(1), 0), milliseconds(0));
  shared.Set(milliseconds(700));
  EXPECT_EQ(PauseAfter(pace, milliseconds(1), 0), milliseconds(700));
  pace.pause = milliseconds(900);
  EXPECT_EQ(PauseAfter(pace, milliseconds(1), 0), milliseconds(900));
}

TEST(PacingTest, RateIsOfBytesTrimmed) {
  const Pace pace{.bytes_per_second = 100 * kMiB};
  EXPECT_EQ(PauseAfter(pace, milliseconds(250), 100 * kMiB), milliseconds(750));
  EXPECT_EQ(PauseAfter(pace, seconds(2), 100 * kMiB), milliseconds(0));
  // A range of an hour at that rate is one, whatever its pieces are.
  EXPECT_EQ(PauseAfter({.bytes_per_second = kMiB}, seconds(0), 3600 * kMiB), hours(1));
  EXPECT_EQ(PauseAfter({.bytes_per_second = 1}, seconds(0), UINT64_MAX), hours(24));
}

TEST(PacingTest, PressureIsTheTimeInWhichSomebodyWaited) {
  const std::string real =
      "some avg10=0.00 avg60=1.23 avg300=0.45 total=123456789\n"
      "full avg10=0.00 avg60=0.00 avg300=0.00 total=99\n";
  EXPECT_EQ(Parse(real), 123456789u);
  for (const char* text : {"", "some", "some total=", "some total=\n", "some total=5",
                           "full total=5\n", "some avg10=0\nfull total=5\n",
                           "some total=99999999999999999999999\n", "some total=-5\n"}) {
    EXPECT_EQ(Parse(text), std::nullopt) << text;
  }
}

TEST(PacingTest, OthersPressWhenTheyWaitMoreThanTwoFifths) {
  EXPECT_FALSE(IsPressed(20000, milliseconds(100)));
  EXPECT_TRUE(IsPressed(50000, milliseconds(100)));
  EXPECT_FALSE(IsPressed(5, nanoseconds(0)));
}

TEST(PacingTest, ABusyGuestIsTrimmedAllTheSame) {
  EXPECT_EQ(MostBackOff(milliseconds(20)), milliseconds(1000));
  EXPECT_EQ(MostBackOff(milliseconds(300)), milliseconds(3000));
  EXPECT_EQ(MostBackOff(kMaxPause), milliseconds(10000));
}

}  // namespace
}  // namespace virt_reclaim::agent
