// OfflineGuest's real class with programs that are not virt-reclaim-guestfs: whatever they print,
// however they end.
#include "host/services/offline_guest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "virt_reclaim/agent/v1/agent.pb.h"

namespace virt_reclaim {
namespace {

using testing::HasSubstr;
using testing::Not;

class OfflineGuestTest : public testing::Test {
 protected:
  OfflineGuestTest() {
    std::string name = (std::filesystem::temp_directory_path() / "offline-guest-XXXXXX").string();
    directory_ = mkdtemp(name.data());
    std::filesystem::create_directory(directory_ + "/tmp");
    setenv("TMPDIR", (directory_ + "/tmp").c_str(), 1);
  }
  ~OfflineGuestTest() override {
    // No temporary directory outlives a call.
    EXPECT_TRUE(std::filesystem::is_empty(directory_ + "/tmp"));
    unsetenv("TMPDIR");
    std::filesystem::remove_all(directory_);
  }

  std::string File(const std::string& name) const { return directory_ + "/" + name; }
  void Write(const std::string& name, const std::string& content) const {
    std::ofstream(File(name)) << content;
  }
  std::string Content(const std::string& name) const {
    std::ifstream file(File(name));
    return {std::istreambuf_iterator<char>(file), {}};
  }
  // The program is this shell script.
  absl::StatusOr<GuestPreflight> Read(const std::string& script,
                                      absl::Duration timeout = absl::Seconds(30),
                                      const std::stop_token& stop = {}) {
    Write("program", absl::StrCat("#!/bin/sh\ncd ", directory_, "\n", script, "\n"));
    chmod(File("program").c_str(), 0700);
    return NewOfflineGuest(File("program"))
        ->Read({{"raw", "/images/a b.raw"}, {"qcow2", "/images/c:d"}}, timeout, stop);
  }

  std::string directory_;
};

TEST_F(OfflineGuestTest, HonestAnswer) {
  agent::v1::PreflightResponse response;
  response.set_kernel_release("6.1\x1b[2J");
  response.set_kernel_major(6);
  for (int i = 0; i < 1000; ++i) response.add_boot_disks("vda");
  Write("answer", response.SerializeAsString());
  const auto facts =
      Read("printf '%s|' \"$@\" >arguments; env >environment; touch $TMPDIR/overlay; cat answer");
  ASSERT_TRUE(facts.ok()) << facts.status();
  EXPECT_EQ(facts->kernel_release, "6.1\\x1b[2J");
  EXPECT_TRUE(facts->truncated);
  EXPECT_EQ(Content("arguments"), "raw:/images/a b.raw|qcow2:/images/c:d|");
}

TEST_F(OfflineGuestTest, OnlyWhatLibguestfsNeedsOfTheEnvironment) {
  setenv("LIBGUESTFS_TEST_VALUE", "x", 1);
  setenv("SECRET_VALUE", "y", 1);
  Read("env >environment; exit 1").IgnoreError();
  unsetenv("LIBGUESTFS_TEST_VALUE");
  unsetenv("SECRET_VALUE");
  EXPECT_THAT(Content("environment"), HasSubstr("LIBGUESTFS_TEST_VALUE=x\n"));
  EXPECT_THAT(Content("environment"), HasSubstr("TMPDIR=" + directory_ + "/tmp/virt-reclaim-"));
  EXPECT_THAT(Content("environment"), Not(HasSubstr("SECRET")));
}

TEST_F(OfflineGuestTest, AnEmptyTmpdirIsNone) {
  setenv("TMPDIR", "", 1);
  Read("env >environment; exit 1").IgnoreError();
  EXPECT_THAT(Content("environment"), HasSubstr("TMPDIR=/tmp/virt-reclaim-guestfs-"));
}

TEST_F(OfflineGuestTest, WhatBecameOfEachDevice) {
  Write("program", R"(#!/bin/sh
printf '%s|' "$@" >"$0.arguments"
printf '/dev/sda1\tok\n/dev/sda2\tmount: bad superblock\n'
printf '/dev/sda3\tunsupported: trim\n/dev/sda4\ttrim: I/O error\n'
)");
  chmod(File("program").c_str(), 0700);
  const auto guest = NewOfflineGuest(File("program"));
  const auto statuses =
      guest->Trim({}, {{"/dev/sda1"}, {"/dev/sda2"}, {"/dev/sda3"}, {"/dev/sda4", true}},
                  absl::Seconds(30), {});
  ASSERT_TRUE(statuses.ok()) << statuses.status();
  ASSERT_EQ(statuses->size(), 4u);
  EXPECT_EQ(Content("program.arguments"),
            "--trim=/dev/sda1|--trim=/dev/sda2|--trim=/dev/sda3|--zero=/dev/sda4|");
  EXPECT_TRUE((*statuses)[0].ok());
  EXPECT_EQ((*statuses)[1], absl::UnavailableError("mount: bad superblock"));
  EXPECT_TRUE(absl::IsUnimplemented((*statuses)[2]));
  EXPECT_TRUE(absl::IsInternal((*statuses)[3]));
  EXPECT_TRUE(absl::IsDataLoss(guest->Trim({}, {{"/dev/sda2"}}, absl::Seconds(30), {}).status()));
}

TEST_F(OfflineGuestTest, WhatAKilledOneLeftIsTakenAway) {
  std::filesystem::create_directory(File("tmp/virt-reclaim-guestfs-abcdef"));
  chmod(File("tmp/virt-reclaim-guestfs-abcdef").c_str(), 0700);
  Write("tmp/virt-reclaim-guestfs-abcdef/overlay", "x");
  Read("exit 1").IgnoreError();
  EXPECT_FALSE(std::filesystem::exists(File("tmp/virt-reclaim-guestfs-abcdef")));
}

TEST_F(OfflineGuestTest, NotInstalled) {
  const auto facts = NewOfflineGuest(File("nothing"))->Read({}, absl::Seconds(30), {});
  EXPECT_TRUE(absl::IsUnimplemented(facts.status()));
}

TEST_F(OfflineGuestTest, ItsReasonIsPrintableAndShort) {
  const auto facts =
      Read("echo noise; printf 'its disks are \\033[2Jencrypted\\n' >&2; exit 1").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(facts));
  EXPECT_EQ(facts.message(), "its disks are \\x1b[2Jencrypted");
  const auto long_one = Read("seq 1 100000 >&2; exit 1").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(long_one));
  EXPECT_LT(long_one.message().size(), 1000u);
  EXPECT_THAT(std::string(Read("exit 7").status().message()), HasSubstr("ended with 7"));
  EXPECT_THAT(std::string(Read("kill -9 $$").status().message()), HasSubstr("ended with -1"));
}

TEST_F(OfflineGuestTest, AnswersThatAreNone) {
  EXPECT_TRUE(absl::IsDataLoss(Read("true").status()));
  EXPECT_TRUE(absl::IsDataLoss(Read("printf '\\377\\377\\377\\377\\377'").status()));
  EXPECT_TRUE(absl::IsDataLoss(Read("echo no operating system").status()));
  EXPECT_TRUE(absl::IsDataLoss(Read("head -c 2000000 /dev/zero").status()));
}

TEST_F(OfflineGuestTest, EndlessOutputEndsAtOnce) {
  const absl::Time begin = absl::Now();
  EXPECT_TRUE(absl::IsDataLoss(Read("exec cat /dev/zero").status()));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(15));
}

TEST_F(OfflineGuestTest, SilentOneIsKilledWithItsChildren) {
  const auto facts = Read("sh -c 'echo $$ >child; exec sleep 1000' & wait", absl::Seconds(1));
  EXPECT_TRUE(absl::IsDeadlineExceeded(facts.status())) << facts.status();
  const pid_t child = atoi(Content("child").c_str());
  ASSERT_GT(child, 1);
  for (int i = 0; i < 100 && kill(child, 0) == 0; ++i) absl::SleepFor(absl::Milliseconds(50));
  EXPECT_NE(kill(child, 0), 0);
}

TEST_F(OfflineGuestTest, StoppedItMayCleanUpAndIsKilledWhenItDoesNot) {
  std::stop_source stop;
  const std::jthread stopper([&] {
    for (int i = 0; i < 200 && !std::filesystem::exists(File("begun")); ++i) {
      absl::SleepFor(absl::Milliseconds(50));
    }
    stop.request_stop();
  });
  const absl::Time begin = absl::Now();
  const auto facts = Read("trap 'echo cleaned >cleaned; exit 1' TERM; touch begun; sleep 1000",
                          absl::Seconds(60), stop.get_token());
  EXPECT_TRUE(absl::IsCancelled(facts.status())) << facts.status();
  EXPECT_EQ(Content("cleaned"), "cleaned\n");
  EXPECT_TRUE(absl::IsCancelled(
      Read("trap '' TERM; while :; do sleep 1; done", absl::Seconds(60), stop.get_token())
          .status()));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(30));
}

}  // namespace
}  // namespace virt_reclaim
