// Which domains are trimmed, through which agent, when, and what stops them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <latch>
#include <map>
#include <mutex>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "tests/unit/trim_fixture.h"

namespace virt_reclaim {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

using TrimChoiceTest = TrimTest;

// ---- Ways

TEST_F(TrimChoiceTest, WithoutOurAgentQemuGuestAgentTrims) {
  AddWithQemuAgent("web");
  const auto results = Run();
  ASSERT_THAT(Lines(results), ElementsAre("web: done"));
  EXPECT_EQ(results[0].way, TrimWay::kQemuAgent);
  EXPECT_EQ(results[0].freed, static_cast<int64_t>(480 * kMiB));
  ASSERT_EQ(results[0].disks.size(), 1u);
  EXPECT_EQ(results[0].disks[0].trimmed, 900 * kMiB);
}

TEST_F(TrimChoiceTest, OurAgentComesFirst) {
  FakeDomain& domain = AddWithQemuAgent("web");
  domain.live_xml = absl::StrReplaceAll(domain.live_xml, {{"disconnected", "connected"}});
  EXPECT_EQ(Run()[0].way, TrimWay::kAgent);
  EXPECT_THAT(domain.qemu_commands, IsEmpty());
  TrimOptions options;
  options.way = TrimWay::kQemuAgent;
  EXPECT_EQ(Run(options)[0].way, TrimWay::kQemuAgent);
}

TEST_F(TrimChoiceTest, OurAgentInTroubleIsNotPassedBy) {
  FakeDomain& domain = AddWithQemuAgent("web");
  domain.live_xml = absl::StrReplaceAll(domain.live_xml, {{"disconnected", "connected"}});
  domain.agent.connect = absl::DeadlineExceededError("no agent answered");
  EXPECT_THAT(Lines(Run()), ElementsAre("web: failed agent-silent"));
  EXPECT_THAT(domain.qemu_commands, IsEmpty());
}

TEST_F(TrimChoiceTest, OnlyTheAgentWhenThatIsWanted) {
  AddWithQemuAgent("web");
  TrimOptions options;
  options.way = TrimWay::kAgent;
  EXPECT_THAT(Lines(Run(options)), ElementsAre("web: skipped agent-not-connected"));
}

TEST_F(TrimChoiceTest, MountPointsKeepAGuestFromQemuGuestAgent) {
  FakeDomain& domain = AddWithQemuAgent("web");
  TrimOptions options;
  options.guest.mount_points = {"/"};
  EXPECT_THAT(Lines(Run(options)), ElementsAre("web: skipped qemu-agent-trims-all"));
  EXPECT_THAT(domain.qemu_commands, IsEmpty());
}

// XFS may answer while discards are under way, and whoever asked for another filesystem does not
// wait for that.
TEST_F(TrimChoiceTest, WhatIsNotTrimmedIsNotWaitedFor) {
  FakeDomain& domain = Add("web");
  GuestFilesystem data = domain.agent.facts.filesystems[0];
  data.type = "xfs";
  data.mount_points = {"/data"};
  domain.agent.facts.filesystems.push_back(data);
  const auto took = [&](std::vector<std::string> mount_points) {
    TrimOptions options;
    options.guest.mount_points = std::move(mount_points);
    const absl::Time begin = world_.Now();
    Run(options);
    return world_.Now() - begin;
  };
  const absl::Duration all = took({});
  EXPECT_EQ(all - took({"/"}), absl::Milliseconds(80));
  EXPECT_EQ(took({"/data"}), all);
  EXPECT_EQ(took({"/", "/data"}), all);
  EXPECT_EQ(took({"/", "/data/"}), all);  // the agent's to say which that is
}

TEST_F(TrimChoiceTest, SilentAndBusyQemuGuestAgentsAreToldApart) {
  AddWithQemuAgent("silent").qemu_agent.answers["guest-ping"] =
      absl::DeadlineExceededError("not responding");
  AddWithQemuAgent("taken").qemu_agent.answers["guest-ping"] =
      absl::AbortedError("cannot acquire state change lock");
  EXPECT_THAT(Lines(Run()), ElementsAre("silent: failed agent-silent", "taken: skipped busy"));
}

TEST_F(TrimChoiceTest, NeitherAgentIsNoAgent) {
  Add("web", "/images", 1, "disconnected");
  EXPECT_THAT(Lines(Run()), ElementsAre("web: skipped agent-not-connected"));
}

TEST_F(TrimChoiceTest, OldQemuGuestAgentThatListsNothingStillTrims) {
  FakeDomain& domain = AddWithQemuAgent("web");
  domain.qemu_agent.answers.erase("guest-get-fsinfo");
  domain.qemu_agent.answers["guest-fstrim"] = R"({"return":{}})";
  const auto results = Run();
  EXPECT_THAT(Lines(results), ElementsAre("web: done"));
  EXPECT_EQ(results[0].freed, static_cast<int64_t>(480 * kMiB));
  EXPECT_FALSE(results[0].disks[0].trimmed.has_value());
}

TEST_F(TrimChoiceTest, TheOnlyDiskIsFoundThoughItSitsBehindABridge) {
  FakeDomain& domain = AddWithQemuAgent("web");
  domain.qemu_agent.answers["guest-get-fsinfo"] =
      absl::StrReplaceAll(kFsInfo, {{R"("bus":0,"slot":5)", R"("bus":4,"slot":0)"}});
  const std::string on_root_bus = domain.live_xml;
  const auto images = world_.images;
  domain.live_xml = absl::StrReplaceAll(
      on_root_bus, {{"bus='0x00' slot='0x05'", "bus='0x01' slot='0x00'"},
                    {"  </devices>",
                     "    <controller type='pci' index='1' model='pcie-root-port'>\n      <address "
                     "type='pci' bus='0x00' slot='0x02'/>\n    </controller>\n  </devices>"}});
  EXPECT_EQ(Run()[0].disks[0].trimmed, 900 * kMiB);
  // Not where it cannot be.
  domain.live_xml = on_root_bus;
  world_.images = images;
  EXPECT_EQ(Run()[0].disks[0].trimmed, std::nullopt);
}

TEST_F(TrimChoiceTest, WhatBeganSinceThePlanStopsTheTrim) {
  FakeDomain& domain = AddWithQemuAgent("web");
  const Services services = world_.services();
  const auto plan = PlanTrim(services, {}, {}).value();
  domain.activity = {{Reason::kBlockJob, "vda"}};
  EXPECT_THAT(Lines(ExecuteTrim(services, {}, plan, nullptr, {})),
              ElementsAre("web: skipped block-job"));
  EXPECT_THAT(domain.qemu_commands, IsEmpty());
}

TEST_F(TrimChoiceTest, ABackupThatBeginsWhileTheGuestIsAskedStopsTheTrim) {
  FakeDomain& domain = Add("web");
  domain.agent.while_listing = [&] {
    world_.Sleep(absl::Seconds(2));
    domain.activity = {{Reason::kJobActive, ""}};
  };
  EXPECT_THAT(Lines(Run()), ElementsAre("web: skipped job-active"));
  EXPECT_THAT(world_.trimmed_with, IsEmpty());
}

TEST_F(TrimChoiceTest, ABackupThatBeginsWhileTheStorageIsMeasuredStopsTheTrim) {
  FakeDomain& domain = Add("web");
  world_.read_takes = [&] {  // of a storage that hangs, minutes
    world_.Sleep(absl::Seconds(2));
    domain.activity = {{Reason::kJobActive, ""}};
    return absl::Seconds(2);
  };
  EXPECT_THAT(Lines(Run()), ElementsAre("web: skipped job-active"));
  EXPECT_THAT(world_.trimmed_with, IsEmpty());
}

// ---- Choice

TEST_F(TrimChoiceTest, PatternsChooseDomains) {
  for (const char* name : {"web-2", "web-1", "db", "web*"}) Add(name);
  TrimOptions options;
  options.domains = {"web-?", "db"};
  EXPECT_THAT(Lines(Run(options)), ElementsAre("web-1: done", "web-2: done", "db: done"));
  options.domains = {"web*"};  // that is somebody's name
  EXPECT_THAT(Lines(Run(options)), ElementsAre("web*: done"));
  options.domains = {"x*"};
  EXPECT_TRUE(absl::IsNotFound(PlanTrim(world_.services(), options, {}).status()));
}

TEST_F(TrimChoiceTest, ADomainThatOnlyMatchesAPatternMayBeOff) {
  Add("web-1");
  Add("web-2").summary.state = DomainState::kShutOff;
  TrimOptions options;
  options.domains = {"web-*"};
  EXPECT_EQ(StatusOf(Run(options)), ExitStatus::kDone);
  options.domains = {"web-1", "web-2"};
  EXPECT_EQ(StatusOf(Run(options)), ExitStatus::kSomeFailed);
}

TEST_F(TrimChoiceTest, StorageChoosesDomainsByTheirImages) {
  Add("fast", "/ssd");
  Add("slow", "/hdd");
  TrimOptions options;
  options.storage = "/ssd";
  EXPECT_THAT(Lines(Run(options)), ElementsAre("fast: done"));
  options.storage = "/nowhere";
  EXPECT_TRUE(absl::IsNotFound(PlanTrim(world_.services(), options, {}).status()));
}

TEST_F(TrimChoiceTest, ThresholdLeavesOutWhatHasLittleToGive) {
  Add("big");
  Add("small");
  world_.images["/images/small.raw"].allocation = 150 * kMiB;
  TrimOptions options;
  options.domains = {"big", "small"};
  options.threshold = Threshold{200 * kMiB, 0};
  auto results = Run(options);
  EXPECT_THAT(Lines(results), ElementsAre("big: done", "small: skipped below-threshold"));
  EXPECT_EQ(StatusOf(results), ExitStatus::kDone);
  options.threshold = Threshold{0, 10};
  world_.images["/images/big.raw"].allocation = 600 * kMiB;
  EXPECT_THAT(Lines(Run(options)), ElementsAre("big: done", "small: skipped below-threshold"));
}

TEST_F(TrimChoiceTest, WhatIsNotKnownIsNotBelowTheThreshold) {
  Add("web").agent.facts.filesystems.clear();
  TrimOptions options;
  options.threshold = Threshold{200 * kMiB, 0};
  EXPECT_THAT(Lines(Run(options)), ElementsAre("web: done"));
}

// ---- Limits

// What the guests saw: each says when its trim begins and when it is over.
struct TrimEvent {
  std::string domain;
  uint64_t storage;
  bool begins;
};

TEST_F(TrimChoiceTest, NeverMoreAtOnceThanTheLimitOnAStorage) {
  constexpr size_t kDomains = 20;
  std::mutex mutex;
  std::vector<TrimEvent> events;
  for (size_t i = 0; i < kDomains; ++i) {
    const std::string name = absl::StrCat("vm-", i);
    const uint64_t storage = 1 + i % 2;
    Add(name, "/images", storage).agent.while_trimming = [&, name, storage, i] {
      const auto note = [&](bool begins) {
        const std::lock_guard lock(mutex);
        events.push_back({name, storage, begins});
      };
      note(true);
      absl::SleepFor(absl::Milliseconds(4 + i % 3));
      note(false);
    };
  }
  for (const size_t limit : {1, 2, 3}) {
    events.clear();
    TrimOptions options;
    options.per_storage = limit;
    EXPECT_EQ(Run(options).size(), kDomains);
    std::map<uint64_t, std::set<std::string>> now;
    std::set<std::string> begun;
    size_t most_on_one = 0, most_at_all = 0;
    for (const TrimEvent& event : events) {
      auto& here = now[event.storage];
      if (event.begins) {
        EXPECT_TRUE(begun.insert(event.domain).second) << event.domain << " was trimmed twice";
        here.insert(event.domain);
      } else {
        EXPECT_EQ(here.erase(event.domain), 1u);
      }
      most_on_one = std::max(most_on_one, here.size());
      most_at_all = std::max(most_at_all, now[1].size() + now[2].size());
    }
    EXPECT_EQ(begun.size(), kDomains);
    EXPECT_EQ(most_on_one, limit);
    EXPECT_GT(most_at_all, limit) << "the storages were not used side by side";
    // What was freed is gone; it is there again for the next limit.
    for (auto& [path, usage] : world_.images) usage.allocation = 600 * kMiB;
  }
}

TEST_F(TrimChoiceTest, AFirstTrimIsAloneOnItsStorageAndSaysWhatIsExpected) {
  std::mutex mutex;
  size_t now = 0, most = 0;
  std::map<std::string, std::optional<uint64_t>> said;
  for (const char* name : {"a", "b", "c", "d"}) {
    Add(name).agent.while_trimming = [&] {
      {
        const std::lock_guard lock(mutex);
        most = std::max(most, ++now);
      }
      absl::SleepFor(absl::Milliseconds(20));
      const std::lock_guard lock(mutex);
      --now;
    };
  }
  TrimOptions options;
  options.per_storage = 4;
  options.first_begins = [&](const DomainSummary& domain, std::optional<uint64_t> expected) {
    const std::lock_guard lock(mutex);
    EXPECT_EQ(now, 0u);  // before it begins
    said[domain.name] = expected;
  };
  Run(options);
  EXPECT_EQ(most, 1u);
  EXPECT_EQ(said.size(), 4u);
  EXPECT_EQ(said["a"], 500 * kMiB);
  said.clear();
  for (auto& [path, usage] : world_.images) usage.allocation = 600 * kMiB;
  Run(options);
  EXPECT_GT(most, 1u);
  EXPECT_TRUE(said.empty());
}

TEST_F(TrimChoiceTest, OutsideTheWindowNothingIsBegun) {
  Add("web");
  const absl::CivilSecond now = absl::LocalTimeZone().At(world_.services().now()).cs;
  TrimOptions options;
  const int hour = now.hour();
  options.window = DailyWindow{(hour + 2) % 24 * 60, (hour + 3) % 24 * 60};
  EXPECT_THAT(Lines(Run(options)), ElementsAre("web: skipped outside-window"));
  options.window = DailyWindow{hour * 60, (hour + 1) % 24 * 60};
  EXPECT_THAT(Lines(Run(options)), ElementsAre("web: done"));
}

TEST_F(TrimChoiceTest, WhenTheTimeIsOverTheTrimUnderWayStopsAndTheRestIsNotBegun) {
  for (const char* name : {"a", "b", "c"}) Add(name).agent.takes = absl::Minutes(3);
  TrimOptions options;
  options.max_duration = absl::Minutes(5);
  const auto results = Run(options);
  EXPECT_THAT(Lines(results), ElementsAre("a: done", "b: done time-over", "c: skipped time-over"));
  EXPECT_EQ(results[1].freed, static_cast<int64_t>(480 * kMiB));  // that stays freed
  EXPECT_EQ(StatusOf(results), ExitStatus::kDone);
}

TEST_F(TrimChoiceTest, ALostLinkIsAFailureThoughTheTimeIsOverByThen) {
  FakeDomain& domain = Add("web");
  domain.agent.while_trimming = [&] { world_.Sleep(absl::Minutes(6)); };
  domain.agent.trim = absl::UnavailableError("Trim: the agent restarted");
  TrimOptions options;
  options.max_duration = absl::Minutes(5);
  EXPECT_THAT(Lines(Run(options)), ElementsAre("web: failed"));
}

TEST_F(TrimChoiceTest, ADomainsOwnTimeoutIsAFailure) {
  Add("web").agent.takes = absl::Minutes(3);
  TrimOptions options;
  options.timeout = absl::Minutes(1);
  options.max_duration = absl::Minutes(5);
  EXPECT_THAT(Lines(Run(options)), ElementsAre("web: failed"));
}

// ---- Pace

TEST_F(TrimChoiceTest, ThePaceFollowsThePunchOfTheStorage) {
  Add("web");
  EXPECT_EQ(Run()[0].punch_cost, absl::Microseconds(1));
  world_.punch_cost = absl::Microseconds(190);
  EXPECT_EQ(Run()[0].pace, PaceFor(absl::Microseconds(190), false));
  world_.punch_cost = absl::PermissionDeniedError("no");
  EXPECT_EQ(Run()[0].punch_cost, std::nullopt);
  ASSERT_EQ(world_.trimmed_with.size(), 3u);
  EXPECT_EQ(world_.trimmed_with[0].chunk, 256 * kMiB);
  EXPECT_EQ(world_.trimmed_with[1].chunk, 128 * kMiB);
  EXPECT_EQ(world_.trimmed_with[1].pause_percent, 300u);
  EXPECT_TRUE(world_.trimmed_with[1].back_off);
}

TEST_F(TrimChoiceTest, ASlowStorageMakesThePausesLonger) {
  Add("web").agent.pieces = 12;
  int reads = 0;
  world_.read_takes = [&] {  // once before, then once a piece: slow from the second to the fifth
    const int read = reads++;
    return absl::Milliseconds(read >= 2 && read <= 5 ? 50 : 4);
  };
  Run();
  EXPECT_THAT(world_.trim_pauses,
              ElementsAre(absl::Seconds(1), absl::Seconds(2), absl::Seconds(4), absl::Seconds(8),
                          absl::Seconds(4), absl::Seconds(2)));
  // An older agent is asked once.
  world_.knows_trim_pause = false;
  reads = 0;
  Run();
  EXPECT_EQ(reads, 3);
  // Whoever chose a pace gets that.
  reads = 0;
  TrimOptions options;
  options.paced = false;
  Run(options);
  EXPECT_EQ(reads, 0);
}

TEST_F(TrimChoiceTest, AChosenPaceIsLeftAlone) {
  Add("web");
  TrimOptions options;
  options.paced = false;
  options.guest.chunk = kGiB;
  options.guest.max_rate = 5 * kMiB;
  EXPECT_EQ(Run(options)[0].pace, std::nullopt);
  EXPECT_EQ(world_.trimmed_with[0].chunk, kGiB);
  EXPECT_EQ(world_.trimmed_with[0].pause_percent, 0u);
  EXPECT_EQ(world_.trimmed_with[0].max_rate, 5 * kMiB);
}

// ---- Trouble

TEST_F(TrimChoiceTest, AnIoErrorStopsItsStorageAndNoOther) {
  FakeDomain& bad = Add("a-bad", "/images", 1);
  bad.agent.trims[0].result = GuestTrimResult::kFailed;
  bad.agent.trims[0].error_name = "EIO";
  Add("b-same", "/images", 1);
  Add("c-other", "/images", 2);
  const auto results = Run();
  EXPECT_THAT(Lines(results),
              ElementsAre("a-bad: failed", "b-same: skipped storage-stopped", "c-other: done"));
  EXPECT_THAT(results[1].outcome.reasons[0].detail, HasSubstr("a-bad"));
  EXPECT_EQ(StatusOf(results), ExitStatus::kSomeFailed);
  EXPECT_EQ(world_.images["/images/b-same.raw"].allocation, 600 * kMiB);
}

TEST_F(TrimChoiceTest, WhatRunsOnTheStorageIsStoppedToo) {
  std::latch begun(3);
  const auto begin = [&] { begun.arrive_and_wait(); };
  FakeDomain& bad = Add("a-bad", "/images", 1);
  FakeDomain& same = Add("b-same", "/images", 1);
  FakeDomain& other = Add("c-other", "/images", 2);
  Add("d-later", "/images", 1);
  RunFirst();
  bad.agent.trims[0].result = GuestTrimResult::kFailed;
  bad.agent.trims[0].error_name = "EIO";
  bad.agent.while_trimming = begin;
  same.agent.while_trimming = begin;
  same.agent.waits_for_stop = true;
  other.agent.while_trimming = begin;
  TrimOptions options;
  options.per_storage = 2;
  const auto results = Run(options);
  EXPECT_THAT(Lines(results), ElementsAre("a-bad: failed", "b-same: done storage-stopped",
                                          "c-other: done", "d-later: skipped storage-stopped"));
  EXPECT_THAT(results[1].outcome.reasons[0].detail, HasSubstr("a-bad"));
  EXPECT_EQ(results[1].freed, static_cast<int64_t>(480 * kMiB));  // that stays freed
  EXPECT_EQ(StatusOf(results), ExitStatus::kSomeFailed);
}

TEST_F(TrimChoiceTest, AnyOtherFailureStopsNothing) {
  Add("a-bad").agent.trim = absl::UnavailableError("Trim: the agent restarted");
  Add("b-same");
  EXPECT_THAT(Lines(Run()), ElementsAre("a-bad: failed", "b-same: done"));
}

TEST_F(TrimChoiceTest, ADomainThatIsPausedInItsTrimStopsItsStorage) {
  FakeDomain& bad = AddWithQemuAgent("a-bad");
  bad.qemu_agent.pauses_domain = true;
  bad.qemu_agent.answers["guest-fstrim"] = absl::UnavailableError("paused before the answer");
  Add("b-same");
  const auto results = Run();
  EXPECT_THAT(Lines(results), ElementsAre("a-bad: failed", "b-same: skipped storage-stopped"));
  EXPECT_THAT(std::string(results[0].outcome.error.message()), HasSubstr("paused"));
  EXPECT_EQ(StatusOf(results), ExitStatus::kSomeFailed);
}

}  // namespace
}  // namespace virt_reclaim
