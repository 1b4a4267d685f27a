#include <gmock/gmock.h>

#include "host/sync/digest.h"
#include "host/sync/same_extents.h"
#include "host/sync/steps.h"

namespace virt_reclaim::sync {
namespace {

using punch::SharedExtent;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint64_t kB = kBlockBytes;

std::vector<Step> StepsOf(const StepPlan& plan) {
  std::vector<Step> steps;
  for (const Window& window : plan.windows)
    steps.insert(steps.end(), window.steps.begin(), window.steps.end());
  return steps;
}

StepPlan Make(uint64_t size, std::vector<Range> source, std::vector<Range> destination,
              std::vector<Range> same = {}, const std::vector<Range>* only = nullptr) {
  return MakeSteps({.size_bytes = size,
                    .source = source,
                    .destination = destination,
                    .same = same,
                    .only = only});
}

TEST(Steps, ByWhoHasData) {
  const StepPlan plan = Make(8 * kB, {{0, 4 * kB}}, {{2 * kB, 6 * kB}});
  EXPECT_THAT(StepsOf(plan), ElementsAre(Step{StepKind::kCopy, {0, 2 * kB}},
                                         Step{StepKind::kCompare, {2 * kB, 4 * kB}},
                                         Step{StepKind::kZero, {4 * kB, 6 * kB}}));
  EXPECT_EQ(plan.read_bytes, 4 * kB);
  EXPECT_EQ(plan.compare_bytes, 2 * kB);
  EXPECT_EQ(plan.zero_bytes, 2 * kB);
}

TEST(Steps, NothingIsNothing) {
  EXPECT_THAT(Make(0, {}, {}).windows, IsEmpty());
  EXPECT_THAT(Make(uint64_t{1} << 40, {}, {}).windows, IsEmpty());
}

TEST(Steps, DataIsWidenedToBlocksAndEndsWithTheFile) {
  EXPECT_THAT(
      StepsOf(Make(2 * kB + 5, {{100, 200}, {2 * kB, 2 * kB + 5}}, {})),
      ElementsAre(Step{StepKind::kCopy, {0, kB}}, Step{StepKind::kCopy, {2 * kB, 2 * kB + 5}}));
  // Data of the copy behind the end of the source is cut off with it.
  EXPECT_THAT(StepsOf(Make(kB, {}, {{0, 9 * kB}})), ElementsAre(Step{StepKind::kZero, {0, kB}}));
}

TEST(Steps, WhatIsSameIsNarrowed) {
  const StepPlan plan = Make(8 * kB, {{0, 8 * kB}}, {{0, 8 * kB}}, {{100, 5 * kB + 100}});
  EXPECT_THAT(StepsOf(plan), ElementsAre(Step{StepKind::kCompare, {0, kB}},
                                         Step{StepKind::kCompare, {5 * kB, 8 * kB}}));
  EXPECT_EQ(plan.same_bytes, 4 * kB);
  // Up to the end of the file, which need not be one of a block.
  EXPECT_THAT(Make(kB + 1, {{0, kB + 1}}, {{0, kB + 1}}, {{0, 2 * kB}}).windows, IsEmpty());
}

TEST(Steps, OnlyWhatIsAskedFor) {
  const std::vector<Range> only = {{kB, 2 * kB}};
  EXPECT_THAT(StepsOf(Make(8 * kB, {{0, 8 * kB}}, {}, {}, &only)),
              ElementsAre(Step{StepKind::kCopy, {kB, 2 * kB}}));
  const std::vector<Range> nothing;
  EXPECT_THAT(Make(8 * kB, {{0, 8 * kB}}, {}, {}, &nothing).windows, IsEmpty());
}

TEST(Steps, NoStepLiesInTwoWindows) {
  const StepPlan plan = Make(3 * kWindowBytes, {{kB, 3 * kWindowBytes}}, {});
  ASSERT_EQ(plan.windows.size(), 3U);
  for (const Window& window : plan.windows) {
    for (const Step& step : window.steps) {
      EXPECT_EQ(step.range.begin / kWindowBytes, window.index);
      EXPECT_EQ((step.range.end - 1) / kWindowBytes, window.index);
    }
  }
}

TEST(SamePlaces, TheSameBytesOfTheDiskAtTheSameOffset) {
  const std::vector<SharedExtent> one = {{{0, 100}, 1000}, {{200, 300}, 5000}};
  EXPECT_THAT(SamePlaces(one, one), ElementsAre(Range{0, 100}, Range{200, 300}));
  // A part of the same extent.
  EXPECT_THAT(SamePlaces(one, std::vector<SharedExtent>{{{50, 80}, 1050}}),
              ElementsAre(Range{50, 80}));
  // The same extent, but moved; another one.
  EXPECT_THAT(SamePlaces(one, std::vector<SharedExtent>{{{50, 80}, 1000}}), IsEmpty());
  EXPECT_THAT(SamePlaces(one, std::vector<SharedExtent>{{{200, 300}, 1000}}), IsEmpty());
  EXPECT_THAT(SamePlaces({}, one), IsEmpty());
}

TEST(Digest, ZeroesCountAsNothing) {
  WindowDigest digest;
  const std::string zeroes(3 * kB, '\0');
  digest.Add(0, reinterpret_cast<const unsigned char*>(zeroes.data()), zeroes.size());
  EXPECT_TRUE(digest.empty());
  EXPECT_EQ(digest.value(), 0U);
  std::string block(kB, 'x');
  const auto* bytes = reinterpret_cast<const unsigned char*>(block.data());
  digest.Add(kB, bytes, kB);
  const uint64_t there = digest.value();
  digest.Start();
  digest.Add(2 * kB, bytes, kB);
  EXPECT_NE(digest.value(), there);  // the place counts
  EXPECT_EQ(DigestOf({{0, 0}, {1, there}}), DigestOf({{1, there}}));
  EXPECT_NE(DigestOf({{1, there}}), DigestOf({{2, there}}));
}

}  // namespace
}  // namespace virt_reclaim::sync
