// What a plan makes of a guest that is off: read from its disks when the change needs it, and
// believed only when it stayed off.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/commands/migrate.h"
#include "host/services/domain_lock.h"
#include "tests/fakes/fake_world.h"

namespace virt_reclaim {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

class OfflineTest : public testing::Test {
 protected:
  OfflineTest() {
    options_.rewrite.bus = xml::BusPolicy::kVirtioScsi;
    GuestPreflight& facts = Domain().offline.emplace();
    facts.kernel_release = "6.1.0";
    facts.kernel = GuestKernelVersion{6, 1};
    facts.boot_configs = {"/boot/grub/grub.cfg"};
    AddKernel("6.1.0", true);
  }
  FakeDomain& Domain() { return domain_; }
  GuestPreflight& Facts() { return *Domain().offline; }
  void AddKernel(const std::string& release, bool newest) {
    Facts().kernels.push_back({release, false, newest, "/boot/initrd",
                               GuestModuleState::kInInitramfs, GuestModuleState::kInInitramfs});
  }
  MigrateAction Plan() {
    auto plan = PlanMigrate(world_.services(), options_, stop_.get_token());
    EXPECT_TRUE(plan.ok()) << plan.status();
    return plan->at(0);
  }
  // Detail of the one blocker.
  std::string Blocked(Reason reason = Reason::kGuestUnknown) {
    const MigrateAction action = Plan();
    EXPECT_THAT(action.blockers, SizeIs(1));
    if (action.blockers.empty()) return "";
    EXPECT_EQ(Code(action.blockers[0].reason), Code(reason));
    return action.blockers[0].detail;
  }

  FakeWorld world_;
  FakeDomain& domain_ = world_.AddDomain(
      DomainXml("web", kUuid, "pc-i440fx-3.1",
                {{"vda", "virtio", "/images/a.raw", ""}, {"vdb", "virtio", "/images/b.raw", ""}},
                ""),
      DomainState::kShutOff);
  MigrateOptions options_;
  std::stop_source stop_;
};

TEST_F(OfflineTest, AllDisksAreReadAndTheBusChangeIsPlanned) {
  EXPECT_THAT(Plan().blockers, IsEmpty());
  ASSERT_THAT(world_.disks_read, SizeIs(2));
  EXPECT_EQ(world_.disks_read[1].path, "/images/b.raw");
  EXPECT_EQ(world_.disks_read[1].format, "raw");
  EXPECT_THAT(world_.calls, IsEmpty());
}

TEST_F(OfflineTest, EveryInstalledKernelMayBoot) {
  AddKernel("5.10.0", false);
  EXPECT_THAT(Plan().blockers, IsEmpty());
  Facts().kernels[1].sd_mod = GuestModuleState::kModuleOnly;
  EXPECT_THAT(Blocked(Reason::kInitramfsLacks), HasSubstr("5.10.0"));
  Facts().kernels.clear();
  EXPECT_THAT(Blocked(), HasSubstr("which kernel"));
}

TEST_F(OfflineTest, NobodyIsThereToFixIt) {
  options_.fix_guest = true;
  Facts().names.push_back(
      {GuestNameSource::kFstab, "/etc/fstab", 1, "/dev/vda1 /", "/dev/vda1", "UUID=1", true});
  EXPECT_THAT(Blocked(Reason::kGuestNamesDisk), HasSubstr("while the guest runs"));
  EXPECT_THAT(Plan().fixes, IsEmpty());
}

TEST_F(OfflineTest, ReadOnlyWhenTheChangeDependsOnIt) {
  options_.rewrite.bus = xml::BusPolicy::kKeep;
  Facts().kernel = GuestKernelVersion{4, 19};
  const MigrateAction action = Plan();  // virtio-blk stays: what matters is the kernel's age
  ASSERT_THAT(action.blockers, SizeIs(1));
  EXPECT_EQ(action.blockers[0].reason, Reason::kGuestTooOld);
  world_.disks_read.clear();
  options_.assume = true;
  EXPECT_THAT(Plan().blockers, IsEmpty());
  EXPECT_THAT(world_.disks_read, IsEmpty());
  options_.assume = false;
  Domain().inactive_xml =
      DomainXml("web", kUuid, "pc-i440fx-6.0", {{"sda", "sata", "/images/a.raw", ""}}, "");
  EXPECT_THAT(Plan().changes, testing::Not(IsEmpty()));
  EXPECT_THAT(world_.disks_read, IsEmpty());
}

TEST_F(OfflineTest, WithoutTheProgram) {
  world_.has_offline_guest = false;
  EXPECT_EQ(Blocked(), "it is off: start it, or install virt-reclaim-guestfs");
}

TEST_F(OfflineTest, WhatTheProgramCannotTell) {
  Domain().offline = absl::FailedPreconditionError("its disks are encrypted");
  EXPECT_EQ(Blocked(), "it is off, and its disks are encrypted");
}

TEST_F(OfflineTest, StartedMeanwhile) {
  world_.while_reading = [&] { Domain().summary.state = DomainState::kRunning; };
  EXPECT_EQ(Blocked(), "it is off, and its state is 'running' by now");
}

TEST_F(OfflineTest, SavedCrashedOrBusyIsNotRead) {
  Domain().managed_save = true;
  EXPECT_THAT(Plan().blockers, SizeIs(2));
  EXPECT_THAT(world_.disks_read, IsEmpty());
  Domain().managed_save = false;
  Domain().summary.state = DomainState::kSuspended;  // its QEMU lives
  EXPECT_EQ(Blocked(), "the domain is not running");
  Domain().summary.state = DomainState::kShutOff;
  const auto lock = DomainLock::Take(world_.services().lock_directory, kUuid);
  EXPECT_EQ(Blocked(Reason::kBusy), "another virt-reclaim is working on this domain");
  EXPECT_THAT(world_.disks_read, IsEmpty());
}

TEST_F(OfflineTest, LockIsHeldWhileReading) {
  bool taken = true;
  world_.while_reading = [&] {
    taken = DomainLock::Take(world_.services().lock_directory, kUuid).ok();
  };
  EXPECT_THAT(Plan().blockers, IsEmpty());
  EXPECT_FALSE(taken);
}

TEST_F(OfflineTest, ASecondApplyWhileItsDisksAreReadIsBusy) {
  std::vector<MigratedDomain> second;
  world_.while_reading = [&] {
    if (!second.empty()) return;
    const auto plan = PlanMigrate(world_.services(), options_, {}).value();
    second = ApplyMigrate(world_.services(), options_, plan, {});
  };
  EXPECT_THAT(Plan().blockers, IsEmpty());
  ASSERT_THAT(second, SizeIs(1));
  ASSERT_THAT(second[0].outcome.reasons, SizeIs(1));
  EXPECT_EQ(second[0].outcome.reasons[0].reason, Reason::kBusy);
  EXPECT_EQ(ExitStatusOf(std::vector<Outcome>{second[0].outcome}), ExitStatus::kRefused);
  EXPECT_THAT(world_.calls, IsEmpty());
}

TEST_F(OfflineTest, DisksThatAreElsewhere) {
  std::string& xml = Domain().inactive_xml;
  const std::string before = xml;
  xml.insert(xml.find("</os>"), "<kernel>/boot/vmlinuz</kernel>");
  EXPECT_EQ(Blocked(), "it is off, and its kernel is a file of the host");
  xml = before;
  world_.images_are_local = false;
  EXPECT_EQ(Blocked(), "it is off, and its disks are on another machine");
  EXPECT_THAT(world_.disks_read, IsEmpty());
}

TEST_F(OfflineTest, StopEndsThePlan) {
  world_.while_reading = [&] { stop_.request_stop(); };
  const auto plan = PlanMigrate(world_.services(), options_, stop_.get_token());
  EXPECT_TRUE(absl::IsCancelled(plan.status())) << plan.status();
}

TEST_F(OfflineTest, ProgressIsToldBeforeTheDisksAreRead) {
  std::string told;
  options_.progress = [&](const DomainSummary& domain, absl::string_view step) {
    told = domain.name + ": " + std::string(step);
    EXPECT_THAT(world_.disks_read, IsEmpty());
  };
  Plan();
  EXPECT_EQ(told, "web: reading disks");
}

}  // namespace
}  // namespace virt_reclaim
