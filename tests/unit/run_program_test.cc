// The verb run as a program: after a mistake in the policy nothing is done.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/io.h"
#include "base/unique_fd.h"
#include "host/cli/program.h"
#include "host/commands/run.h"
#include "host/services/run_history.h"
#include "tests/fakes/fake_world.h"
#include "tests/unit/trim_fixture.h"

namespace virt_reclaim {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(RunProgram, AWrongPolicyEndsItBeforeTheHypervisorIsReached) {
  ProgressLine progress(STDERR_FILENO);
  const auto never = [](const CommandLine&, const std::function<void(const Services&)>&) {
    ADD_FAILURE() << "the hypervisor was asked for";
    return absl::OkStatus();
  };
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(POLICY_DATA_DIRECTORY "/wrong")) {
    const std::string path = entry.path().string();
    for (const std::vector<std::string>& words :
         {std::vector<std::string>{"run"}, std::vector<std::string>{"run", "--job=punch"},
          std::vector<std::string>{"run", "-n"}, std::vector<std::string>{"config", "check"},
          std::vector<std::string>{"config", "show", "web"}}) {
      std::vector<std::string> arguments = words;
      arguments.push_back(absl::StrCat("--config=", path));
      const ProgramResult result = RunProgram(arguments, never, progress, {});
      EXPECT_EQ(result.status, ExitStatus::kUsage) << path;
      EXPECT_EQ(result.out, "") << path;
      EXPECT_TRUE(absl::StartsWith(result.err, absl::StrCat("virt-reclaim: ", path, ":")))
          << result.err;
      EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    }
    ++files;
  }
  EXPECT_GE(files, 30u);
}

TEST(RunProgram, PunchDoesNotAskForTheHypervisor) {
  ProgressLine progress(STDERR_FILENO);
  std::vector<bool> without;
  const auto note = [&](const CommandLine& line, const std::function<void(const Services&)>&) {
    without.push_back(line.no_libvirt);
    return absl::UnavailableError("down");
  };
  const std::string config = "--config=" POLICY_EXAMPLE;
  RunProgram({"run", config, "--job=punch"}, note, progress, {});
  RunProgram({"run", config, "--job=trim"}, note, progress, {});
  RunProgram({"run", config}, note, progress, {});
  EXPECT_THAT(without, testing::ElementsAre(true, false, false));
  // Which images are to be punched libvirt has to say.
  const FakeWorld world;
  const std::string policy = world.directory() + "/policy.toml";
  std::ofstream(policy) << "[[rule]]\ndomains = ['web']\nways = ['punch']\n";
  RunProgram({"run", absl::StrCat("--config=", policy), "--job=punch"}, note, progress, {});
  EXPECT_FALSE(without.back());
}

// A job that stays would keep every later backup from beginning.
TEST(RunProgram, ABackupJobThatDoesNotEndIsSaidAndLeftToTheWatcher) {
  FakeWorld world;
  const std::string image = world.directory() + "/a.raw";
  world.AddImage(image, 1 << 20, 1 << 20);
  ASSERT_TRUE(WriteFileDurably(image, "", 0600).ok());
  FakeDomain& domain = world.AddDomain(
      DomainXml("web", kUuid, "pc-q35-7.2", {{"vda", "virtio", image, "unmap"}}, "connected"),
      DomainState::kRunning);
  int left = 0;
  const auto with_services = [&](const CommandLine&,
                                 const std::function<void(const Services&)>& use) {
    Services services = world.services();
    services.leave_to_watcher = [&left] { ++left; };
    use(services);
    return absl::OkStatus();
  };
  ProgressLine progress(-1);
  const std::vector<std::string> words = {"sync", "--domain", "web", world.directory()};
  RunProgram(words, with_services, progress, {});
  EXPECT_EQ(left, 0);
  domain.end_backup = absl::UnavailableError("connection is gone");
  ProgramResult result = RunProgram(words, with_services, progress, {});
  EXPECT_EQ(left, 1);
  EXPECT_THAT(result.err, testing::HasSubstr("may still have our backup job"));
  EXPECT_THAT(result.err, testing::HasSubstr("connection is gone"));
  // With nothing to copy, too.
  std::vector<std::string> clean = words;
  clean.insert(clean.begin() + 1, "--clean");
  domain.end_backup = absl::OkStatus();
  result = RunProgram(clean, with_services, progress, {});
  EXPECT_EQ(result.status, ExitStatus::kDone) << result.err;
  EXPECT_EQ(left, 1);
}

// A world with a domain whose window opens in three hours, and a policy that says so.
class WaitingRun : public TrimTest {
 protected:
  WaitingRun() {
    Add("web");
    const auto at = [&](int hours) {
      return absl::FormatTime("%H:%M", world_.Now() + absl::Hours(hours), absl::LocalTimeZone());
    };
    SetPolicy(absl::StrCat("window = '", at(3), "-", at(5), "'\n"));
  }

  void SetPolicy(const std::string& defaults) {
    std::ofstream(policy_) << "[defaults]\n" << defaults;
  }

  ProgramResult Run(std::vector<std::string> words, const std::stop_token& stop = {}) {
    words.insert(words.begin(), "--job=trim");
    return RunAsItIs(std::move(words), stop);
  }

  ProgramResult RunAsItIs(std::vector<std::string> words, const std::stop_token& stop = {}) {
    words.insert(words.begin(), "run");
    words.push_back(absl::StrCat("--config=", policy_));
    ProgressLine progress(nowhere_.get());
    const auto use = [&](const CommandLine& line,
                         const std::function<void(const Services&)>& work) {
      Services services = world_.services();
      if (line.no_libvirt) {
        ++waits_;
        const auto sleep = services.sleep;
        services.sleep = [this, sleep](absl::Duration time) {
          while_waiting_();
          sleep(time);
        };
      }
      work(services);
      return absl::OkStatus();
    };
    return RunProgram(words, use, progress, stop);
  }

  const std::string policy_ = absl::StrCat(world_.directory(), "/policy.toml");
  const UniqueFd nowhere_{open("/dev/null", O_WRONLY | O_CLOEXEC)};
  std::function<void()> while_waiting_ = [] {};
  int waits_ = 0;
};

TEST_F(WaitingRun, WithoutTheOptionNothingIsWaitedFor) {
  const absl::Time before = world_.Now();
  const ProgramResult result = Run({});
  EXPECT_THAT(result.out, HasSubstr("outside-window"));
  EXPECT_EQ(world_.Now(), before);
}

TEST_F(WaitingRun, WhatAClosedWindowLeavesIsDoneWhenItOpens) {
  const absl::Time before = world_.Now();
  bool free = false;
  // Whoever calls it by hand meanwhile is not refused.
  while_waiting_ = [&] { free = LockJobs(world_.services(), {policy::Job::kTrim}).ok(); };
  const ProgramResult result = Run({"--wait=24h"});
  EXPECT_EQ(result.status, ExitStatus::kDone) << result.err;
  EXPECT_THAT(result.out, HasSubstr("freed 480 MiB"));
  EXPECT_THAT(result.out, Not(HasSubstr("outside-window")));
  EXPECT_GE(world_.Now(), before + absl::Hours(3) - absl::Minutes(1));
  EXPECT_TRUE(free);
}

TEST_F(WaitingRun, NotLongerThanAllowed) {
  const absl::Time before = world_.Now();
  EXPECT_THAT(Run({"--wait=1h"}).out, HasSubstr("outside-window"));
  EXPECT_EQ(world_.Now(), before);
}

TEST_F(WaitingRun, ThePolicyOfThenCounts) {
  while_waiting_ = [&] { SetPolicy("enabled = false\n"); };
  const ProgramResult result = Run({"--wait=24h"});
  EXPECT_THAT(result.out, HasSubstr("policy-excludes"));
  EXPECT_THAT(world_.trimmed_with, testing::IsEmpty());
}

TEST_F(WaitingRun, AMistakeInThePolicyOfThenIsAFailure) {
  while_waiting_ = [&] { SetPolicy("treshold = '1G'\n"); };
  const ProgramResult result = Run({"--wait=24h"});
  EXPECT_EQ(result.status, ExitStatus::kError);
  EXPECT_THAT(result.err, HasSubstr("was left for a window was not done"));
  EXPECT_THAT(world_.trimmed_with, testing::IsEmpty());
}

TEST_F(WaitingRun, AnotherRunThatHasTheJobThenIsWaitedFor) {
  std::optional<std::vector<DomainLock>> other;
  while_waiting_ = [&] {
    if (waits_ != 1) {
      other.reset();
      return;
    }
    auto locks = LockJobs(world_.services(), {policy::Job::kTrim});
    if (locks.ok()) other = *std::move(locks);
  };
  const ProgramResult result = Run({"--wait=24h"});
  EXPECT_THAT(result.out, HasSubstr("freed 480 MiB")) << result.err;
  EXPECT_GT(waits_, 1);
}

TEST_F(WaitingRun, AnEmergencyDoesWhatNobodyElseDoes) {
  const auto trims = LockJobs(world_.services(), {policy::Job::kTrim});
  ASSERT_TRUE(trims.ok());
  const std::string config = absl::StrCat("--config=", policy_);
  ProgressLine progress(nowhere_.get());
  const auto use = [&](const CommandLine&, const std::function<void(const Services&)>& work) {
    work(world_.services());
    return absl::OkStatus();
  };
  const ProgramResult result = RunProgram({"run", "--emergency", config}, use, progress, {});
  EXPECT_THAT(result.out, HasSubstr("trim busy, sparsify 0 domains 0 B, punch 0 files 0 B"));
  EXPECT_THAT(result.err, HasSubstr("trim: another virt-reclaim is working on this job"));
  EXPECT_EQ(result.status, ExitStatus::kRefused);
  EXPECT_EQ(RunProgram({"run", config}, use, progress, {}).out, "");
}

TEST_F(WaitingRun, WhatARunCameToIsRemembered) {
  const std::string state = world_.services().state_directory;
  EXPECT_THAT(ReadRuns(state), testing::IsEmpty());
  Run({"--dry-run"});
  EXPECT_THAT(ReadRuns(state), testing::IsEmpty());
  Run({"--wait=24h"});
  std::vector<RunRecord> runs = ReadRuns(state);
  ASSERT_EQ(runs.size(), 1u);
  EXPECT_EQ(runs[0].job, "trim");
  EXPECT_TRUE(runs[0].success);
  EXPECT_EQ(runs[0].freed, static_cast<int64_t>(480 * kMiB));
  EXPECT_EQ(runs[0].ended, world_.Now());
  SetPolicy("");
  world_.domains.begin()->second.agent.trim = absl::InternalError("broken");
  Run({});
  runs = ReadRuns(state);
  ASSERT_EQ(runs.size(), 1u);
  EXPECT_FALSE(runs[0].success);
  std::ofstream(state + "/runs/trim.json") << "{";
  EXPECT_THAT(ReadRuns(state), testing::IsEmpty());
}

// Else the alert for a timer that comes no more would fire for jobs that never had one.
TEST_F(WaitingRun, WhatARunCameToIsRememberedOfATimersJobAlone) {
  SetPolicy("");
  const std::string state = world_.services().state_directory;
  EXPECT_THAT(RunAsItIs({}).out, HasSubstr("freed 480 MiB"));
  EXPECT_THAT(RunAsItIs({"--emergency"}).out, HasSubstr("total: "));
  EXPECT_THAT(RunAsItIs({"--emergency", "--resume"}).out, HasSubstr("total: "));
  EXPECT_THAT(RunAsItIs({"--emergency", "--job=trim"}).out, HasSubstr("total: "));
  EXPECT_THAT(ReadRuns(state), testing::IsEmpty());
  EXPECT_EQ(RunAsItIs({"--job=punch", "--wait=24h"}).status, ExitStatus::kDone);
  const std::vector<RunRecord> runs = ReadRuns(state);
  ASSERT_EQ(runs.size(), 1u);
  EXPECT_EQ(runs[0].job, "punch");
}

TEST_F(WaitingRun, AStopEndsTheWait) {
  std::stop_source source;
  while_waiting_ = [&] { source.request_stop(); };
  const ProgramResult result = Run({"--wait=24h"}, source.get_token());
  EXPECT_EQ(result.status, ExitStatus::kInterrupted);
  EXPECT_THAT(world_.trimmed_with, testing::IsEmpty());
}

}  // namespace
}  // namespace virt_reclaim
