#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/range.h"

namespace virt_reclaim {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(AppendJoinedTest, WhatTouchesIsOne) {
  std::vector<Range> ranges;
  AppendJoined(ranges, {5, 5});
  EXPECT_THAT(ranges, IsEmpty());
  for (const Range& range : {Range{0, 5}, Range{5, 8}, Range{9, 12}}) AppendJoined(ranges, range);
  EXPECT_THAT(ranges, ElementsAre(Range{0, 8}, Range{9, 12}));
}

TEST(IntersectTest, WhatIsInBoth) {
  const std::vector<Range> free = {{0, 10}, {20, 30}, {40, 50}};
  EXPECT_THAT(Intersect(free, std::vector<Range>{{5, 25}, {29, 45}}),
              ElementsAre(Range{5, 10}, Range{20, 25}, Range{29, 30}, Range{40, 45}));
  EXPECT_THAT(Intersect(free, {}), IsEmpty());
  EXPECT_THAT(Intersect(free, std::vector<Range>{{10, 20}, {30, 40}, {50, 60}}), IsEmpty());
}

TEST(RoundInwardsTest, WithoutThoseThatHaveNoWholeOne) {
  EXPECT_THAT(RoundInwards(std::vector<Range>{{1, 128}, {130, 190}, {191, 320}}, 64),
              ElementsAre(Range{64, 128}, Range{192, 320}));
  EXPECT_THAT(RoundInwards(std::vector<Range>{{0, 63}, {65, 128}}, 64), IsEmpty());
}

TEST(RoundOutwardsTest, JoinsAndEndsWithTheDisk) {
  EXPECT_THAT(RoundOutwards(std::vector<Range>{{1, 2}, {5, 6}, {17, 18}, {30, 33}}, 8, 36),
              ElementsAre(Range{0, 8}, Range{16, 36}));
}

TEST(TotalBytesTest, Sums) {
  EXPECT_EQ(TotalBytes(std::vector<Range>{{1, 3}, {10, 20}}), 12u);
  EXPECT_EQ(TotalBytes({}), 0u);
}

}  // namespace
}  // namespace virt_reclaim
