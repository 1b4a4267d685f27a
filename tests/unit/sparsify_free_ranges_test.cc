#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/sparsify/free_ranges.h"

namespace virt_reclaim::sparsify {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

freemap::FreeRuns Runs(uint32_t disk, std::vector<freemap::Extent> extents) {
  return {0, disk, std::move(extents)};
}

TEST(FreeGranulesTest, OnlyWholeGranulesOfThisDisk) {
  const std::vector<freemap::FreeRuns> runs = {Runs(0, {{100, 200}, {4000, 9000}}),
                                               Runs(1, {{0, 1 << 20}})};
  EXPECT_THAT(FreeGranules(runs, 0, 4096), ElementsAre(Range{4096, 12288}));
  EXPECT_THAT(FreeGranules(runs, 0, 16384), IsEmpty());
  EXPECT_THAT(FreeGranules(runs, 2, 4096), IsEmpty());
}

// The end of one filesystem and the beginning of the next one make a cluster together.
TEST(FreeGranulesTest, RunsOfNeighboursAreJoined) {
  const std::vector<freemap::FreeRuns> runs = {Runs(0, {{6000, 2192}}), Runs(0, {{4096, 1904}})};
  EXPECT_THAT(FreeGranules(runs, 0, 4096), ElementsAre(Range{4096, 8192}));
}

TEST(IntersectTest, WhatIsInBoth) {
  const std::vector<Range> free = {{0, 10}, {20, 30}, {40, 50}};
  EXPECT_THAT(Intersect(free, std::vector<Range>{{5, 25}, {29, 45}}),
              ElementsAre(Range{5, 10}, Range{20, 25}, Range{29, 30}, Range{40, 45}));
  EXPECT_THAT(Intersect(free, {}), IsEmpty());
  EXPECT_THAT(Intersect(free, std::vector<Range>{{10, 20}, {30, 40}, {50, 60}}), IsEmpty());
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
}  // namespace virt_reclaim::sparsify
