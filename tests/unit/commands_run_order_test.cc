// What a run does first, and what it waits for: windows, who waits longest, emergencies.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "host/commands/run.h"
#include "tests/unit/run_fixture.h"

namespace virt_reclaim {
namespace {

using policy::Job;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// "window = '22:23-23:23'": opens in so long, for an hour.
std::string OpensIn(FakeWorld& world, absl::Duration time) {
  const auto at = [&](absl::Duration after) {
    return absl::FormatTime("%H:%M", world.Now() + after, absl::LocalTimeZone());
  };
  return absl::StrCat("window = '", at(time), "-", at(time + absl::Hours(1)), "'\n");
}

// "trim web", in their order.
std::vector<std::string> NamesOf(const std::vector<RunItem>& items) {
  std::vector<std::string> names;
  for (const RunItem& item : items) names.push_back(absl::StrCat(Name(item.job), " ", item.name));
  return names;
}

TEST_F(RunTest, AWindowThatOpensMeanwhileIsNotMissed) {
  Add("db");
  Add("web").agent.takes = absl::Minutes(20);
  EXPECT_THAT(
      LinesOf(absl::StrCat("[[rule]]\ndomains = ['db']\n", OpensIn(world_, absl::Minutes(10)))),
      testing::UnorderedElementsAre("trim web: done 480 MiB", "trim db: done 480 MiB"));
}

TEST_F(RunTest, AWindowOfBackupsThatOpensMeanwhileIsNotMissed) {
  AddBackup("early/a.raw");
  AddBackup("late/b.raw");
  const std::string directory = absl::StrCat("[[backups]]\ndirectory = '", world_.directory());
  const RunPlan plan =
      PlanIt(absl::StrCat(directory, "/late'\n", OpensIn(world_, absl::Minutes(10)), directory,
                          "/early'\n"),
             {{Job::kPunch}});
  bool slept = false;
  RunProgress progress;
  progress.punch = [&](const PunchFilesProgress&) {
    if (!std::exchange(slept, true)) world_.Sleep(absl::Minutes(20));
  };
  const auto items = ExecuteRun(world_.services(), plan, progress, {});
  ASSERT_EQ(items.size(), 2u);
  EXPECT_THAT(items[0].name, HasSubstr("early"));
  for (const RunItem& item : items) EXPECT_FALSE(item.window) << Line(item);
}

TEST_F(RunTest, WhatIsLeftForAWindowWaitsForIt) {
  Add("web");
  AddOff("old");
  const auto items =
      RunIt(absl::StrCat("[[rule]]\ndomains = ['web']\n", OpensIn(world_, absl::Hours(3))));
  EXPECT_EQ(LeftForWindow(items), (RunNames{{true, "web"}}));
  const Services services = world_.services();
  const absl::Time before = world_.Now();
  std::vector<absl::Time> told;
  const auto tell = [&](absl::Time opens) { told.push_back(opens); };
  EXPECT_FALSE(WaitForWindow(services, items, before + absl::Hours(2), tell, {}));
  EXPECT_EQ(world_.Now(), before);  // for nothing nobody waits
  EXPECT_THAT(told, IsEmpty());
  EXPECT_TRUE(WaitForWindow(services, items, before + absl::Hours(24), tell, {}));
  EXPECT_EQ(told.size(), 1u);
  EXPECT_GE(world_.Now(), before + absl::Hours(3) - absl::Minutes(1));
  EXPECT_LE(world_.Now(), before + absl::Hours(3) + absl::Seconds(1));
  std::stop_source source;
  source.request_stop();
  EXPECT_FALSE(WaitForWindow(services, items, absl::InfiniteFuture(), {}, source.get_token()));
}

TEST_F(RunTest, ALaterRoundIsOnlyAboutWhatIsLeft) {
  Add("web");
  Add("db");
  Add("gone");
  AddBackup("backups/a.raw");
  const std::string window = OpensIn(world_, absl::Hours(3));
  const std::string toml =
      absl::StrCat("[[rule]]\ndomains = ['db', 'gone']\n", window, "[[backups]]\ndirectory = '",
                   world_.directory(), "/backups'\n");
  auto items = RunIt(toml);
  const RunNames left = LeftForWindow(items);
  EXPECT_EQ(left, (RunNames{{true, "db"}, {true, "gone"}}));
  world_.Sleep(absl::Hours(3));
  world_.domains.erase(UuidOf("gone"));
  const RunPlan plan = PlanIt(toml, {kAll, false, false, left});
  const auto later = ExecuteRun(world_.services(), plan, {}, {});
  EXPECT_THAT(Lines(later), ElementsAre("trim db: done 480 MiB"));
  Renew(items, left, later);
  EXPECT_THAT(Lines(items),
              testing::IsSupersetOf({"trim db: done 480 MiB", "trim web: done 480 MiB",
                                     "trim gone: skipped outside-window"}));
  EXPECT_THAT(LeftForWindow(items), IsEmpty());
}

TEST_F(RunTest, TheTimeOfARunIsThatOfAllItsRounds) {
  const std::string toml = "[limits]\nmax-duration = '4h'\n";
  RunOptions options{{Job::kTrim}};
  options.worked = absl::Hours(3);
  EXPECT_EQ(PlanIt(toml, options).limits.max_duration, absl::Hours(1));
  options.worked = absl::Hours(5);
  EXPECT_EQ(PlanIt(toml, options).limits.max_duration, absl::ZeroDuration());
}

// Two rules, time for one domain in a run: each has its turn, those of the second rule, too.
TEST_F(RunTest, WhoWaitsLongestComesFirstWhateverRuleItIsUnder) {
  for (const char* name : {"a", "b", "c"}) Add(name).agent.takes = absl::Minutes(4);
  std::vector<std::string> done;
  for (int run = 0; run < 3; ++run) {
    for (const char* name : {"a", "b", "c"})
      world_.AddImage(absl::StrCat("/images/", name, ".raw"), kGiB, 600 * kMiB);
    for (const RunItem& item : RunIt("[limits]\nmax-duration = '4m'\n"
                                     "[[rule]]\ndomains = ['c']\nmax-rate = '100M'\n")) {
      if (item.outcome.kind == OutcomeKind::kDone) done.push_back(item.name);
    }
    world_.Sleep(absl::Hours(24 * 7));
  }
  EXPECT_THAT(done, ElementsAre("a", "b", "c"));
}

TEST_F(RunTest, InAnEmergencyTheFullestStorageComesFirstOfEachWay) {
  Add("little").agent.facts.filesystems = {FilesystemOn("vda", 5, "/", kGiB, 500 * kMiB)};
  Add("much");
  Add("roomy");
  world_.rooms = {{"/images/roomy.raw", uint64_t{2} << 40}};
  AddOff("old");
  AddOff("full");
  world_.rooms["/images/full.raw"] = kMiB;
  const std::string small = AddBackup("backups/a.raw");
  const std::string urgent = AddBackup("backups/b.raw");
  world_.rooms[urgent] = kMiB;
  const std::string toml =
      absl::StrCat("[[backups]]\ndirectory = '", world_.directory(), "/backups'\n");
  const RunPlan plan = PlanIt(toml, {kAll, false, /*emergency=*/true});
  const std::vector<std::string> planned = NamesOf(ItemsOf(plan));
  EXPECT_THAT(planned,
              ElementsAre("sparsify full", "sparsify old", absl::StrCat("punch ", urgent),
                          absl::StrCat("punch ", small), "trim much", "trim little", "trim roomy"));
  EXPECT_EQ(NamesOf(ExecuteRun(world_.services(), plan, {}, {})), planned);
}

TEST_F(RunTest, APlanHasTheOrderOfTheRun) {
  for (const char* name : {"a", "b", "c"}) Add(name);
  const std::string toml =
      "[limits]\nmax-duration = '4h'\n[[rule]]\ndomains = ['a']\nmax-rate = '100M'\n";
  RunIt("[[rule]]\ndomains = ['a']\nenabled = false\n");
  for (const char* name : {"b", "c"})
    world_.AddImage(absl::StrCat("/images/", name, ".raw"), kGiB, 600 * kMiB);
  const RunPlan plan = PlanIt(toml, {{Job::kTrim}});
  EXPECT_EQ(NamesOf(ItemsOf(plan)).front(), "trim a");  // which has never been trimmed
  EXPECT_EQ(NamesOf(ItemsOf(plan)), NamesOf(ExecuteRun(world_.services(), plan, {}, {})));
}

TEST_F(RunTest, OnlyOneLookAtADomainThatARuleOfAStorageIsAbout) {
  Add("web");
  world_.definitions_read = 0;
  RunIt("");
  const int without = world_.definitions_read.exchange(0);
  world_.AddImage("/images/web.raw", kGiB, 600 * kMiB);
  RunIt("[[rule]]\nstorage = ['/fast']\ngentle = true\n");
  EXPECT_EQ(world_.definitions_read.load(), without);
}

}  // namespace
}  // namespace virt_reclaim
