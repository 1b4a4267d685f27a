#include <gtest/gtest.h>

#include "base/byte_size.h"
#include "host/model/latency_pace.h"
#include "host/model/trim_pace.h"

namespace virt_reclaim {
namespace {

TEST(TrimPace, FollowsThePunch) {
  const TrimPace fast = PaceFor(absl::Nanoseconds(600), false);
  const TrimPace slow = PaceFor(absl::Microseconds(190), false);
  EXPECT_GT(fast.chunk, slow.chunk);
  EXPECT_EQ(slow.chunk, 128 * kMiB);
  EXPECT_EQ(slow.pause_percent, 300u);
  EXPECT_TRUE(fast.back_off);
}

TEST(TrimPace, UnknownCountsAsSlow) {
  EXPECT_EQ(PaceFor(std::nullopt, false), PaceFor(absl::Milliseconds(1), false));
}

TEST(QuietAfter, IsShortWhereTheAnswerMeansThatItIsDone) {
  GuestFilesystem ext4, xfs;
  ext4.type = "ext4";
  xfs.type = "xfs";
  ext4.obstacle = xfs.obstacle = GuestObstacle::kNone;
  EXPECT_EQ(QuietAfter(absl::Milliseconds(10), {ext4}), absl::Milliseconds(20));
  EXPECT_EQ(QuietAfter(absl::Seconds(10), {ext4}), absl::Milliseconds(100));
  EXPECT_EQ(QuietAfter(absl::Hours(1), {ext4}), absl::Seconds(1));
  EXPECT_EQ(QuietAfter(absl::Milliseconds(10), {ext4, xfs}), absl::Milliseconds(100));
  EXPECT_EQ(QuietAfter(absl::Seconds(10), {xfs}), absl::Milliseconds(500));
  EXPECT_EQ(QuietAfter(absl::Milliseconds(10), {}), absl::Milliseconds(100));
  xfs.obstacle = GuestObstacle::kReadOnly;
  EXPECT_EQ(QuietAfter(absl::Milliseconds(10), {ext4, xfs}), absl::Milliseconds(20));
}

TEST(TrimPace, GentleRestsLonger) {
  const TrimPace gentle = PaceFor(absl::Nanoseconds(600), true);
  EXPECT_EQ(gentle.pause_percent, 3000u);
  EXPECT_EQ(gentle.chunk, 128 * kMiB);
}

TEST(LatencyPace, LongerWithEachSlowReadingAndShorterAgainWhenItIsQuick) {
  LatencyPace pace(absl::Milliseconds(8));
  EXPECT_EQ(pace.After(absl::Milliseconds(23)), absl::ZeroDuration());
  EXPECT_EQ(pace.After(absl::Milliseconds(25)), absl::Seconds(1));
  for (int i = 0; i < 10; ++i) pace.After(absl::Seconds(1));
  EXPECT_EQ(pace.pause(), absl::Seconds(30));
  for (int i = 0; i < 2; ++i) EXPECT_EQ(pace.After(absl::Milliseconds(8)), absl::Seconds(30));
  EXPECT_EQ(pace.After(absl::Milliseconds(8)), absl::Seconds(15));
  for (int i = 0; i < 30; ++i) pace.After(absl::Milliseconds(8));
  EXPECT_EQ(pace.pause(), absl::ZeroDuration());
}

TEST(LatencyPace, WhatNobodyNoticesIsNotSlow) {
  LatencyPace pace(absl::Microseconds(100));
  EXPECT_EQ(pace.After(absl::Milliseconds(9)), absl::ZeroDuration());
  EXPECT_EQ(pace.After(absl::Milliseconds(11)), absl::Seconds(1));
}

}  // namespace
}  // namespace virt_reclaim
