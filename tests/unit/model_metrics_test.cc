#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>
#include <set>

#include "base/byte_size.h"
#include "host/model/metrics.h"

namespace virt_reclaim {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;

using testing::Pair;

const absl::Time kNow = absl::FromUnixSeconds(1'700'000'000);

// One domain with all there is, and one of which nothing is known.
Overview Full() {
  Overview overview;
  overview.version = "1.2.3";
  overview.now = kNow;
  overview.took = absl::Milliseconds(250);
  OverviewDomain web;
  web.name = "web";
  web.state = DomainState::kRunning;
  OverviewDisk disk;
  disk.target = "vda";
  disk.format = "qcow2";
  disk.storage = "/images";
  disk.capacity = 4 * kGiB;
  disk.allocation = 3 * kGiB;
  disk.guest_used = kGiB;
  disk.reclaimable = 2 * kGiB;
  disk.grown_since_trim = -5;
  web.disks = {disk};
  TrimRecord trim;
  trim.began = kNow - absl::Hours(1);
  trim.took = absl::Milliseconds(1500);
  trim.status = "done";
  trim.trimmed = 900;
  trim.freed = -4096;
  trim.expected = 800;
  web.last_trim = trim;
  OverviewDomain gone;
  gone.name = "gone";
  gone.state = DomainState::kRunning;
  gone.examined = false;
  overview.domains = {web, gone};
  OverviewStorage storage;
  storage.name = "/images";
  storage.capacity = 100 * kGiB;
  storage.available = 40 * kGiB;
  storage.images = 3 * kGiB;
  storage.forecast.kind = ForecastKind::kFull;
  storage.forecast.full_at = kNow + absl::Hours(24);
  overview.storages = {storage};
  overview.runs = {{"punch", kNow, true, 5}, {"trim", kNow - absl::Hours(1), false, -5}};
  return overview;
}

// Samples of one metric; none when it is not there.
std::vector<MetricSample> Of(const Overview& overview, const std::string& name) {
  for (const MetricFamily& family : MetricsOf(overview)) {
    if (family.name == "virt_reclaim_" + name) return family.samples;
  }
  return {};
}

std::vector<double> Values(const Overview& overview, const std::string& name) {
  std::vector<double> values;
  for (const MetricSample& sample : Of(overview, name)) values.push_back(sample.value);
  return values;
}

TEST(Metrics, NumbersAreThoseOfTheOverview) {
  const Overview overview = Full();
  EXPECT_THAT(Values(overview, "collect_duration_seconds"), ElementsAre(0.25));
  EXPECT_THAT(Values(overview, "disk_capacity_bytes"), ElementsAre(4.0 * kGiB));
  EXPECT_THAT(Values(overview, "disk_grown_since_trim_bytes"), ElementsAre(-5));
  EXPECT_THAT(Values(overview, "last_trim_timestamp_seconds"), ElementsAre(1'699'996'401));
  EXPECT_THAT(Values(overview, "last_trim_freed_bytes"), ElementsAre(-4096));
  EXPECT_THAT(Values(overview, "domain_examined"), ElementsAre(1, 0));
  EXPECT_THAT(Values(overview, "run_timestamp_seconds"), ElementsAre(1'700'000'000, 1'699'996'400));
  EXPECT_THAT(Values(overview, "run_success"), ElementsAre(1, 0));
  EXPECT_THAT(Values(overview, "run_freed_bytes"), ElementsAre(5, -5));
  EXPECT_EQ(Of(overview, "run_success")[0].labels[0],
            (std::pair<std::string, std::string>("run", "punch")));
  EXPECT_THAT(Values(overview, "domain_agent_up"), ElementsAre(1)) << "of 'gone' it is not known";
  EXPECT_THAT(Values(overview, "storage_full_timestamp_seconds"), ElementsAre(1'700'086'400));
}

TEST(Metrics, WhatIsNotKnownIsNotThere) {
  Overview overview = Full();
  overview.domains[0].disks[0].guest_used.reset();
  overview.domains[0].disks[0].reclaimable.reset();
  overview.domains[0].last_trim->freed.reset();
  overview.storages[0].forecast.kind = ForecastKind::kNotGrowing;
  for (const char* name : {"disk_guest_used_bytes", "disk_reclaimable_bytes",
                           "last_trim_freed_bytes", "storage_full_timestamp_seconds"})
    EXPECT_THAT(Of(overview, name), IsEmpty()) << name;
}

TEST(Metrics, BlockersMakeTheMethodAndTheState) {
  Overview overview = Full();
  EXPECT_THAT(Of(overview, "disk_reclaimable_bytes").at(0).labels,
              Contains(Pair("method", "live")));
  EXPECT_THAT(Of(overview, "disk_discard_state").at(0).labels, Contains(Pair("reason", "none")));
  EXPECT_THAT(Values(overview, "disk_discard_state"), ElementsAre(1));
  overview.domains[0].disks[0].blockers = {{Reason::kDiscardIgnored, "x"},
                                           {Reason::kDiscardIgnored, "y"}};
  EXPECT_THAT(Of(overview, "disk_reclaimable_bytes").at(0).labels,
              Contains(Pair("method", "offline")));
  EXPECT_THAT(Values(overview, "disk_discard_state"), ElementsAre(0)) << "each reason once";
}

TEST(Metrics, NamesAndLabelsAreAsPrometheusWantsThem) {
  Overview overview = Full();
  overview.domains.push_back(overview.domains[0]);  // the same names again
  std::set<std::string> names;
  for (const MetricFamily& family : MetricsOf(overview)) {
    EXPECT_TRUE(std::regex_match(
        family.name,
        std::regex(
            "virt_reclaim_[a-z_]+(_bytes|_seconds|_info|_success|_running|_examined|_up|_state)")))
        << family.name;
    EXPECT_TRUE(names.insert(family.name).second) << family.name;
    EXPECT_EQ(family.help.back(), '.') << family.name;
    std::set<std::vector<std::pair<std::string, std::string>>> labels;
    for (const MetricSample& sample : family.samples)
      EXPECT_TRUE(labels.insert(sample.labels).second) << family.name;
  }
}

TEST(Metrics, WithoutAHypervisorOnlyThatItFailed) {
  const std::vector<MetricFamily> families = MetricsOfFailure("1.2.3", kNow);
  ASSERT_EQ(families.size(), 3u);
  EXPECT_EQ(families[1].name, "virt_reclaim_collect_success");
  EXPECT_EQ(families[1].samples.at(0).value, 0);
}

TEST(Overview, NamesThatBecameTheSameAreTold) {
  std::vector<OverviewDomain> domains(3);
  domains[0].name = domains[2].name = "a\\x1b";
  domains[1].name = "b";
  MakeNamesDistinct(domains, {"1", "2", "3"});
  EXPECT_EQ(domains[0].name, "a\\x1b (1)");
  EXPECT_EQ(domains[1].name, "b");
  EXPECT_EQ(domains[2].name, "a\\x1b (3)");
}

TEST(Overview, StoragesAddUpTheirDisks) {
  Overview overview = Full();
  overview.domains[0].disks.push_back(overview.domains[0].disks[0]);
  overview.domains[0].disks.push_back(overview.domains[0].disks[0]);
  overview.domains[0].disks[2].storage = "/elsewhere";
  const absl::Time then = kNow - absl::Hours(72);
  for (OverviewDisk& disk : overview.domains[0].disks)
    disk.history = {{then, kGiB}, {then + absl::Hours(36), 2 * kGiB}, {kNow, 3 * kGiB}};
  AddGrowth(overview);
  const OverviewStorage& storage = overview.storages[0];
  EXPECT_EQ(storage.reclaimable, 4 * kGiB);
  EXPECT_EQ(storage.history.front().bytes, 2 * kGiB);
  EXPECT_EQ(storage.history.back().bytes, 6 * kGiB);
  EXPECT_EQ(storage.forecast.disks, 2u);
  EXPECT_EQ(storage.forecast.kind, ForecastKind::kFull);  // 40 GiB at 4 GiB in three days
  EXPECT_NEAR(absl::FDivDuration(storage.forecast.full_at - kNow, absl::Hours(24)), 30, 0.1);
}

}  // namespace
}  // namespace virt_reclaim
