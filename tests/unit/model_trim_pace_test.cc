#include <gtest/gtest.h>

#include "base/byte_size.h"
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

TEST(TrimPace, GentleRestsLonger) {
  const TrimPace gentle = PaceFor(absl::Nanoseconds(600), true);
  EXPECT_EQ(gentle.pause_percent, 3000u);
  EXPECT_EQ(gentle.chunk, 128 * kMiB);
}

}  // namespace
}  // namespace virt_reclaim
