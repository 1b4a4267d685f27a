// What a trim leaves behind for the next one and for `report`, and what ends it by itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/io.h"
#include "host/commands/report.h"
#include "host/services/trim_history.h"
#include "tests/unit/trim_fixture.h"

namespace virt_reclaim {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class TrimHistoryTest : public TrimTest {
 protected:
  std::vector<TrimRecord> History(const std::string& name) {
    return TrimHistory(world_.services().state_directory, "fake:///world").Read(UuidOf(name));
  }
};

TEST_F(TrimHistoryTest, ATrimIsRememberedWithWhatItCameTo) {
  Add("web").agent.takes = absl::Seconds(40);
  const auto results = Run();
  EXPECT_EQ(results[0].expected, 500 * kMiB);
  const std::vector<TrimRecord> records = History("web");
  ASSERT_EQ(records.size(), 1u);
  const TrimRecord& record = records[0];
  EXPECT_EQ(record.way, "agent");
  EXPECT_EQ(record.status, "done");
  EXPECT_TRUE(record.whole);
  EXPECT_EQ(record.took, absl::Seconds(40));
  EXPECT_EQ(record.expected, 500 * kMiB);
  EXPECT_EQ(record.trimmed, 900 * kMiB);
  EXPECT_EQ(record.freed, static_cast<int64_t>(480 * kMiB));
  ASSERT_EQ(record.disks.size(), 1u);
  EXPECT_EQ(record.disks[0].allocation, 120 * kMiB);
}

TEST_F(TrimHistoryTest, WhatNeverBeganIsNotRemembered) {
  Add("web").activity = {{Reason::kJobActive, ""}};
  Run();
  EXPECT_THAT(History("web"), IsEmpty());
}

TEST_F(TrimHistoryTest, ATrimThatWasCutShortIsNotWhole) {
  Add("web").agent.takes = absl::Hours(2);
  TrimOptions options;
  options.max_duration = absl::Minutes(1);
  EXPECT_THAT(Lines(Run(options)), ElementsAre("web: done time-over"));
  ASSERT_EQ(History("web").size(), 1u);
  EXPECT_FALSE(History("web")[0].whole);
}

// ---- Going on

TEST_F(TrimHistoryTest, WhatHadNoTimeGoesOnTheNextTime) {
  FakeDomain& domain = Add("web");
  domain.agent.pieces = 4;
  domain.agent.facts.filesystems = {FilesystemOn("vda", 5, "/", kGiB, 100 * kMiB),
                                    FilesystemOn("vda", 5, "/data", kGiB, 100 * kMiB)};
  for (GuestFilesystem& filesystem : domain.agent.facts.filesystems) filesystem.type = "xfs";
  domain.agent.facts.filesystems[1].uuid = "d-1";
  GuestTrim second = domain.agent.trims[0];
  second.mount_point = "/data";
  domain.agent.trims.push_back(second);
  TrimOptions options;
  options.max_duration = absl::Seconds(190);
  EXPECT_THAT(Lines(Run(options)), ElementsAre("web: done time-over"));
  EXPECT_THAT(world_.reached, ElementsAre("/#0", "/#1", "/#2"));
  EXPECT_EQ(History("web").back().next, (TrimRecordPosition{"/", "", 3, false}));
  EXPECT_FALSE(History("web").back().complete);
  world_.reached.clear();
  EXPECT_THAT(Lines(Run(options)), ElementsAre("web: done time-over"));
  EXPECT_THAT(world_.reached, ElementsAre("/#3", "/data#0", "/data#1"));
  EXPECT_EQ(History("web").back().next, (TrimRecordPosition{"/data", "d-1", 2, false}));
  // One that names filesystems does not lose the place.
  TrimOptions named;
  named.guest.mount_points = {"/"};
  Run(named);
  EXPECT_EQ(world_.trimmed_with.back().start, std::nullopt);
  EXPECT_EQ(History("web").back().next, (TrimRecordPosition{"/data", "d-1", 2, false}));
  world_.reached.clear();
  EXPECT_THAT(Lines(Run(options)), ElementsAre("web: done"));
  EXPECT_THAT(world_.reached, ElementsAre("/data#2", "/data#3"));
  EXPECT_TRUE(History("web").back().complete);
  EXPECT_FALSE(History("web").back().whole);
  EXPECT_EQ(History("web").back().next, std::nullopt);
  // And then from the beginning.
  Run(options);
  EXPECT_EQ(world_.trimmed_with.back().start, std::nullopt);
}

TEST_F(TrimHistoryTest, WhatWasMadeAnewIsTrimmedFromItsBeginning) {
  FakeDomain& domain = Add("web");
  domain.agent.pieces = 4;
  domain.agent.facts.filesystems[0].uuid = "old";
  TrimOptions options;
  options.max_duration = absl::Seconds(70);
  Run(options);
  EXPECT_EQ(History("web").back().next, (TrimRecordPosition{"/", "old", 1, false}));
  domain.agent.facts.filesystems[0].uuid = "new";
  Run(options);
  EXPECT_EQ(world_.trimmed_with.back().start, std::nullopt);
}

TEST_F(TrimHistoryTest, ADomainsOwnTimeoutDoesNotLoseThePlace) {
  FakeDomain& domain = Add("web");
  domain.agent.pieces = 4;
  TrimOptions options;
  options.timeout = absl::Seconds(130);
  const auto results = Run(options);
  EXPECT_THAT(Lines(results), ElementsAre("web: failed"));
  EXPECT_THAT(std::string(results[0].outcome.error.message()),
              AllOf(HasSubstr("2m10s of --timeout"), HasSubstr("goes on where it was")));
  EXPECT_EQ(History("web").back().next, (TrimRecordPosition{"/", "", 2, false}));
  // Nor does one that comes to nothing at all.
  FakeAgent working = domain.agent;
  domain.agent.pieces = 0;
  domain.agent.tells_no_progress = true;
  domain.agent.takes = absl::Hours(1);
  EXPECT_THAT(Lines(Run(options)), ElementsAre("web: failed"));
  EXPECT_EQ(History("web").back().next, (TrimRecordPosition{"/", "", 2, false}));
  domain.agent = working;
  world_.reached.clear();
  EXPECT_THAT(Lines(Run(options)), ElementsAre("web: done"));
  EXPECT_THAT(world_.reached, ElementsAre("/#2", "/#3"));
  EXPECT_EQ(History("web").back().next, std::nullopt);
}

TEST_F(TrimHistoryTest, NeitherDoesALostLinkNorTrouble) {
  FakeDomain& lost = Add("lost");
  lost.agent.pieces = 4;
  lost.agent.after_pieces = absl::UnavailableError("Trim: the agent restarted");
  EXPECT_THAT(Lines(Run()), ElementsAre("lost: failed"));
  EXPECT_EQ(History("lost").back().next, (TrimRecordPosition{"/", "", 4, false}));
  lost.summary.state = DomainState::kShutOff;
  FakeDomain& full = Add("full");
  full.agent.pieces = 4;
  full.agent.after_piece = [&](uint64_t piece) {
    if (piece == 1) full.on_io_error("virtio-disk0: enospc");
  };
  EXPECT_THAT(Lines(Run()), Contains("full: failed io-error"));
  EXPECT_EQ(History("full").back().next, (TrimRecordPosition{"/", "", 2, false}));
}

TEST_F(TrimHistoryTest, HowLongTheLastOneTookTellsWhatIsLeft) {
  FakeDomain& domain = Add("web");
  domain.agent.pieces = 4;
  std::vector<std::optional<absl::Duration>> left;
  const auto run = [&](const TrimOptions& options) {
    left.clear();
    const Services services = world_.services();
    const auto plan = PlanTrim(services, options, {}).value();
    ExecuteTrim(services, options, plan,
                [&](const DomainSummary&, const GuestTrimProgress& progress) {
                  left.push_back(progress.left);
                },
                {});
  };
  TrimOptions short_time;
  short_time.max_duration = absl::Seconds(130);
  run(short_time);
  run({});  // what the one before left
  EXPECT_THAT(left, Each(std::nullopt)) << "neither was whole";
  run({});
  EXPECT_THAT(left, Each(std::nullopt)) << "nothing is known of the whole yet";
  run({});
  EXPECT_THAT(left, ElementsAre(absl::Minutes(4), absl::Minutes(3), absl::Minutes(2),
                                absl::Minutes(1), std::nullopt));
}

TEST_F(TrimHistoryTest, ThePlaceIsKeptOnTheWay) {
  FakeDomain& domain = Add("web");
  RunFirst();
  world_.Sleep(absl::Hours(1));
  domain.agent.pieces = 4;
  std::vector<TrimRecord> then;
  domain.agent.after_piece = [&](uint64_t piece) {
    if (piece == 2) then = History("web");  // what a kill would leave
  };
  EXPECT_THAT(Lines(Run()), ElementsAre("web: done"));
  ASSERT_EQ(then.size(), 2u);
  // The third piece is where it is; at the second libvirt was last seen at nothing.
  EXPECT_EQ(then.back().next, (TrimRecordPosition{"/", "", 2, false}));
  EXPECT_FALSE(then.back().complete);
  ASSERT_EQ(History("web").size(), 2u);
  EXPECT_TRUE(History("web").back().whole);
}

TEST_F(TrimHistoryTest, ShortWindowsReachAllDomains) {
  for (const char* name : {"a", "b", "c"}) Add(name).agent.pieces = 2;
  TrimOptions options;
  options.max_duration = absl::Seconds(190);
  EXPECT_THAT(Lines(Run(options)),
              ElementsAre("a: done", "b: done time-over", "c: skipped time-over"));
  EXPECT_THAT(Lines(Run(options)), ElementsAre("b: done", "c: done", "a: done time-over"));
  EXPECT_EQ(world_.reached.size(), 6u);
  // Who waits longest comes first, and who goes on goes on.
  EXPECT_THAT(Lines(Run(options)),
              ElementsAre("a: done", "b: done time-over", "c: skipped time-over"));
  // Without a limit everybody has time, in the order of names.
  EXPECT_THAT(Lines(Run()), ElementsAre("a: done", "b: done", "c: done"));
}

TEST_F(TrimHistoryTest, AHistoryThatCannotBeWrittenSpoilsNoTrim) {
  Add("web");
  const std::string path = world_.services().state_directory + "/history";
  std::filesystem::create_directories(world_.services().state_directory);
  ASSERT_TRUE(WriteFileDurably(path, "no directory", 0600).ok());
  const auto results = Run();
  EXPECT_THAT(Lines(results), ElementsAre("web: done"));
  EXPECT_FALSE(results[0].remembered.ok());
}

TEST_F(TrimHistoryTest, ThePlanSaysWhatIsExpectedAndWhatTheLastTrimWas) {
  Add("web");
  Run();
  world_.images["/images/web.raw"].allocation = 300 * kMiB;
  TrimOptions options;
  options.estimate = true;
  const auto plan = PlanTrim(world_.services(), options, {}).value();
  ASSERT_EQ(plan.size(), 1u);
  EXPECT_EQ(plan[0].expected, 200 * kMiB);
  EXPECT_EQ(plan[0].last->freed, static_cast<int64_t>(480 * kMiB));
  options.threshold = Threshold{250 * kMiB, 0};
  EXPECT_EQ(PlanTrim(world_.services(), options, {}).value()[0].blockers.at(0).reason,
            Reason::kBelowThreshold);
}

TEST_F(TrimHistoryTest, ReportShowsWhatHasGrownSince) {
  Add("web");
  Run();
  world_.Sleep(absl::Hours(48));
  world_.images["/images/web.raw"].allocation = 320 * kMiB;
  const Report report = MakeReport(world_.services(), {}, {}).value();
  EXPECT_EQ(report.domains[0].disks[0].grown_since_trim, static_cast<int64_t>(200 * kMiB));
  EXPECT_GE(report.domains[0].since_trim, absl::Hours(48));
}

TEST_F(TrimHistoryTest, GuestsThatFreedLittleSinceTheirLastTrimAreLeftOut) {
  Add("much").agent.facts.filesystems[0].freed_since_trim = 300 * kMiB;
  Add("little").agent.facts.filesystems[0].freed_since_trim = 30 * kMiB;
  Add("unknown");
  for (auto& [uuid, domain] : world_.domains)
    domain.agent.facts.filesystems[0].obstacle = GuestObstacle::kNone;
  TrimOptions options;
  options.domains = {"much", "little", "unknown"};
  options.min_freed = 100 * kMiB;
  EXPECT_THAT(Lines(Run(options)),
              ElementsAre("much: done", "little: skipped below-threshold", "unknown: done"));
}

TEST_F(TrimHistoryTest, WhatCannotBeStoppedIsNotBegunWithoutEnoughTime) {
  AddWithQemuAgent("web");
  TrimRecord record;
  record.began = absl::FromUnixSeconds(1'600'000'000);
  record.took = absl::Minutes(10);
  record.whole = true;
  ASSERT_TRUE(TrimHistory(world_.services().state_directory, "fake:///world")
                  .Append(UuidOf("web"), "web", record)
                  .ok());
  TrimOptions options;
  options.max_duration = absl::Minutes(9);
  EXPECT_THAT(Lines(Run(options)), ElementsAre("web: skipped time-over"));
  options.max_duration = absl::Minutes(11);
  EXPECT_THAT(Lines(Run(options)), ElementsAre("web: done"));
}

TEST_F(TrimHistoryTest, AnIoErrorOnTheHostStopsTheStorage) {
  FakeDomain& first = Add("a");
  Add("b");
  Add("other", "/ssd", 2);
  first.agent.while_trimming = [&] { first.on_io_error("virtio-disk0: enospc"); };
  const auto results = Run();
  EXPECT_THAT(Lines(results),
              ElementsAre("a: failed io-error", "b: skipped storage-stopped", "other: done"));
  EXPECT_THAT(std::string(results[0].outcome.error.message()), HasSubstr("virtio-disk0: enospc"));
  EXPECT_EQ(StatusOf(results), ExitStatus::kSomeFailed);
  EXPECT_EQ(first.on_io_error, nullptr);  // nobody listens any more
}

TEST_F(TrimHistoryTest, AStorageThatTheTrimItselfFillsIsLeftAlone) {
  FakeDomain& first = Add("a");
  Add("b");
  world_.room = 100 * kMiB;
  // It grows, as qcow2 metadata does.
  first.agent.while_trimming = [&] { world_.images["/images/a.raw"].allocation = 620 * kMiB; };
  EXPECT_THAT(Lines(Run()), ElementsAre("a: failed storage-full", "b: skipped storage-stopped"));
}

TEST_F(TrimHistoryTest, AlsoByATrimThatTellsNothingOfItself) {
  FakeDomain& btrfs = Add("a-btrfs");
  FakeDomain& other = AddWithQemuAgent("b-qemu");
  world_.devices["/images/b-qemu.raw"] = 2;
  world_.room = 100 * kMiB;
  btrfs.agent.tells_no_progress = true;
  btrfs.agent.while_trimming = [&] {
    world_.images["/images/a-btrfs.raw"].allocation = 620 * kMiB;
  };
  other.qemu_agent.while_trimming = [&] {
    world_.images["/images/b-qemu.raw"].allocation = 620 * kMiB;
  };
  EXPECT_THAT(Lines(Run()),
              ElementsAre("a-btrfs: failed storage-full", "b-qemu: failed storage-full"));
}

TEST_F(TrimHistoryTest, AJobThatBeginsMeanwhileStopsTheTrimAfterItsPiece) {
  FakeDomain& domain = Add("web");
  Add("x-next");
  domain.agent.pieces = 4;
  domain.agent.after_piece = [&](uint64_t piece) {
    if (piece == 1) domain.activity = {{Reason::kBlockJob, "vda"}};
  };
  const auto results = Run();
  EXPECT_THAT(Lines(results), ElementsAre("web: done block-job", "x-next: done"));
  EXPECT_THAT(world_.reached, ElementsAre("/#0", "/#1"));
  EXPECT_EQ(StatusOf(results), ExitStatus::kDone);
  EXPECT_FALSE(History("web").back().complete);
  // QEMU may have dropped the piece in which it began.
  EXPECT_EQ(History("web").back().next, (TrimRecordPosition{"/", "", 1, false}));
  EXPECT_THAT(Lines(Run()), Contains("web: skipped block-job"));
  domain.activity.clear();
  domain.agent.after_piece = nullptr;
  world_.reached.clear();
  EXPECT_THAT(Lines(Run()), Contains("web: done"));
  EXPECT_THAT(world_.reached, ElementsAre("/#1", "/#2", "/#3"));
}

TEST_F(TrimHistoryTest, APlaceThatLibvirtCouldNotBeAskedAboutIsNotPastAJob) {
  FakeDomain& domain = Add("web");
  domain.agent.pieces = 4;
  // Locked by libvirt from the first piece on, while it begins a job.
  domain.agent.after_piece = [&](uint64_t piece) {
    domain.jobs_unknown = absl::AbortedError("locked");
    if (piece < 2) return;
    domain.jobs_unknown = absl::OkStatus();
    domain.activity = {{Reason::kBlockJob, "vda"}};
  };
  EXPECT_THAT(Lines(Run()), ElementsAre("web: done block-job"));
  EXPECT_THAT(world_.reached, ElementsAre("/#0", "/#1", "/#2"));
  EXPECT_EQ(History("web").back().next, std::nullopt);
}

// What cannot be trimmed was not left out: nothing of it will ever come back.
TEST_F(TrimHistoryTest, AFilesystemThatCannotBeTrimmedExcusesNothing) {
  FakeDomain& domain = AddWithQemuAgent("uefi");
  domain.qemu_agent.freed.clear();
  domain.qemu_agent.answers["guest-get-fsinfo"] = absl::StrReplaceAll(
      kFsInfo, {{R"({"return":[)",
                 R"({"return":[{"name":"vda15","mountpoint":"/boot/efi","type":"vfat",
"total-bytes":129718272,"used-bytes":11911168,"disk":[{"bus-type":"virtio","dev":"/dev/vda15",
"pci-controller":{"domain":0,"bus":0,"slot":5,"function":0}}]},)"}});
  domain.qemu_agent.answers["guest-fstrim"] = absl::StrReplaceAll(
      kTrimmed,
      {{R"("paths":[)", R"("paths":[{"path":"/boot/efi","error":"trim not supported"},)"}});
  const auto results = Run();
  EXPECT_EQ(results[0].disks.at(0).reasons.at(0).reason, Reason::kUnexplained);
  EXPECT_EQ(StatusOf(results), ExitStatus::kNothingFreed);
}

TEST_F(TrimHistoryTest, TheRestOfADiskIsNotHeldAgainstIt) {
  FakeDomain& domain = Add("web");
  domain.agent.pieces = 4;
  TrimOptions options;
  options.max_duration = absl::Seconds(190);
  EXPECT_THAT(Lines(Run(options)), ElementsAre("web: done time-over"));
  domain.agent.freed.clear();  // what there was lay before the place
  auto results = Run();
  EXPECT_THAT(Lines(results), ElementsAre("web: done"));
  EXPECT_THAT(results[0].disks.at(0).reasons, IsEmpty());
  EXPECT_EQ(StatusOf(results), ExitStatus::kDone);
  // From end to end it is.
  results = Run();
  EXPECT_EQ(results[0].disks.at(0).reasons.at(0).reason, Reason::kUnexplained);
  EXPECT_EQ(StatusOf(results), ExitStatus::kNothingFreed);
}

TEST_F(TrimHistoryTest, WhatLibvirtDoesNotAnswerMeanwhileStopsNothing) {
  FakeDomain& domain = Add("web");
  domain.agent.while_trimming = [&] { domain.jobs_unknown = absl::AbortedError("locked"); };
  EXPECT_THAT(Lines(Run()), ElementsAre("web: done"));
}

TEST_F(TrimHistoryTest, AJobBesideWhatCannotBeStoppedIsLetBe) {
  FakeDomain& domain = AddWithQemuAgent("web");
  domain.qemu_agent.while_trimming = [&] { domain.activity = {{Reason::kJobActive, ""}}; };
  const auto results = Run();
  EXPECT_THAT(Lines(results), ElementsAre("web: done"));
  EXPECT_EQ(results[0].freed, static_cast<int64_t>(480 * kMiB));
}

TEST_F(TrimHistoryTest, NothingIsTrimmedUnwatched) {
  Add("web");
  world_.beats.none = absl::ResourceExhaustedError("no thread to be had");
  EXPECT_THAT(Lines(Run()), ElementsAre("web: failed"));
  EXPECT_THAT(world_.trimmed_with, IsEmpty());
}

TEST_F(TrimHistoryTest, ANearlyFullStorageIsTrimmedWhileTheGuestWrites) {
  FakeDomain& domain = Add("a");
  domain.agent.while_trimming = [&] {
    world_.images["/images/a.raw"].allocation = 900 * kMiB;
    domain.bytes_written += 310 * kMiB;
  };
  world_.room = 0;
  EXPECT_THAT(Lines(Run()), ElementsAre("a: done"));
}

TEST_F(TrimHistoryTest, WhatExplainWouldNameIsTheReasonWhyNothingWasFreed) {
  FakeDomain& domain = Add("web");
  domain.agent.freed.clear();
  world_.can_punch = false;
  auto results = Run();
  ASSERT_EQ(results[0].disks[0].reasons.size(), 1u);
  EXPECT_EQ(results[0].disks[0].reasons[0].reason, Reason::kStorageCannotPunch);
  EXPECT_EQ(StatusOf(results), ExitStatus::kNothingFreed);
  world_.can_punch = true;
  world_.internal_snapshots = 2;
  results = Run();
  EXPECT_EQ(results[0].disks[0].reasons.at(0).reason, Reason::kInternalSnapshots);
  EXPECT_EQ(StatusOf(results), ExitStatus::kNothingFreed);
  // Nothing is to be had, snapshots or not.
  world_.images["/images/web.raw"].allocation = 100 * kMiB;
  results = Run();
  EXPECT_EQ(results[0].disks[0].reasons.back().reason, Reason::kNothingReclaimable);
  EXPECT_EQ(StatusOf(results), ExitStatus::kDone);
}

// ---- The file

TEST(TrimHistory, KeepsTheLatestAndForgetsWhatIsDamaged) {
  FakeWorld world;
  const TrimHistory history(world.services().state_directory, "qemu:///system");
  EXPECT_THAT(history.Read("u"), IsEmpty());
  TrimRecord record;
  record.way = "agent";
  record.status = "done";
  record.disks = {{"vda", "/a.raw", 5, -5, std::nullopt}};
  for (size_t i = 0; i < TrimHistory::kMostRecords + 3; ++i) {
    record.began = absl::FromUnixSeconds(static_cast<int64_t>(i));
    ASSERT_TRUE(history.Append("u", "web\x1b", record).ok());
  }
  const auto records = history.Read("u");
  ASSERT_EQ(records.size(), TrimHistory::kMostRecords);
  EXPECT_EQ(records.front().began, absl::FromUnixSeconds(3));
  EXPECT_EQ(records.back(), record);
  const std::string path =
      world.services().state_directory + "/history/qemu%3A%2F%2F%2Fsystem/u.json";
  for (const char* damaged : {"", "{", "[]", R"({"schema_version":2,"trims":[]})",
                              R"({"schema_version":1,"trims":[5,{"began":"x"}]})"}) {
    ASSERT_TRUE(WriteFileDurably(path, damaged, 0600).ok());
    EXPECT_THAT(history.Read("u"), IsEmpty()) << damaged;
  }
  ASSERT_TRUE(history.Append("u", "web", record).ok());
  EXPECT_EQ(history.Read("u").size(), 1u);
}

}  // namespace
}  // namespace virt_reclaim
