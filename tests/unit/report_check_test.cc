#include "host/commands/report_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/byte_size.h"

namespace virt_reclaim {
namespace {

using testing::HasSubstr;

Report With(uint64_t reclaimable) {
  Report report;
  report.total.disks = 2;
  report.total.disks_with_guest = 1;
  report.total.capacity = 20 * kGiB;
  report.total.allocation = 10 * kGiB;
  report.total.reclaimable = reclaimable;
  return report;
}

constexpr CheckThresholds kPercent{{0, 20}, {0, 40}};

TEST(CheckReport, AtAThresholdIsItsLevel) {
  EXPECT_EQ(CheckReport(With(2 * kGiB - 1), kPercent).level, CheckLevel::kOk);
  EXPECT_EQ(CheckReport(With(2 * kGiB), kPercent).level, CheckLevel::kWarning);
  EXPECT_EQ(CheckReport(With(4 * kGiB), kPercent).level, CheckLevel::kCritical);
  const CheckThresholds bytes{{kGiB, 0}, {3 * kGiB, 0}};
  EXPECT_EQ(CheckReport(With(2 * kGiB), bytes).level, CheckLevel::kWarning);
}

TEST(CheckReport, UnknownOnlyWhereNoThresholdIsReached) {
  Report report = With(0);
  report.total.disks_with_guest = 0;
  EXPECT_EQ(CheckReport(report, kPercent).level, CheckLevel::kUnknown);
  EXPECT_EQ(CheckReport(Report{}, kPercent).level, CheckLevel::kOk);  // there are no disks
  report = With(3 * kGiB);
  report.domains.resize(1);
  report.domains[0].outcome.kind = OutcomeKind::kFailed;
  EXPECT_EQ(CheckReport(report, kPercent).level, CheckLevel::kWarning);
  report.total.reclaimable = 0;
  EXPECT_EQ(CheckReport(report, kPercent).level, CheckLevel::kUnknown);
  EXPECT_THAT(CheckReport(report, kPercent).text, HasSubstr("1 domain cannot be examined"));
}

TEST(CheckReport, PerformanceDataAsPluginsWriteIt) {
  EXPECT_EQ(CheckReport(With(5), kPercent).performance_data,
            "reclaimable=5B;2147483648;4294967296;0;10737418240 "
            "allocation=10737418240B;;;0;21474836480");
}

}  // namespace
}  // namespace virt_reclaim
