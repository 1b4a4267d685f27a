#include <gtest/gtest.h>

#include "host/model/daily_window.h"

namespace virt_reclaim {
namespace {

bool OpenAt(const char* window, int hour, int minute) {
  const absl::TimeZone utc = absl::UTCTimeZone();
  return IsOpen(ParseDailyWindow(window).value(),
                absl::FromCivil(absl::CivilMinute(2026, 11, 21, hour, minute), utc), utc);
}

TEST(DailyWindowTest, HasABeginningAndAnEnd) {
  EXPECT_FALSE(OpenAt("01:00-05:00", 0, 59));
  EXPECT_TRUE(OpenAt("01:00-05:00", 1, 0));
  EXPECT_TRUE(OpenAt("01:00-05:00", 4, 59));
  EXPECT_FALSE(OpenAt("01:00-05:00", 5, 0));
}

TEST(DailyWindowTest, MayGoOverMidnight) {
  EXPECT_TRUE(OpenAt("22:30-06:00", 23, 0));
  EXPECT_TRUE(OpenAt("22:30-06:00", 5, 59));
  EXPECT_FALSE(OpenAt("22:30-06:00", 6, 0));
  EXPECT_TRUE(OpenAt("22:30-24:00", 23, 59));
  EXPECT_FALSE(OpenAt("22:30-24:00", 0, 0));
}

TEST(DailyWindowTest, NothingElseIsOne) {
  for (const char* text :
       {"", "1", "01:00", "01:00-", "-05:00", "01:00-01:00", "25:00-26:00", "24:00-05:00",
        "01:60-05:00", "a:b-c:d", "01:00-05:00-06:00", "+1:00-05:00", "001:00-05:00"}) {
    EXPECT_FALSE(ParseDailyWindow(text).ok()) << text;
  }
}

TEST(DailyWindow, OpensNowTodayOrTomorrow) {
  const absl::TimeZone zone = absl::UTCTimeZone();
  const auto at = [&](int day, int hour, int minute) {
    return absl::FromCivil(absl::CivilMinute(2026, 3, day, hour, minute), zone);
  };
  const DailyWindow early = *ParseDailyWindow("01:00-05:00");
  EXPECT_EQ(BeginOf(early, at(1, 0, 30), zone), at(1, 1, 0));
  EXPECT_EQ(BeginOf(early, at(1, 1, 0), zone), at(1, 1, 0));
  EXPECT_EQ(BeginOf(early, at(1, 4, 59), zone), at(1, 4, 59));
  EXPECT_EQ(BeginOf(early, at(1, 5, 0), zone), at(2, 1, 0));
  const DailyWindow night = *ParseDailyWindow("22:30-06:00");
  EXPECT_EQ(BeginOf(night, at(1, 6, 0), zone), at(1, 22, 30));
  EXPECT_EQ(BeginOf(night, at(2, 3, 0), zone), at(2, 3, 0));
}

TEST(DailyWindow, EndsTodayOrTomorrow) {
  const absl::TimeZone zone = absl::UTCTimeZone();
  const auto at = [&](int day, int hour, int minute) {
    return absl::FromCivil(absl::CivilMinute(2026, 3, day, hour, minute), zone);
  };
  EXPECT_EQ(EndOf(*ParseDailyWindow("01:00-05:00"), at(1, 2, 30), zone), at(1, 5, 0));
  const DailyWindow night = *ParseDailyWindow("22:30-06:00");
  EXPECT_EQ(EndOf(night, at(1, 23, 0), zone), at(2, 6, 0));
  EXPECT_EQ(EndOf(night, at(2, 1, 0), zone), at(2, 6, 0));
  EXPECT_EQ(EndOf(*ParseDailyWindow("20:00-24:00"), at(1, 21, 0), zone), at(2, 0, 0));
}

// A time that is over would have a run that waits for it plan and plan again, until it comes.
TEST(DailyWindow, LiesAheadWhenClocksAreChanged) {
  absl::TimeZone berlin;
  ASSERT_TRUE(absl::LoadTimeZone("Europe/Berlin", &berlin));
  const auto utc = [](int month, int day, int hour, int minute) {
    return absl::FromCivil(absl::CivilMinute(2026, month, day, hour, minute), absl::UTCTimeZone());
  };
  const DailyWindow from = *ParseDailyWindow("02:30-05:00");
  const DailyWindow to = *ParseDailyWindow("01:00-02:30");
  // On 25 October the hour from 2 to 3 comes twice.
  EXPECT_EQ(BeginOf(from, utc(10, 25, 0, 15), berlin), utc(10, 25, 0, 30));
  EXPECT_EQ(BeginOf(from, utc(10, 25, 1, 15), berlin), utc(10, 25, 1, 30));
  EXPECT_EQ(EndOf(to, utc(10, 25, 0, 15), berlin), utc(10, 25, 0, 30));
  EXPECT_EQ(EndOf(to, utc(10, 25, 1, 15), berlin), utc(10, 25, 1, 30));
  // On 29 March there is none.
  EXPECT_EQ(BeginOf(from, utc(3, 29, 0, 15), berlin), utc(3, 29, 1, 0));
  EXPECT_EQ(EndOf(to, utc(3, 29, 0, 15), berlin), utc(3, 29, 1, 0));
}

}  // namespace
}  // namespace virt_reclaim
