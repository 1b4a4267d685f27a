#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/commands/overview.h"
#include "tests/unit/trim_fixture.h"

namespace virt_reclaim {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class OverviewTest : public TrimTest {
 protected:
  Overview Make() {
    const Services services = world_.services();
    return MakeOverview(services, MakeReport(services, {}, {}).value());
  }
};

TEST_F(OverviewTest, StoragesAreAskedOnceAndFilesCountOnce) {
  Add("web");
  Add("db", "/images", 2);  // another st_dev of the same superblock
  const Overview overview = Make();
  ASSERT_EQ(overview.storages.size(), 1u);
  EXPECT_EQ(overview.storages[0].name, "/images");
  EXPECT_EQ(overview.storages[0].images, 1200 * kMiB);
  EXPECT_EQ(overview.storages[0].reclaimable, 1000 * kMiB);
  EXPECT_EQ(overview.storages[0].available, world_.room);
  EXPECT_EQ(overview.allocation, 1200 * kMiB);
  for (const OverviewDomain& domain : overview.domains)
    EXPECT_EQ(domain.disks.at(0).storage, "/images");
}

TEST_F(OverviewTest, TellsWhichFiguresAreExact) {
  Add("web");
  const Services services = world_.services();
  Report report = MakeReport(services, {}, {}).value();
  EXPECT_FALSE(MakeOverview(services, report).domains.at(0).disks.at(0).exact);
  report.domains.at(0).disks.at(0).assessment.from = ReclaimableFrom::kFreeMap;
  EXPECT_TRUE(MakeOverview(services, report).domains.at(0).disks.at(0).exact);
}

TEST_F(OverviewTest, ADiskOnASharedFileCountsOnceOnItsStorage) {
  Add("web");
  world_.AddDomain(DomainXml("twin", UuidOf("twin"), "pc-q35-7.2",
                             {{"vda", "virtio", "/images/web.raw", "unmap"}}, ""),
                   DomainState::kShutOff);
  EXPECT_EQ(Make().storages.at(0).images, 600 * kMiB);
}

TEST_F(OverviewTest, WithoutLocalImagesThereIsNoStorage) {
  world_.AddDomain(DomainXml("off", UuidOf("off"), "pc-q35-7.2",
                             {{"vda", "virtio", "/images/gone.raw", "unmap"}}, ""),
                   DomainState::kShutOff);
  const Overview overview = Make();
  EXPECT_THAT(overview.storages, IsEmpty());
  ASSERT_EQ(overview.domains.size(), 1u);
  EXPECT_EQ(overview.domains[0].disks.at(0).storage, "");
  EXPECT_FALSE(overview.domains[0].last_trim);
}

TEST_F(OverviewTest, TrimsMakeTheHistoryAndTheForecast) {
  Add("web").agent.takes = absl::Seconds(40);
  for (int week = 0; week < 3; ++week) {
    Run();
    world_.Sleep(absl::Hours(24 * 7));
    world_.images["/images/web.raw"].allocation = 700 * kMiB;
  }
  world_.room = 10 * kGiB;
  const Overview overview = Make();
  const OverviewDisk& disk = overview.domains.at(0).disks.at(0);
  EXPECT_EQ(disk.history.size(), 7u) << "two of each trim, and now";
  EXPECT_EQ(disk.history.front().bytes, 600 * kMiB);
  EXPECT_EQ(disk.history.back().bytes, 700 * kMiB);
  EXPECT_EQ(overview.storages.at(0).forecast.disks_known, 1u);
  EXPECT_EQ(overview.storages.at(0).forecast.kind, ForecastKind::kFull);
  ASSERT_TRUE(overview.domains[0].last_trim);
  EXPECT_GE(overview.domains[0].since_trim, absl::Hours(24 * 7));
}

TEST_F(OverviewTest, NamesArePrintable) {
  Add("web").summary.name = "w\x1b[31meb";
  EXPECT_EQ(Make().domains.at(0).name, "w\\x1b[31meb");
}

}  // namespace
}  // namespace virt_reclaim
