#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "host/commands/run.h"
#include "host/policy/toml_reader.h"
#include "host/services/run_history.h"
#include "host/services/trim_history.h"
#include "tests/unit/run_fixture.h"

namespace virt_reclaim {
namespace {

using policy::Job;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST_F(RunTest, EachDomainByTheWayOfItsState) {
  Add("web");
  AddOff("old");
  Add("halted").summary.state = DomainState::kPaused;
  const auto items = RunIt("");
  EXPECT_THAT(Lines(items), ElementsAre("trim halted: skipped paused", "trim web: done 480 MiB",
                                        "sparsify old: done 400 MiB"));
  EXPECT_EQ(StatusOf(items), ExitStatus::kDone);
  const RunTotal total = TotalOf(items, Job::kTrim);
  EXPECT_EQ(total.done, 1u);
  EXPECT_EQ(total.skipped, 1u);
  EXPECT_EQ(total.freed, static_cast<int64_t>(480 * kMiB));
}

TEST_F(RunTest, OnlyTheJobThatWasAskedFor) {
  Add("web");
  AddOff("old");
  EXPECT_THAT(LinesOf("", {Job::kTrim}), ElementsAre("trim web: done 480 MiB"));
  EXPECT_THAT(LinesOf("", {Job::kSparsify}), ElementsAre("sparsify old: done 400 MiB"));
  EXPECT_THAT(LinesOf("", {Job::kPunch}), IsEmpty());
}

TEST_F(RunTest, APlanChangesNothing) {
  Add("web");
  AddOff("old");
  const std::string file = AddBackup("backups/a.raw");
  policy::Policy policy;
  ASSERT_TRUE(
      policy::AddToml("a.toml",
                      absl::StrCat("[[backups]]\ndirectory = '", world_.directory(), "/backups'\n"),
                      policy)
          .ok());
  const auto plan = PlanRun(world_.services(), policy, {kAll, true}, {});
  ASSERT_TRUE(plan.ok()) << plan.status();
  const std::vector<RunItem> items = ItemsOf(*plan);
  EXPECT_THAT(Lines(items), ElementsAre("trim web: done", "sparsify old: done",
                                        absl::StrCat("punch ", file, ": done")));
  EXPECT_TRUE(items[0].expected.has_value());
  EXPECT_THAT(world_.calls, IsEmpty());
  EXPECT_THAT(world_.trimmed_with, IsEmpty());
  struct stat status;
  ASSERT_EQ(stat(file.c_str(), &status), 0);
  EXPECT_GE(status.st_blocks * 512, static_cast<int64_t>(8 * kMiB));
}

TEST_F(RunTest, WhatThePolicyLeavesOutIsSaidAndNoFailure) {
  Add("web");
  Add("db");
  const auto items = RunIt(
      "[[rule]]\ndomains = ['db']\nenabled = false\n"
      "[[rule]]\ndomains = ['web']\nways = ['sparsify']\n");
  EXPECT_THAT(Lines(items),
              ElementsAre("trim db: skipped policy-excludes", "trim web: skipped policy-excludes"));
  EXPECT_EQ(items[0].outcome.reasons[0].detail, "a.toml:3:1");
  EXPECT_EQ(items[1].outcome.reasons[0].detail, "a.toml:6:1");
  EXPECT_EQ(StatusOf(items), ExitStatus::kDone);
}

TEST_F(RunTest, MetadataTakeADomainOutOrIn) {
  const auto add = [&](const std::string& name, const std::string& run) {
    FakeDomain& domain = Add(name);
    domain.live_xml = absl::StrReplaceAll(
        domain.live_xml,
        {{"</name>", absl::StrCat("</name><metadata><vr:policy xmlns:vr='", xml::kPolicyNamespace,
                                  "' run='", run, "'/></metadata>")}});
  };
  add("in", "yes");
  add("out", "no");
  Add("says-nothing");
  EXPECT_THAT(LinesOf("", {Job::kTrim}),
              ElementsAre("trim out: skipped policy-excludes", "trim in: done 480 MiB",
                          "trim says-nothing: done 480 MiB"));
  EXPECT_THAT(LinesOf("[defaults]\nenabled = false\n", {Job::kTrim}),
              testing::Contains("trim says-nothing: skipped policy-excludes"));
}

TEST_F(RunTest, RulesOfAStorage) {
  Add("fast", "/fast");
  Add("slow", "/slow");
  EXPECT_THAT(LinesOf("[[rule]]\nstorage = ['/slow']\nenabled = false\n"),
              ElementsAre("trim slow: skipped policy-excludes", "trim fast: done 480 MiB"));
}

TEST_F(RunTest, AStorageThatCannotBeLookedAtMayBeTheOneThatForbids) {
  Add("web");
  const auto items = RunIt("[[rule]]\nstorage = ['/nowhere']\nenabled = false\n");
  ASSERT_EQ(items.size(), 1u);
  EXPECT_EQ(items[0].outcome.kind, OutcomeKind::kFailed);
  EXPECT_THAT(world_.trimmed_with, IsEmpty());
}

TEST_F(RunTest, SettingsReachThePipelines) {
  Add("web");
  Add("db");
  RunIt("[[rule]]\ndomains = ['db']\nmax-rate = '100M'\ngentle = true\n");
  ASSERT_EQ(world_.trimmed_with.size(), 2u);
  const bool first = world_.trimmed_with[0].max_rate > 0;
  EXPECT_EQ(world_.trimmed_with[first ? 0 : 1].max_rate, 100 * kMiB);
  EXPECT_EQ(world_.trimmed_with[first ? 1 : 0].max_rate, 0u);
  EXPECT_GT(world_.trimmed_with[first ? 0 : 1].pause_percent,
            world_.trimmed_with[first ? 1 : 0].pause_percent);
}

TEST_F(RunTest, UnderTheThresholdNothingIsDone) {
  Add("web");
  EXPECT_THAT(LinesOf("[defaults]\nthreshold = '90%'\n"),
              ElementsAre("trim web: skipped below-threshold"));
}

TEST_F(RunTest, NothingIsBegunInAClosedWindow) {
  Add("web");
  AddOff("old");
  const std::string file = AddBackup("backups/a.raw");
  const absl::TimeZone zone = absl::LocalTimeZone();
  const int hour = zone.At(world_.Now()).cs.hour();
  const std::string closed =
      absl::StrCat("window = '", (hour + 2) % 24, ":00-", (hour + 3) % 24, ":00'\n");
  const auto items = RunIt(absl::StrCat("[defaults]\n", closed, "[[backups]]\ndirectory = '",
                                        world_.directory(), "/backups'\n", closed));
  EXPECT_THAT(Lines(items), ElementsAre("trim web: skipped outside-window",
                                        "sparsify old: skipped outside-window",
                                        absl::StrCat("punch ", file, ": skipped outside-window")));
  EXPECT_EQ(StatusOf(items), ExitStatus::kDone);
}

TEST_F(RunTest, InAnEmergencyWhatIsOffComesFirstAndNothingIsTooLittle) {
  Add("web");
  Add("db");
  AddOff("old");
  EXPECT_THAT(Lines(RunIt("[limits]\nmax-duration = '1s'\n[defaults]\nthreshold = '90%'\n"
                          "[[rule]]\ndomains = ['db']\nenabled = false\n",
                          kAll, /*emergency=*/true)),
              ElementsAre("trim db: skipped policy-excludes", "sparsify old: done 400 MiB",
                          "trim web: done 480 MiB"));
}

TEST_F(RunTest, AfterItsTimeNothingIsBegun) {
  Add("a").agent.takes = absl::Minutes(10);
  Add("b").agent.takes = absl::Minutes(10);
  AddOff("old");
  EXPECT_THAT(LinesOf("[limits]\nmax-duration = '5m'\n"
                      "[[rule]]\ndomains = ['b']\ngentle = true\n"),
              testing::IsSupersetOf({"sparsify old: skipped time-over"}));
}

TEST_F(RunTest, BackupsArePunchedButThoseLeftOut) {
  const std::string file = AddBackup("backups/web/a.raw");
  AddBackup("backups/web/b.tmp");
  const auto items = RunIt(absl::StrCat("[[backups]]\ndirectory = '", world_.directory(),
                                        "/backups'\nexclude = ['*.tmp']\nidle = false\n"));
  ASSERT_EQ(items.size(), 1u);
  EXPECT_EQ(items[0].name, file);
  // Where the temporary directory cannot have holes, that is said.
  if (items[0].outcome.kind == OutcomeKind::kDone) {
    EXPECT_GE(items[0].freed.value_or(0), static_cast<int64_t>(7 * kMiB));
  }
}

TEST_F(RunTest, OnlyWhatLiesInTheDirectoryItself) {
  const std::string file = AddBackup("backups/a.raw");
  AddBackup("backups/web/b.raw");
  const auto items = RunIt(absl::StrCat("[[backups]]\ndirectory = '", world_.directory(),
                                        "/backups/'\nrecursive = false\nidle = false\n"));
  ASSERT_EQ(items.size(), 1u);
  EXPECT_EQ(items[0].name, file);
}

TEST_F(RunTest, ImagesOfDomainsThatAreOffArePunchedWhereThatIsAllowed) {
  Add("web");
  const std::string old = AddOffWithFile("old");
  AddOffWithFile("other");
  const std::string allowed =
      "[[rule]]\ndomains = ['old', 'web']\nways = ['agent', 'qemu-agent', 'punch']\n";
  const auto of_old = testing::StartsWith(absl::StrCat("punch ", old, ": "));
  EXPECT_THAT(LinesOf(allowed),
              ElementsAre("sparsify old: skipped policy-excludes", "trim web: done 480 MiB",
                          "sparsify other: done 400 MiB", of_old));
  AddBackup("pool/old.raw");
  const auto items = RunIt(allowed, {Job::kPunch});
  EXPECT_THAT(Lines(items), ElementsAre(of_old));
  EXPECT_FALSE(items[0].is_domain);
  if (items[0].outcome.kind == OutcomeKind::kDone) {
    EXPECT_GE(items[0].freed.value_or(0), static_cast<int64_t>(7 * kMiB));
  }
  EXPECT_THAT(LinesOf("", {Job::kPunch}), IsEmpty());
  EXPECT_THAT(LinesOf(allowed + "enabled = false\n", {Job::kPunch}), IsEmpty());
  // As a backup each once.
  const auto both = RunIt(absl::StrCat(allowed, "[[backups]]\ndirectory = '", world_.directory(),
                                       "/pool'\nidle = false\n"),
                          {Job::kPunch});
  EXPECT_EQ(both.size(), 2u);
}

TEST_F(RunTest, APreallocatedImageIsPunchedOnlyWhenThatIsSaid) {
  const std::string file = AddOffWithFile("old");
  world_.AddImage(file, kGiB, kGiB);
  const std::string policy = "[defaults]\nways = ['punch']\n";
  EXPECT_THAT(LinesOf(policy, {Job::kPunch}),
              ElementsAre(absl::StrCat("punch ", file, ": skipped thick-image")));
  EXPECT_THAT(LinesOf(policy + "allow-thick = true\n", {Job::kPunch}),
              ElementsAre(testing::Not(HasSubstr("thick-image"))));
}

TEST_F(RunTest, AnImageThatIsSharedOrReadOnlyIsNotPunched) {
  for (const char* word : {"<shareable/>", "<readonly/>"}) {
    AddOffWithFile("old");
    FakeDomain& domain = world_.domains.at(UuidOf("old"));
    for (std::string* xml : {&domain.live_xml, &domain.inactive_xml})
      *xml = absl::StrReplaceAll(*xml, {{"</disk>", absl::StrCat(word, "</disk>")}});
    EXPECT_THAT(LinesOf("[defaults]\nways = ['punch']\n", {Job::kPunch}), IsEmpty()) << word;
  }
}

TEST_F(RunTest, ADomainThatCannotBeLookedAtIsNotPunchedAndFails) {
  AddOffWithFile("old");
  world_.domains.at(UuidOf("old")).xml_error = absl::UnavailableError("gone");
  EXPECT_THAT(LinesOf("[defaults]\nways = ['punch']\n", {Job::kPunch}),
              ElementsAre("punch old: failed"));
}

TEST_F(RunTest, AnIoErrorEndsThePunchOfImagesOnItsStorage) {
  const std::string file = AddOffWithFile("old");
  struct stat status;
  ASSERT_EQ(stat(file.c_str(), &status), 0);
  FakeDomain& bad = Add("bad", "/images", status.st_dev);
  bad.agent.trims[0].result = GuestTrimResult::kFailed;
  bad.agent.trims[0].error_name = "EIO";
  const auto items = RunIt("[defaults]\nways = ['agent', 'punch']\n", {Job::kTrim, Job::kPunch});
  EXPECT_EQ(Lines(items).back(), absl::StrCat("punch ", file, ": skipped storage-stopped"));
  EXPECT_EQ(StatusOf(items), ExitStatus::kSomeFailed);
}

TEST_F(RunTest, ImagesToPunchWaitForTheWindowOfTheirDomain) {
  const std::string file = AddOffWithFile("old");
  const int hour = absl::LocalTimeZone().At(world_.Now()).cs.hour();
  const auto items = RunIt(absl::StrCat("[defaults]\nways = ['punch']\nwindow = '", (hour + 2) % 24,
                                        ":00-", (hour + 3) % 24, ":00'\n"),
                           {Job::kPunch});
  EXPECT_THAT(Lines(items), ElementsAre(absl::StrCat("punch ", file, ": skipped outside-window")));
  EXPECT_EQ(LeftForWindow(items), (RunNames{{false, file}}));
}

TEST_F(RunTest, ARuleHasItsOwnNumberOfTrimsPerStorage) {
  Add("fast", "/fast");
  Add("slow", "/slow");
  const RunPlan plan =
      PlanIt("[limits]\nper-storage = 2\n[[rule]]\nstorage = ['/fast']\nper-storage = 4\n", {kAll});
  ASSERT_EQ(plan.trims.size(), 2u);
  for (const TrimStep& step : plan.trims)
    EXPECT_EQ(step.options.per_storage, step.action.domain.name == "fast" ? 4u : 2u);
}

TEST_F(RunTest, ADirectoryThatIsGoneFailsAlone) {
  Add("web");
  const auto items = RunIt("[[backups]]\ndirectory = '/nonexistent/backups'\n");
  EXPECT_THAT(Lines(items),
              ElementsAre("trim web: done 480 MiB", "punch /nonexistent/backups: failed"));
  EXPECT_EQ(StatusOf(items), ExitStatus::kSomeFailed);
}

TEST_F(RunTest, AStopCancelsWhatIsLeft) {
  Add("web");
  std::stop_source source;
  policy::Policy policy;
  const auto plan = PlanRun(world_.services(), policy, {kAll}, source.get_token());
  ASSERT_TRUE(plan.ok());
  source.request_stop();
  const auto items = ExecuteRun(world_.services(), *plan, {}, source.get_token());
  EXPECT_THAT(Lines(items), ElementsAre("trim web: cancelled"));
  EXPECT_EQ(StatusOf(items), ExitStatus::kInterrupted);
  EXPECT_TRUE(
      absl::IsCancelled(PlanRun(world_.services(), policy, {kAll}, source.get_token()).status()));
}

TEST_F(RunTest, TwoTimersAtOnce) {
  const Services services = world_.services();
  {
    const auto first = LockJobs(services, {Job::kTrim});
    ASSERT_TRUE(first.ok()) << first.status();
    const auto second = LockJobs(services, kAll);
    EXPECT_TRUE(absl::IsAborted(second.status()));
    EXPECT_EQ(std::string(second.status().message()),
              "trim: another virt-reclaim is working on this job");
    EXPECT_TRUE(LockJobs(services, {Job::kPunch}).ok());
    // An emergency takes what is free.
    std::set<Job> busy;
    const auto rest = LockJobs(services, kAll, &busy);
    ASSERT_TRUE(rest.ok()) << rest.status();
    EXPECT_EQ(rest->size(), 2u);
    EXPECT_EQ(busy, std::set<Job>{Job::kTrim});
    busy.clear();
    EXPECT_TRUE(absl::IsAborted(LockJobs(services, {Job::kTrim}, &busy).status()));
  }
  EXPECT_TRUE(LockJobs(services, kAll).ok());
}

TEST_F(RunTest, AStateDirectoryThatCannotBeWrittenIsSaidAndNoMore) {
  Add("web");
  Services services = world_.services();
  services.state_directory = "/proc/nonexistent";
  const auto plan = PlanRun(services, {}, {{Job::kTrim}}, {});
  ASSERT_TRUE(plan.ok());
  const auto items = ExecuteRun(services, *plan, {}, {});
  EXPECT_THAT(Lines(items), ElementsAre("trim web: done 480 MiB"));
  EXPECT_FALSE(items[0].remembered.ok());
}

TEST_F(RunTest, ARunDirectoryThatCannotBeWrittenEndsItBeforeAnything) {
  Services services = world_.services();
  services.lock_directory = "/proc/nonexistent";
  const auto locks = LockJobs(services, {Job::kPunch});
  EXPECT_FALSE(locks.ok());
  EXPECT_THAT(std::string(locks.status().message()), HasSubstr("/proc/nonexistent"));
}

TEST_F(RunTest, AClockThatIsSetBackInTheMiddle) {
  Add("a").agent.while_trimming = [&] { world_.Sleep(-absl::Hours(30)); };
  Add("b");
  AddOff("old");
  EXPECT_THAT(
      LinesOf("[limits]\nmax-duration = '1h'\n"),
      ElementsAre("trim a: done 480 MiB", "trim b: done 480 MiB", "sparsify old: done 400 MiB"));
  const auto trims =
      TrimHistory(world_.services().state_directory, world_.services().hypervisor.Uri())
          .Read(UuidOf("a"));
  ASSERT_EQ(trims.size(), 1u);
  EXPECT_GE(trims[0].took, absl::ZeroDuration());
}

TEST_F(RunTest, WhatAFullStorageHasPausedRunsOnWhenThereIsRoom) {
  const auto add = [&](const std::string& name, bool by_io_error) -> FakeDomain& {
    FakeDomain& domain = Add(name);
    domain.summary.state = DomainState::kPaused;
    domain.paused_by_io_error = by_io_error;
    return domain;
  };
  FakeDomain& full = add("full", true);
  FakeDomain& by_hand = add("by-hand", false);
  FakeDomain& out = add("out", true);
  const std::string policy = "[[rule]]\ndomains = ['out']\nenabled = false\n";
  const std::set<Job> jobs{Job::kTrim, Job::kResume};
  world_.room = 255 * kMiB;
  const auto none = RunIt(policy, jobs, /*emergency=*/true);
  EXPECT_THAT(Lines(none),
              ElementsAre("resume out: skipped policy-excludes", "trim by-hand: skipped paused",
                          "resume full: skipped no-room"));
  EXPECT_EQ(StatusOf(none), ExitStatus::kRefused);
  EXPECT_EQ(full.summary.state, DomainState::kPaused);

  world_.room = kGiB;
  const auto items = RunIt(policy, jobs, /*emergency=*/true);
  EXPECT_EQ(Lines(items).back(), "resume full: done");
  EXPECT_EQ(StatusOf(items), ExitStatus::kDone);
  EXPECT_EQ(full.summary.state, DomainState::kRunning);
  EXPECT_EQ(by_hand.summary.state, DomainState::kPaused);
  EXPECT_EQ(out.summary.state, DomainState::kPaused);
}

TEST_F(RunTest, ADomainThatIsPausedAgainHasFailed) {
  FakeDomain& domain = Add("greedy");
  domain.summary.state = DomainState::kPaused;
  domain.paused_by_io_error = true;
  domain.needs_room = 2 * kGiB;
  world_.room = kGiB;
  const auto items = RunIt("", {Job::kResume}, /*emergency=*/true);
  EXPECT_THAT(Lines(items), ElementsAre("resume greedy: failed"));
  EXPECT_THAT(std::string(items.front().outcome.error.message()), HasSubstr("paused it again"));
}

TEST_F(RunTest, NobodyIsResumedWithoutBeingAsked) {
  FakeDomain& domain = Add("full");
  domain.summary.state = DomainState::kPaused;
  domain.paused_by_io_error = true;
  EXPECT_THAT(Lines(RunIt("", kAll, /*emergency=*/true)), ElementsAre("trim full: skipped paused"));
  EXPECT_EQ(domain.summary.state, DomainState::kPaused);
}

TEST_F(RunTest, KilledAnywhereTheNextRunGoesOn) {
  Add("web");
  AddOff("old");
  const std::string policy =
      absl::StrCat("[[backups]]\ndirectory = '", world_.directory(), "/backups'\nidle = false\n");
  const auto run = [&] {
    world_.AddImage("/images/web.raw", kGiB, 600 * kMiB);
    const std::string file = AddBackup("backups/a.raw");
    const Services services = world_.services();
    const auto locks = LockJobs(services, kAll);
    ASSERT_TRUE(locks.ok()) << locks.status();
    const auto items = ExecuteRun(services, PlanIt(policy, {kAll}), {}, {});
    EXPECT_THAT(Lines(items), ElementsAre("trim web: done 480 MiB", "sparsify old: done 400 MiB",
                                          testing::StartsWith(absl::StrCat("punch ", file, ": "))));
    EXPECT_NE(items.back().outcome.kind, OutcomeKind::kFailed);
    for (const Job job : kAll) {
      ASSERT_TRUE(RememberRun(services.state_directory, job, items, true, services.now()).ok());
    }
    EXPECT_EQ(ReadRuns(services.state_directory).size(), kAll.size());
  };
  constexpr int kMostPoints = 1000;
  for (int point = 1; point < kMostPoints; ++point) {
    world_.crash_in = point;
    bool crashed = false;
    try {
      run();
    } catch (const FakeCrash&) {
      crashed = true;
    }
    world_.crash_in = 0;
    if (!crashed) {
      EXPECT_GT(point, 20);
      return;  // there is no later point
    }
    run();
  }
  ADD_FAILURE() << "it does not end";
}

TEST_F(RunTest, WhatCountsForADomain) {
  Add("web");
  Add("db");
  policy::Policy policy;
  ASSERT_TRUE(
      policy::AddToml("a.toml", "[[rule]]\ndomains = ['db']\nengine = 'native'\n", policy).ok());
  const auto policies = ResolvePolicies(world_.services(), policy, {"db"}, {});
  ASSERT_TRUE(policies.ok()) << policies.status();
  ASSERT_EQ(policies->size(), 1u);
  EXPECT_EQ(policies->front().values.at("engine").text, "native");
  EXPECT_TRUE(absl::IsNotFound(ResolvePolicies(world_.services(), policy, {"dx"}, {}).status()));
}

}  // namespace
}  // namespace virt_reclaim
