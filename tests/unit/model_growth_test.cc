#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/byte_size.h"
#include "host/model/growth.h"

namespace virt_reclaim {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

const absl::Time kToday = absl::FromUnixSeconds(1'700'000'000);

absl::Time DaysAgo(int days) { return kToday - absl::Hours(24 * days); }

TrimRecord Trim(absl::Time began, uint64_t after, std::optional<int64_t> freed) {
  TrimRecord trim;
  trim.began = began;
  trim.took = absl::Minutes(1);
  trim.disks = {{"vda", "/images/a.raw", 0, freed, after}};
  return trim;
}

AllocationSeries History(const std::vector<TrimRecord>& trims) {
  return AllocationHistory(trims, "vda", "/images/a.raw", 500, kToday);
}

TEST(AllocationHistory, ATrimTellsWhatWasBeforeAndAfterIt) {
  EXPECT_THAT(History({Trim(DaysAgo(7), 300, 100)}),
              ElementsAre(AllocationPoint{DaysAgo(7), 400},
                          AllocationPoint{DaysAgo(7) + absl::Minutes(1), 300},
                          AllocationPoint{kToday, 500}));
  EXPECT_EQ(History({Trim(DaysAgo(7), 300, std::nullopt)}).size(), 2u);
  EXPECT_THAT(AllocationHistory({}, "vda", "/images/a.raw", std::nullopt, kToday), IsEmpty());
}

TEST(AllocationHistory, AnotherImageOrDiskIsAnotherHistory) {
  const std::vector<TrimRecord> trims{Trim(DaysAgo(7), 300, 100)};
  EXPECT_THAT(AllocationHistory(trims, "vda", "/images/b.raw", std::nullopt, kToday), IsEmpty());
  EXPECT_THAT(AllocationHistory(trims, "vdb", "/images/a.raw", std::nullopt, kToday), IsEmpty());
}

TEST(AllocationHistory, AClockThatWasSetBackLeavesTheOrderAlone) {
  const AllocationSeries series = History(
      {Trim(DaysAgo(3), 300, 0), Trim(DaysAgo(5), 200, 0), Trim(kToday + absl::Hours(1), 1, 0)});
  ASSERT_EQ(series.size(), 3u);
  for (size_t i = 1; i < series.size(); ++i) EXPECT_GT(series[i].at, series[i - 1].at);
  EXPECT_EQ(series.back().at, kToday);
}

TEST(AllocationHistory, AHistoryThatSaysNonsenseIsBounded) {
  const AllocationSeries series =
      History({Trim(DaysAgo(3), UINT64_MAX, INT64_MAX), Trim(DaysAgo(2), 100, INT64_MIN),
               Trim(DaysAgo(1), 5, -6)});
  EXPECT_EQ(series.size(), 4u) << "none of them says what was before it";
}

TEST(SumOf, BetweenPointsOnTheLineAndOutsideTheNearest) {
  const AllocationSeries sum =
      SumOf({{{DaysAgo(4), 100}, {DaysAgo(0), 500}}, {{DaysAgo(2), 10}}}, 5);
  ASSERT_EQ(sum.size(), 5u);
  EXPECT_EQ(sum.front(), (AllocationPoint{DaysAgo(4), 110}));
  EXPECT_EQ(sum[2], (AllocationPoint{DaysAgo(2), 310}));
  EXPECT_EQ(sum.back(), (AllocationPoint{kToday, 510}));
}

TEST(SumOf, OfNoSpanThereIsNone) {
  EXPECT_THAT(SumOf({}, 10), IsEmpty());
  EXPECT_THAT(SumOf({{}, {{kToday, 5}}}, 10), IsEmpty());
  EXPECT_THAT(SumOf({{{DaysAgo(1), 5}, {kToday, 5}}}, 1), IsEmpty());
}

// `bytes` on each day, the last today.
AllocationSeries Daily(const std::vector<uint64_t>& bytes) {
  AllocationSeries series;
  const int days = static_cast<int>(bytes.size());
  for (int i = 0; i < days; ++i)
    series.push_back({DaysAgo(days - 1 - i), bytes[static_cast<size_t>(i)]});
  return series;
}

TEST(GrowthOf, NeedsThreePointsAndTwoDays) {
  EXPECT_FALSE(GrowthOf({}));
  EXPECT_FALSE(GrowthOf({{DaysAgo(9), 1}, {kToday, 100}}));
  EXPECT_FALSE(
      GrowthOf({{kToday - absl::Hours(40), 1}, {kToday - absl::Hours(1), 2}, {kToday, 100}}));
  EXPECT_NEAR(*GrowthOf(Daily({0, kGiB, 2 * kGiB})) * 86400, static_cast<double>(kGiB), 1);
  EXPECT_NEAR(*GrowthOf(Daily({500, 500, 500})), 0, 1e-9);
  EXPECT_LT(*GrowthOf(Daily({3 * kGiB, 2 * kGiB, kGiB})), 0);
}

TEST(ForecastOf, TheDayTheStorageIsFull) {
  const Forecast forecast =
      ForecastOf(10 * kGiB, {Daily({0, kGiB, 2 * kGiB}), Daily({7, 9})}, kToday);
  EXPECT_EQ(forecast.kind, ForecastKind::kFull);
  EXPECT_LT(absl::AbsDuration(forecast.full_at - DaysAgo(-10)), absl::Minutes(1));
  EXPECT_EQ(forecast.disks_known, 1u);
  EXPECT_EQ(forecast.disks, 2u);
  EXPECT_EQ(forecast.since, DaysAgo(2));
}

TEST(ForecastOf, DisksThatShrinkCountAgainstThoseThatGrow) {
  const AllocationSeries up = Daily({0, kGiB, 2 * kGiB});
  const AllocationSeries down = Daily({2 * kGiB, kGiB, 0});
  EXPECT_EQ(ForecastOf(kGiB, {up, down, down}, kToday).kind, ForecastKind::kNotGrowing);
  EXPECT_EQ(ForecastOf(kGiB, {up, up, down}, kToday).kind, ForecastKind::kFull);
}

TEST(ForecastOf, UnknownFarAndFull) {
  EXPECT_EQ(ForecastOf(kGiB, {}, kToday).kind, ForecastKind::kUnknown);
  EXPECT_EQ(ForecastOf(kGiB, {Daily({5, 6})}, kToday).kind, ForecastKind::kUnknown);
  EXPECT_EQ(ForecastOf(uint64_t{1} << 60, {Daily({0, 1, 2})}, kToday).kind, ForecastKind::kFar);
  const Forecast full = ForecastOf(0, {Daily({9, 8, 7})}, kToday);
  EXPECT_EQ(full.kind, ForecastKind::kFull) << "even if the images become smaller";
  EXPECT_EQ(full.full_at, kToday);
}

}  // namespace
}  // namespace virt_reclaim
