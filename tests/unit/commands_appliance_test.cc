// What sparsify leaves to libguestfs's appliance, and who comes meanwhile.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/io.h"
#include "host/commands/appliance_watch.h"
#include "tests/unit/sparsify_fixture.h"

namespace virt_reclaim {
namespace {

using sparsify::Mode;
using testing::ElementsAre;
using testing::IsEmpty;

TEST(ApplianceJobsTest, OnlyWhatIsNotKnown) {
  using enum freemap::Refusal;
  const auto count = [](const std::string& type, freemap::Refusal refusal, SparsifyEngine engine,
                        bool replay = false, bool strict = false) {
    return ApplianceJobs(RefusedOne(type, refusal), {engine, replay, strict, {}}).size();
  };
  EXPECT_EQ(count("f2fs", kUnknown, SparsifyEngine::kAuto), 1u);
  EXPECT_EQ(count("f2fs", kUnknown, SparsifyEngine::kNative), 0u);
  EXPECT_EQ(count("crypto_LUKS", kUnknown, SparsifyEngine::kAuto), 0u);
  EXPECT_EQ(count("", kUnknown, SparsifyEngine::kLibguestfs), 0u);
  EXPECT_EQ(count("ext4", kNone, SparsifyEngine::kAuto), 0u);
  EXPECT_EQ(count("ext4", kNone, SparsifyEngine::kLibguestfs), 1u);
  EXPECT_EQ(count("ntfs", kNone, SparsifyEngine::kLibguestfs), 0u);
  EXPECT_EQ(count("ext4", kDirtyJournal, SparsifyEngine::kLibguestfs), 0u);
  EXPECT_EQ(count("ext4", kDirtyJournal, SparsifyEngine::kAuto, true), 1u);
  EXPECT_EQ(count("ext4", kUnknown, SparsifyEngine::kAuto, true, true), 0u);
  EXPECT_EQ(count("ext4", kDirtyJournal, SparsifyEngine::kLibguestfs, true, true), 0u);
  EXPECT_EQ(count("ext4", kNone, SparsifyEngine::kLibguestfs, true, true), 1u);
  for (const freemap::Refusal refusal : {kState, kDamaged, kUnreadable, kUnchecked}) {
    EXPECT_EQ(count("ext4", refusal, SparsifyEngine::kLibguestfs, true), 0u);
  }
}

TEST(ApplianceJobsTest, NamesOfDevices) {
  const auto device = [](const std::string& place, bool mapped, uint32_t disk) -> std::string {
    sparsify::SparsifyResult result = RefusedOne("jfs", freemap::Refusal::kUnknown);
    freemap::Filesystem& found = result.filesystems[0].found;
    found.place = place;
    found.mapped = mapped;
    found.disk = disk;
    const auto jobs = ApplianceJobs(result, {});
    return jobs.empty() ? "" : jobs[0].device;
  };
  EXPECT_EQ(device("disk", false, 0), "/dev/sda");
  EXPECT_EQ(device("partition 12", false, 2), "/dev/sdc12");
  EXPECT_EQ(device("disk", false, 26), "");
  EXPECT_EQ(device("web/root", true, 0), "/dev/web/root");
  EXPECT_EQ(device("web (free extents)", true, 0), "");
  EXPECT_EQ(device("../root", true, 0), "");
}

// What sleeps may have any of the disks in its memory.
TEST(ApplianceJobsTest, NothingBesideADoubtfulState) {
  sparsify::SparsifyResult result = RefusedOne("f2fs", freemap::Refusal::kUnknown);
  result.filesystems.push_back(RefusedOne("ext4", freemap::Refusal::kState).filesystems[0]);
  EXPECT_TRUE(ApplianceJobs(result, {SparsifyEngine::kLibguestfs, true, false, {}}).empty());
}

TEST(ApplianceJobsTest, WhatIsToBeZero) {
  sparsify::SparsifyResult result = RefusedOne("ext4", freemap::Refusal::kState);
  result.filesystems.push_back(
      RefusedOne("LVM2_member", freemap::Refusal::kNotAsked).filesystems[0]);
  result.filesystems[1].found.place = "partition 2";
  result.filesystems.push_back(RefusedOne("", freemap::Refusal::kDamaged).filesystems[0]);
  result.filesystems[2].found.place = "disk";
  const std::vector<std::string> all = {"/dev/sda", "/dev/sda1", "/dev/sda2", "/dev/sda3"};
  const auto jobs = ApplianceJobs(result, {SparsifyEngine::kAuto, true, false, all});
  ASSERT_EQ(jobs.size(), 1u);
  EXPECT_EQ(jobs[0].device, "/dev/sda1");
  EXPECT_TRUE(jobs[0].zero);
  EXPECT_TRUE(ApplianceJobs(result, {SparsifyEngine::kAuto, true, false, {"/dev/vda1"}}).empty());
}

// As libguestfs's virt-sparsify passes over what it cannot mount or trim, and over nothing else.
TEST(ApplianceFailureTest, WhatTheOtherOneWouldFailBy) {
  EXPECT_TRUE(ApplianceFailure({}).ok());
  EXPECT_TRUE(ApplianceFailure({{0, absl::OkStatus()},
                                {1, absl::UnavailableError("mount: bad superblock")},
                                {2, absl::UnimplementedError("not installed")}})
                  .ok());
  for (const absl::Status& failed :
       {absl::FailedPreconditionError("no appliance"), absl::DeadlineExceededError("took too long"),
        absl::InternalError("trim: I/O error")})
    EXPECT_EQ(ApplianceFailure({{0, absl::OkStatus()}, {3, failed}}), failed);
}

// A file of its own, as an appliance opens it by its name; domain web has it.
class SparsifyByApplianceTest : public SparsifyImagesTest {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs root: who has the image open?";
  }
  SparsifyByApplianceTest() {
    world_.AddDomain(DomainXml("web", kUuid, "pc-q35-7.2", {{"vda", "virtio", path, ""}}, ""),
                     DomainState::kShutOff);
  }

  const std::string path = AddFile();
};

TEST_F(SparsifyByApplianceTest, AllByIt) {
  SparsifyImagesOptions options;
  options.choice = SparsifyEngine::kLibguestfs;
  world_.sparsify = FoundExt4(500 * kMiB, 0, 0);
  const Outcome trimmed = RunOne(options);
  EXPECT_THAT(world_.calls, ElementsAre("trim /dev/sda1"));
  EXPECT_EQ(trimmed.kind, OutcomeKind::kDone);
  EXPECT_TRUE(trimmed.nothing_freed);
  // What it does not trim is not done, and said.
  for (const char* type : {"ntfs", "swap", "LVM2_member"}) {
    world_.calls.clear();
    world_.sparsify->filesystems[0].found.type = type;
    const Outcome passed_over = RunOne(options);
    EXPECT_THAT(world_.calls, IsEmpty());
    EXPECT_EQ(passed_over.kind, OutcomeKind::kSkipped);
    ASSERT_THAT(Reasons(passed_over), ElementsAre(Reason::kFilesystemRefused));
    EXPECT_EQ(passed_over.reasons[0].detail,
              absl::StrCat("partition 1 (", type, "): libguestfs: it does not trim this"));
  }
}

// Somebody takes the image while the appliance works on it, without a lock: it is stopped.
TEST_F(SparsifyByApplianceTest, WhoTakesAnImageMeanwhileStopsIt) {
  // Works until it is stopped.
  struct Appliance final : OfflineGuest {
    absl::StatusOr<GuestPreflight> Read(const std::vector<OfflineDisk>&, absl::Duration,
                                        const std::stop_token&) override {
      return absl::UnimplementedError("not asked for");
    }
    absl::StatusOr<std::vector<absl::Status>> Trim(const std::vector<OfflineDisk>&,
                                                   const std::vector<OfflineJob>& jobs,
                                                   absl::Duration,
                                                   const std::stop_token& stop) override {
      if (work()) return std::vector<absl::Status>(jobs.size());
      for (int i = 0; i < 300 && !stop.stop_requested(); ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
      if (stop.stop_requested()) return absl::CancelledError("stopped");
      return std::vector<absl::Status>(jobs.size());
    }
    std::function<bool()> work;  // true: it ended
  };
  Appliance appliance;
  world_.sparsify = RefusedOne("jfs", freemap::Refusal::kUnknown);
  Services services = world_.services();
  services.offline_guest = &appliance;
  SparsifyImagesOptions options;
  options.targets = {"web"};
  const auto run = [&] {
    const auto actions = PlanSparsify(services, options, {});
    EXPECT_TRUE(actions.ok()) << actions.status();
    return ExecuteSparsify(services, options, *actions, Mode::kSparsify, {}, {})[0];
  };
  const std::string note = path + ".pid";
  // Nobody's child: its shell has ended.
  appliance.work = [&] {
    const std::string hold = absl::StrCat("sleep 60 <", path, " >/dev/null 2>&1 & echo $! >", note);
    EXPECT_EQ(system(hold.c_str()), 0);
    return false;
  };
  const SparsifiedTarget stopped = run();
  const std::string pid(absl::StripAsciiWhitespace(ReadFile(note, 64).value_or("0")));
  EXPECT_THAT(Reasons(stopped.outcome), ElementsAre(Reason::kImageInUse));
  EXPECT_THAT(stopped.outcome.reasons[0].detail,
              testing::HasSubstr(absl::StrCat("is in use: sleep (pid ", pid, ")")));
  EXPECT_EQ(system(absl::StrCat("kill ", pid, "; rm ", note).c_str()), 0);
  for (int i = 0; i < 500 && access(absl::StrCat("/proc/", pid, "/fd/0").c_str(), F_OK) == 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  // Its own QEMU is nobody else.
  appliance.work = [&] {
    EXPECT_EQ(system(absl::StrCat("sleep 2 <", path).c_str()), 0);
    return true;
  };
  EXPECT_EQ(run().outcome.kind, OutcomeKind::kDone);
}

TEST(ApplianceWatchTest, WhatTheDomainsAreIsAskedAgain) {
  std::atomic<int> asked = 0;
  const auto still_off = [&] {
    return ++asked > 2 ? absl::AbortedError("it runs: web") : absl::OkStatus();
  };
  ApplianceWatch watch({}, still_off, {});
  ASSERT_TRUE(watch.Begin().ok());
  for (int i = 0; i < 1000 && !watch.token().stop_requested(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(watch.End(), absl::AbortedError("it runs: web"));
}

TEST_F(SparsifyByApplianceTest, WhatIsFreedIsMeasured) {
  SparsifyImagesOptions options;
  options.choice = SparsifyEngine::kLibguestfs;
  options.targets = {"web"};
  world_.sparsify = FoundExt4(500 * kMiB, 0, 0);
  world_.while_reading = [&] { world_.images[path].allocation = 200 * kMiB; };
  const auto targets = Run(options);
  ASSERT_TRUE(targets[0].result);
  EXPECT_EQ(targets[0].result->disks[0].freed_bytes(), 400 * kMiB);
  EXPECT_FALSE(targets[0].outcome.nothing_freed);
}

TEST_F(SparsifyByApplianceTest, WhatNativeDoesNotKnow) {
  world_.sparsify = RefusedOne("f2fs", freemap::Refusal::kUnknown);
  EXPECT_EQ(RunOne().kind, OutcomeKind::kDone);
  EXPECT_THAT(world_.calls, ElementsAre("sparsify " + path, "trim /dev/sda1"));
  // What is named must be done.
  SparsifyImagesOptions zero;
  zero.zero = {"/dev/sda1"};
  world_.calls.clear();
  EXPECT_EQ(RunOne(zero).kind, OutcomeKind::kDone);
  EXPECT_THAT(world_.calls, ElementsAre("sparsify " + path, "zero /dev/sda1"));
  // It opens the image by its name.
  world_.while_reading = [&] {
    const std::string other = path + ".other";
    close(open(other.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(rename(other.c_str(), path.c_str()), 0);
  };
  EXPECT_THAT(Reasons(RunOne()), ElementsAre(Reason::kImageRefused));
  world_.while_reading = nullptr;
  // Without it there is one clear line.
  world_.has_offline_guest = false;
  const Outcome outcome = RunOne();
  EXPECT_EQ(outcome.kind, OutcomeKind::kSkipped);
  ASSERT_THAT(Reasons(outcome), ElementsAre(Reason::kFilesystemRefused));
  EXPECT_EQ(outcome.reasons[0].detail, "partition 1 (f2fs): libguestfs: not installed");
}

}  // namespace
}  // namespace virt_reclaim
