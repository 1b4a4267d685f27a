// migrate of a guest whose disks change their bus, in the fake world: it is asked once more before
// the power cycle, and what was prepared in it stays as long as a disk needs it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

#include "tests/unit/migration_fixture.h"

namespace virt_reclaim {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class MoveTest : public MigrationTest {
 protected:
  MoveTest() { options_.rewrite.bus = xml::BusPolicy::kVirtioScsi; }

  // A kernel came with an update, or it is as it was when it was planned.
  static void SetReady(FakeDomain& domain, bool is_ready) {
    domain.agent.preflight->kernels.at(0).virtio_scsi =
        is_ready ? GuestModuleState::kInInitramfs : GuestModuleState::kModuleOnly;
  }
  // Into the running domain alone.
  static void PlugIn(FakeDomain& domain) {
    domain.live_xml.insert(domain.live_xml.find("    <controller"),
                           "    <disk type='file' device='disk'><source file='/images/new.raw'/>"
                           "<target dev='vdb' bus='virtio'/></disk>\n");
  }
  // Its guest was fixed, and its disk is on another bus now.
  FakeDomain& AddFixed(FakeWorld& world) {
    FakeDomain& domain = Add(world);
    NameByPath(domain);
    options_.fix_guest = true;
    EXPECT_EQ(ApplyOne(world, options_).place->step, MigrationStep::kDone);
    return domain;
  }
  // Defined by a call that is over.
  FakeDomain& AddDefined(FakeWorld& world) {
    FakeDomain& domain = Add(world);
    options_.power_cycle = PowerCycle::kNever;
    EXPECT_EQ(ApplyOne(world, options_).place->step, MigrationStep::kDefined);
    options_.power_cycle = PowerCycle::kShutdown;
    return domain;
  }
  // By a call that dies before it asks the guest to go.
  FakeDomain& AddKilledBeforeItsShutdown(FakeWorld& world) {
    FakeDomain& domain = Add(world);
    options_.progress = [&world](const DomainSummary&, absl::string_view step) {
      if (step == "stopping") world.crash_in = 1;
    };
    EXPECT_THROW(ApplyOne(world, options_), FakeCrash);
    EXPECT_EQ(StepOf(world), MigrationStep::kStopping);
    options_.progress = {};
    return domain;
  }
};

TEST_F(MoveTest, AGuestWithAnotherKernelIsNotShutDown) {
  FakeWorld world;
  FakeDomain& domain = AddDefined(world);
  SetReady(domain, false);
  const MigrateAction action = Plan(world, options_).at(0);
  EXPECT_TRUE(action.goes_on);
  EXPECT_FALSE(HasWork(action));
  const MigratedDomain refused = ApplyOne(world, options_);
  EXPECT_EQ(refused.outcome.kind, OutcomeKind::kSkipped);
  EXPECT_THAT(
      refused.outcome.reasons,
      ElementsAre(Blocker{Reason::kInitramfsLacks, "virtio_scsi for kernel 6.1.0-32-amd64"}));
  EXPECT_THAT(world.calls, ElementsAre("define web0"));
  EXPECT_EQ(domain.summary.state, DomainState::kRunning);
  EXPECT_EQ(StepOf(world), MigrationStep::kDefined);
  SetReady(domain, true);
  EXPECT_EQ(ApplyOne(world, options_).place->step, MigrationStep::kDone);
}

// A plan waits for its answer, its window and the batches before it.
TEST_F(MoveTest, TheGuestIsAskedAfterThePlan) {
  for (const bool defined_before : {true, false}) {
    FakeWorld world;
    FakeDomain& domain = defined_before ? AddDefined(world) : Add(world);
    const auto plan = Plan(world, options_);
    ASSERT_TRUE(HasWork(plan.at(0)));
    SetReady(domain, false);
    const MigratedDomain migrated = ApplyMigrate(world.services(), options_, plan, {}).at(0);
    EXPECT_EQ(migrated.outcome.kind, OutcomeKind::kFailed);
    EXPECT_THAT(std::string(migrated.outcome.error.message()),
                HasSubstr("initramfs-lacks-driver (virtio_scsi for kernel 6.1.0-32-amd64)"));
    EXPECT_EQ(domain.summary.state, DomainState::kRunning);
    EXPECT_EQ(domain.live_xml, domain.first_xml);
    EXPECT_THAT(world.calls, testing::Not(testing::Contains("shutdown web0")));
    // What somebody has left to wait is theirs; what this call has made does not stay behind.
    EXPECT_EQ(migrated.place->step,
              defined_before ? MigrationStep::kDefined : MigrationStep::kRolledBack);
    EXPECT_EQ(domain.inactive_xml == domain.first_xml, !defined_before);
    EXPECT_EQ(migrated.needs_power_cycle, defined_before);
  }
}

TEST_F(MoveTest, WhatWasAboutToShutItDownAsksAgain) {
  for (const bool verify : {true, false}) {
    for (const bool answers : {true, false}) {
      FakeWorld world;
      FakeDomain& domain = AddKilledBeforeItsShutdown(world);
      SetReady(domain, false);
      if (!answers) domain.agent.connect = absl::UnavailableError("nobody there");
      const MigratedDomain migrated =
          verify ? VerifyMigrated(world.services(), options_, {}).value().at(0)
                 : ApplyOne(world, options_);
      EXPECT_EQ(migrated.outcome.kind, OutcomeKind::kFailed);
      EXPECT_THAT(std::string(migrated.outcome.error.message()),
                  HasSubstr(answers ? "initramfs-lacks-driver" : "guest-unknown"));
      EXPECT_EQ(migrated.place->step, MigrationStep::kDefined);
      EXPECT_THAT(world.calls, ElementsAre("define web0"));
      EXPECT_EQ(domain.summary.state, DomainState::kRunning);
    }
  }
}

// Its agent still answered: it is not started on the new bus.
TEST_F(MoveTest, OneThatWasGoingGoesBackToItsOldBus) {
  FakeWorld world;
  FakeDomain& domain = AddKilledBeforeItsShutdown(world);
  SetReady(domain, false);
  domain.agent.preflight->lvm_issue_discards = GuestSetting::kEnabled;  // then it is listed, too
  bool is_first = true;
  domain.agent.while_listing = [&] {
    if (std::exchange(is_first, false)) domain.summary.state = DomainState::kShutOff;
  };
  const MigratedDomain migrated = ApplyOne(world, options_);
  EXPECT_EQ(migrated.place->step, MigrationStep::kRolledBack) << migrated.outcome.error;
  EXPECT_EQ(migrated.outcome.kind, OutcomeKind::kFailed);
  EXPECT_THAT(world.calls, ElementsAre("define web0", "define web0", "start web0"));
  EXPECT_EQ(domain.live_xml, domain.first_xml);
  EXPECT_EQ(domain.summary.state, DomainState::kRunning);
}

// Rolled back to what waits since an earlier migration, the guest would still be on the new bus.
TEST_F(MoveTest, AMoveThatARollbackWouldNotUndoIsNotMade) {
  FakeWorld world;
  FakeDomain& domain = AddDefined(world);
  options_.rewrite.detect_zeroes = xml::DetectZeroesPolicy::kUnmap;
  options_.power_cycle = PowerCycle::kNever;
  ASSERT_EQ(ApplyOne(world, options_).place->step, MigrationStep::kDefined);
  options_.power_cycle = PowerCycle::kShutdown;
  const MigratedDomain migrated = ApplyOne(world, options_);
  ASSERT_THAT(migrated.outcome.reasons, testing::SizeIs(1));
  EXPECT_EQ(migrated.outcome.reasons[0].reason, Reason::kDefinitionPending);
  EXPECT_THAT(world.calls, ElementsAre("define web0", "define web0"));
  EXPECT_EQ(domain.live_xml, domain.first_xml);
}

TEST_F(MoveTest, ADiskThatOnlyTheRunningDomainHasIsNotLost) {
  for (const bool after_the_plan : {true, false}) {
    FakeWorld world;
    options_.rewrite.bus = xml::BusPolicy::kKeep;
    FakeDomain& domain = AddDefined(world);
    if (!after_the_plan) PlugIn(domain);
    const auto plan = Plan(world, options_);
    if (after_the_plan) PlugIn(domain);
    const MigratedDomain migrated = ApplyMigrate(world.services(), options_, plan, {}).at(0);
    EXPECT_THAT(world.calls, ElementsAre("define web0"));
    EXPECT_EQ(domain.summary.state, DomainState::kRunning);
    if (after_the_plan) {
      EXPECT_THAT(std::string(migrated.outcome.error.message()), HasSubstr("'/images/new.raw'"));
    } else {
      ASSERT_THAT(migrated.outcome.reasons, testing::SizeIs(1));
      EXPECT_EQ(migrated.outcome.reasons[0].reason, Reason::kDefinitionPending);
    }
    EXPECT_EQ(StepOf(world), MigrationStep::kDefined);
  }
}

TEST_F(MoveTest, ABackupThatBeganMeanwhileIsNotShutDown) {
  FakeWorld world;
  FakeDomain& domain = AddKilledBeforeItsShutdown(world);
  domain.activity = {{Reason::kJobActive, "backup"}};
  const MigratedDomain migrated = ApplyOne(world, options_);
  EXPECT_EQ(migrated.outcome.kind, OutcomeKind::kFailed);
  EXPECT_THAT(std::string(migrated.outcome.error.message()), HasSubstr("job-active (backup)"));
  EXPECT_EQ(migrated.place->step, MigrationStep::kDefined);
  EXPECT_THAT(world.calls, ElementsAre("define web0"));
  domain.activity.clear();
  EXPECT_EQ(ApplyOne(world, options_).place->step, MigrationStep::kDone);
}

TEST_F(MoveTest, ARollbackInterruptsNoBackupAndLosesNoDisk) {
  for (const bool backup : {true, false}) {
    FakeWorld world;
    FakeDomain& domain = Add(world);
    ASSERT_EQ(ApplyOne(world, options_).place->step, MigrationStep::kDone);
    const std::string moved = domain.live_xml;
    if (backup) {
      domain.activity = {{Reason::kJobActive, "backup"}};
    } else {
      PlugIn(domain);
    }
    world.calls.clear();
    const auto refused = RollBackMigrated(world.services(), options_, {}).value().at(0);
    EXPECT_EQ(refused.outcome.kind, OutcomeKind::kFailed);
    EXPECT_THAT(std::string(refused.outcome.error.message()),
                HasSubstr(backup ? "job-active" : "definition-pending"));
    EXPECT_THAT(world.calls, IsEmpty());
    EXPECT_EQ(refused.place->step, MigrationStep::kDone);
    domain.activity.clear();
    domain.live_xml = moved;
    EXPECT_EQ(RollBackMigrated(world.services(), options_, {}).value().at(0).place->step,
              MigrationStep::kRolledBack);
  }
}

// Weeks later: an initramfs that was made on the SCSI bus may have nothing else.
TEST_F(MoveTest, ARollbackToABusWithoutItsDriverDoesNotShutDown) {
  FakeWorld world;
  FakeDomain& domain = Add(world);
  ASSERT_EQ(ApplyOne(world, options_).place->step, MigrationStep::kDone);
  const std::string moved = domain.live_xml;
  world.calls.clear();
  GuestPreflight& guest = *domain.agent.preflight;
  const auto require_refusal = [&](const std::string& why) {
    const auto refused = RollBackMigrated(world.services(), options_, {}).value().at(0);
    EXPECT_EQ(refused.outcome.kind, OutcomeKind::kFailed);
    EXPECT_THAT(std::string(refused.outcome.error.message()), HasSubstr(why));
    EXPECT_EQ(refused.place->step, MigrationStep::kDone);
    EXPECT_THAT(world.calls, IsEmpty());
    EXPECT_EQ(domain.live_xml, moved);
  };
  guest.kernels.at(0).virtio_blk = GuestModuleState::kModuleOnly;
  require_refusal("initramfs-lacks-driver (virtio_blk for kernel 6.1.0-32-amd64)");
  guest.kernels.at(0).virtio_blk = GuestModuleState::kInInitramfs;
  guest.names.push_back({GuestNameSource::kFstab, "/etc/fstab", 3, "/dev/sdb1 /srv ext4",
                         "/dev/sdb1", "UUID=srv-uuid", true});
  require_refusal("guest-names-disk (/etc/fstab:3: /dev/sdb1)");
  guest.names.clear();
  EXPECT_EQ(RollBackMigrated(world.services(), options_, {}).value().at(0).place->step,
            MigrationStep::kRolledBack);
  EXPECT_EQ(domain.live_xml, domain.first_xml);
}

TEST_F(MoveTest, ARollbackOfADomainThatIsOffLooksIntoItsDisks) {
  FakeWorld world;
  FakeDomain& domain = Add(world);
  ASSERT_EQ(ApplyOne(world, options_).place->step, MigrationStep::kDone);
  domain.summary.state = DomainState::kShutOff;
  domain.offline = *domain.agent.preflight;
  domain.offline->kernels.at(0).virtio_blk = GuestModuleState::kModuleOnly;
  const std::string moved = domain.inactive_xml;
  const auto refused = RollBackMigrated(world.services(), options_, {}).value().at(0);
  EXPECT_EQ(refused.outcome.kind, OutcomeKind::kFailed);
  EXPECT_THAT(
      std::string(refused.outcome.error.message()),
      HasSubstr(
          "it would not boot: initramfs-lacks-driver (virtio_blk for kernel 6.1.0-32-amd64)"));
  EXPECT_EQ(domain.inactive_xml, moved);
  // What cannot be read has booted from there before.
  domain.offline = absl::FailedPreconditionError("encrypted");
  EXPECT_EQ(RollBackMigrated(world.services(), options_, {}).value().at(0).place->step,
            MigrationStep::kRolledBack);
  EXPECT_EQ(domain.inactive_xml, domain.first_xml);
}

// A guest that says nothing has booted from there before.
TEST_F(MoveTest, ARollbackNeedsNoAnswer) {
  FakeWorld world;
  FakeDomain& domain = Add(world);
  ASSERT_EQ(ApplyOne(world, options_).place->step, MigrationStep::kDone);
  domain.agent.preflight = absl::UnavailableError("gone");
  EXPECT_EQ(RollBackMigrated(world.services(), options_, {}).value().at(0).place->step,
            MigrationStep::kRolledBack);
}

// Whoever power-cycles it himself is told, and not to do so.
TEST_F(MoveTest, WithoutAPowerCycleItIsSaid) {
  FakeWorld world;
  FakeDomain& domain = AddDefined(world);
  options_.power_cycle = PowerCycle::kNever;
  EXPECT_THAT(Plan(world, options_).at(0).risks, IsEmpty());
  SetReady(domain, false);
  const MigrateAction action = Plan(world, options_).at(0);
  EXPECT_TRUE(action.power_cycle_pending);
  EXPECT_THAT(action.blockers, IsEmpty());
  ASSERT_THAT(action.risks, testing::SizeIs(1));
  EXPECT_EQ(action.risks[0].reason, Reason::kInitramfsLacks);
  const MigratedDomain migrated = ApplyOne(world, options_);
  EXPECT_EQ(migrated.outcome.kind, OutcomeKind::kDone);
  EXPECT_EQ(migrated.outcome.reasons, action.risks);
  // On its new bus there is nothing more to say.
  domain.live_xml = domain.inactive_xml;
  EXPECT_THAT(Plan(world, options_).at(0).risks, IsEmpty());
}

// The agent undoes all that it has ever prepared.
TEST_F(MoveTest, APreparationInVainIsNotUndoneUnderAMovedDisk) {
  FakeWorld world;
  FakeDomain& domain = AddFixed(world);
  // Another disk, and a name of it that the agent does not mend after all.
  for (std::string* xml : {&domain.inactive_xml, &domain.live_xml}) {
    xml->insert(xml->find("    <controller"),
                "    <disk type='file' device='disk'><driver name='qemu' type='raw'/>"
                "<source file='/images/2.raw'/><target dev='vdb' bus='virtio'/></disk>\n");
  }
  auto& names = domain.agent.preflight->names;
  names.push_back({GuestNameSource::kFstab, "/etc/fstab", 2, "/dev/vdb /srv ext4", "/dev/vdb",
                   "UUID=srv-uuid", true});
  std::vector<GuestFixAction> asked;
  domain.agent.fix = [&asked](GuestFixAction action) -> absl::StatusOr<GuestFix> {
    asked.push_back(action);
    GuestFix fix;
    fix.result = GuestFixResult::kNothingToDo;
    return fix;
  };
  const MigratedDomain migrated = ApplyOne(world, options_);
  EXPECT_EQ(migrated.outcome.kind, OutcomeKind::kFailed);
  EXPECT_THAT(std::string(migrated.outcome.error.message()), HasSubstr("it was not put back"));
  EXPECT_THAT(asked, ElementsAre(GuestFixAction::kApply));
  EXPECT_EQ(migrated.place->step, MigrationStep::kFixing);
}

TEST_F(MoveTest, WhatAMovedDiskNeedsIsNotPutBack) {
  FakeWorld world;
  FakeDomain& domain = AddFixed(world);
  const std::string moved = domain.inactive_xml;
  options_.rewrite.detect_zeroes = xml::DetectZeroesPolicy::kUnmap;
  ASSERT_EQ(ApplyOne(world, options_).place->step, MigrationStep::kDone);
  const MigratedDomain rolled = RollBackMigrated(world.services(), options_, {}).value().at(0);
  EXPECT_EQ(rolled.place->step, MigrationStep::kRolledBack);
  EXPECT_EQ(rolled.outcome.kind, OutcomeKind::kFailed);
  EXPECT_THAT(std::string(rolled.outcome.error.message()), HasSubstr("still on the SCSI bus"));
  EXPECT_EQ(domain.live_xml, moved);
  EXPECT_THAT(domain.agent.preflight->names, IsEmpty());
}

}  // namespace
}  // namespace virt_reclaim
