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

}  // namespace
}  // namespace virt_reclaim::sparsify
