#include <gmock/gmock.h>

#include "base/byte_size.h"
#include "host/punch/btrfs_release.h"
#include "host/punch/plan.h"

namespace virt_reclaim::punch {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

std::vector<Range> DataOf(const ReadPlan& plan) {
  std::vector<Range> data;
  for (const Window& window : plan.windows) {
    for (const Range& range : window.data) AppendJoined(data, range);
  }
  return data;
}

TEST(ReadPlanTest, HolesAreNotRead) {
  const std::vector<Extent> extents = {{{4096, 8192}}, {{kMiB, 2 * kMiB}}};
  const ReadPlan plan = MakeReadPlan(extents, 3 * kMiB, 4096, false);
  EXPECT_THAT(DataOf(plan), ElementsAre(Range{4096, 8192}, Range{kMiB, 2 * kMiB}));
  EXPECT_EQ(plan.read_bytes, kMiB + 4096);
  EXPECT_THAT(plan.windows, SizeIs(1));
}

TEST(ReadPlanTest, UnwrittenOnlyWhenAsked) {
  const std::vector<Extent> extents = {{{0, 8192}}, {{8192, 16384}, ExtentKind::kUnwritten}};
  ReadPlan plan = MakeReadPlan(extents, 16384, 4096, false);
  EXPECT_THAT(DataOf(plan), ElementsAre(Range{0, 8192}));
  EXPECT_EQ(plan.skipped, (Skipped{.unwritten_bytes = 8192}));
  plan = MakeReadPlan(extents, 16384, 4096, true);
  EXPECT_THAT(DataOf(plan), ElementsAre(Range{0, 16384}));
}

TEST(ReadPlanTest, CompressedAndInlineAreLeft) {
  const std::vector<Extent> extents = {{{0, 131072}, ExtentKind::kCompressed},
                                       {{131072, 131172}, ExtentKind::kInline}};
  const ReadPlan plan = MakeReadPlan(extents, 131172, 4096, true);
  EXPECT_THAT(plan.windows, IsEmpty());
  EXPECT_EQ(plan.skipped, (Skipped{.compressed_bytes = 131072, .inline_bytes = 100}));
}

// bigalloc: a cluster that is partly hole is read as a whole, one with preallocation not at all.
TEST(ReadPlanTest, WholeClusters) {
  const uint64_t cluster = 65536;
  const std::vector<Extent> extents = {{{4096, 8192}},
                                       {{cluster * 2, cluster * 2 + 4096}},
                                       {{cluster * 2 + 8192, cluster * 3}, ExtentKind::kUnwritten},
                                       {{cluster * 3, cluster * 3 + 100}}};
  const ReadPlan plan = MakeReadPlan(extents, cluster * 3 + 100, cluster, false);
  EXPECT_THAT(DataOf(plan), ElementsAre(Range{0, cluster}, Range{cluster * 3, cluster * 3 + 100}));
}

TEST(ReadPlanTest, WindowsDoNotCutUnits) {
  const std::vector<Extent> extents = {{{0, 100 * kMiB + 1}}};
  for (const uint64_t unit : {uint64_t{512}, 4 * kKiB, 64 * kKiB, 32 * kMiB}) {
    const ReadPlan plan = MakeReadPlan(extents, 100 * kMiB + 1, unit, false);
    for (const Window& window : plan.windows) EXPECT_EQ(window.range.begin % unit, 0U);
    EXPECT_EQ(plan.read_bytes, 100 * kMiB + 1);
    EXPECT_THAT(DataOf(plan), ElementsAre(Range{0, 100 * kMiB + 1}));
  }
}

TEST(RunJoinerTest, JoinsOverWindowsAndDropsShortRuns) {
  RunJoiner joiner(8192, 4096);
  const std::vector<Range> one = {{0, 4096}, {12288, 16384}};
  EXPECT_THAT(joiner.Add(one, 16384), IsEmpty());  // 4 KiB is too short, the second may go on
  const std::vector<Range> two = {{16384, 20480}, {24576, 32768}};
  EXPECT_THAT(joiner.Add(two, 32768), ElementsAre(Range{12288, 20480}));
  EXPECT_THAT(joiner.Finish(), ElementsAre(Range{24576, 32768}));
  EXPECT_THAT(joiner.Finish(), IsEmpty());
}

// The bytes between two windows that do not touch were never read.
TEST(RunJoinerTest, NeverOverWhatWasNotRead) {
  RunJoiner joiner(0, 4096);
  const std::vector<Range> one = {{0, 4096}};
  EXPECT_THAT(joiner.Add(one, 4096), IsEmpty());
  const std::vector<Range> two = {{8192, 12288}};
  EXPECT_THAT(joiner.Add(two, 16384), ElementsAre(Range{0, 4096}, Range{8192, 12288}));
}

TEST(RunJoinerTest, LongRunsAreCutAndGoOn) {
  RunJoiner joiner(128 * kMiB, 4096);
  std::vector<Range> out;
  uint64_t sum = 0;
  for (uint64_t at = 0; at < 320 * kMiB; at += kWindowBytes) {
    const std::vector<Range> runs = {{at, at + kWindowBytes}};
    for (const Range& range : joiner.Add(runs, at + kWindowBytes)) out.push_back(range);
  }
  // The last piece is shorter than the minimum, but the run is not.
  for (const Range& range : joiner.Finish()) out.push_back(range);
  uint64_t end = 0;
  for (const Range& range : out) {
    EXPECT_EQ(range.begin, end);
    EXPECT_LE(range.size(), kMaxHoleBytes);
    end = range.end;
    sum += range.size();
  }
  EXPECT_EQ(sum, 320 * kMiB);
}

TEST(OverlapTest, CountsCommonBytes) {
  const std::vector<Range> ranges = {{0, 10}, {20, 30}, {40, 50}};
  Overlap overlap(ranges);
  EXPECT_EQ(overlap.With({5, 25}), 10U);
  EXPECT_EQ(overlap.With({25, 45}), 10U);
  EXPECT_EQ(overlap.With({50, 90}), 0U);
  EXPECT_EQ(overlap.With({0, 100}), 30U);
}

ExtentReference Reference(uint64_t begin, uint64_t end, uint64_t disk, uint64_t bytes,
                          uint64_t offset) {
  return {{begin, end}, disk, bytes, offset, true};
}

TEST(ReleasePlanTest, MovesWhatIsLeftOfWastedExtents) {
  const std::vector<ExtentReference> references = {
      Reference(0, 4096, 1 << 20, 131072, 0),                  // 1/32 of it left
      Reference(131072, 262144, 2 << 20, 131072, 0),           // whole
      Reference(262144, 262144 + 126976, 3 << 20, 131072, 0),  // 4 KiB wasted: not worth it
  };
  const ReleasePlan plan = PlanRelease(references, {});
  EXPECT_THAT(plan.move, ElementsAre(Range{0, 4096}));
  EXPECT_EQ(plan.move_bytes, 4096U);
  EXPECT_EQ(plan.released_bytes, 131072U - 4096);
  EXPECT_EQ(OwnBytes(references, {}), 3U * 131072);
}

TEST(ReleasePlanTest, SharedAndCompressedStay) {
  std::vector<ExtentReference> references = {Reference(0, 4096, 1 << 20, 131072, 0),
                                             Reference(8192, 12288, 1 << 20, 131072, 8192),
                                             Reference(65536, 69632, 2 << 20, 131072, 0)};
  references[2].plain = false;
  const std::vector<Range> shared = {{8192, 12288}};  // a part of it is enough
  EXPECT_THAT(PlanRelease(references, shared).move, IsEmpty());
  EXPECT_EQ(OwnBytes(references, shared), 131072U);
}

// Only extents that lost something since; what they hold still is counted, with what is not theirs
// to free left out.
TEST(ReleasePlanTest, WhatWasPunchedAndWhatIsHeld) {
  const std::vector<ExtentReference> before = {
      Reference(0, 131072, 1 << 20, 131072, 0),                 // half of it goes
      Reference(131072, 135168, 2 << 20, 131072, 0),            // waste from before
      Reference(262144, 262144 + 131072, 3 << 20, 131072, 0)};  // all of it goes
  const std::vector<ExtentReference> after = {Reference(0, 65536, 1 << 20, 131072, 0),
                                              Reference(131072, 135168, 2 << 20, 131072, 0),
                                              Reference(524288, 528384, 4 << 20, 4096, 0)};
  const auto punched = ReferencesToPunched(before, after);
  EXPECT_THAT(punched, ElementsAre(after[0]));
  EXPECT_EQ(HeldBytes(punched, {}), 65536U);
  EXPECT_EQ(HeldBytes(after, {}), 65536U + 131072 - 4096);
  const std::vector<Range> shared = {{0, 4096}};
  EXPECT_EQ(HeldBytes(punched, shared), 0U);
}

// Two references to the same bytes of an extent use them once.
TEST(ReleasePlanTest, SameBytesTwiceAreUsedOnce) {
  const std::vector<ExtentReference> references = {Reference(0, 65536, 1 << 20, 131072, 0),
                                                   Reference(65536, 131072, 1 << 20, 131072, 0)};
  const ReleasePlan plan = PlanRelease(references, {});
  EXPECT_EQ(plan.released_bytes, 65536U);
  EXPECT_EQ(plan.move_bytes, 131072U);
}

}  // namespace
}  // namespace virt_reclaim::punch
