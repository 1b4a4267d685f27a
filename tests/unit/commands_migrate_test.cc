#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "base/io.h"
#include "host/commands/migrate.h"
#include "host/services/domain_lock.h"
#include "tests/fakes/fake_world.h"

namespace virt_reclaim {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class MigrateTest : public testing::Test {
 protected:
  FakeDomain& AddOldDomain(DomainState state = DomainState::kShutOff) {
    return world_.AddDomain(DomainXml("web", kUuid, "pc-i440fx-3.1",
                                      {{"vda", "virtio", "/images/a.raw", ""}}, "connected"),
                            state);
  }
  std::vector<MigrateAction> Plan() { return PlanMigrate(world_.services(), options_, {}).value(); }
  std::vector<MigratedDomain> Apply(const std::vector<MigrateAction>& plan) {
    return ApplyMigrate(world_.services(), options_, plan, {});
  }
  const std::string& InactiveXml() { return world_.domains[kUuid].inactive_xml; }
  // By path: all that is kept of migrations.
  std::map<std::string, std::string> Kept() {
    std::map<std::string, std::string> files;
    const std::filesystem::path state = world_.services().state_directory;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(state)) {
      if (entry.is_regular_file())
        files[entry.path().string()] = ReadFile(entry.path().string(), 1 << 20).value();
    }
    return files;
  }
  static void ExpectBusy(const std::vector<MigratedDomain>& migrated) {
    ASSERT_EQ(migrated.size(), 1u);
    const Outcome& outcome = migrated[0].outcome;
    EXPECT_EQ(ExitStatusOf(std::vector<Outcome>{outcome}), ExitStatus::kRefused);
    EXPECT_THAT(
        outcome.reasons,
        ElementsAre(Blocker{Reason::kBusy, "another virt-reclaim is working on this domain"}));
    EXPECT_THAT(migrated[0].changes, IsEmpty());
  }

  MigrateTest() {
    options_.assume = true;  // the domains are off
    options_.parallel = 1;   // the fake world has no locks
  }

  FakeWorld world_;
  MigrateOptions options_;
};

TEST_F(MigrateTest, PlanChangesNothing) {
  AddOldDomain();
  const auto plan = Plan();
  ASSERT_EQ(plan.size(), 1u);
  EXPECT_EQ(plan[0].changes.size(), 2u);  // discard and machine
  EXPECT_THAT(plan[0].after, HasSubstr("discard='unmap'"));
  EXPECT_THAT(plan[0].after, HasSubstr("pc-i440fx-4.0"));
  EXPECT_THAT(world_.calls, IsEmpty());
}

TEST_F(MigrateTest, ADiskThatIsNotThereIsAMistake) {
  AddOldDomain();
  options_.rewrite.targets = {"vdz"};
  const auto plan = Plan();
  ASSERT_EQ(plan.size(), 1u);
  EXPECT_EQ(plan[0].error.message(), "domain 'web' has no disk 'vdz'");
  EXPECT_THAT(plan[0].blockers, IsEmpty());
}

TEST_F(MigrateTest, ApplyKeepsTheOldXmlAndASecondPlanFindsNothing) {
  AddOldDomain();
  const std::string before = InactiveXml();
  const auto migrated = Apply(Plan());
  EXPECT_EQ(migrated[0].outcome.kind, OutcomeKind::kDone);
  EXPECT_FALSE(migrated[0].needs_power_cycle);
  EXPECT_EQ(ReadFile(migrated[0].backup, 1 << 20).value(), before);
  struct stat st;
  ASSERT_EQ(stat(migrated[0].backup.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777u, 0600u);
  EXPECT_THAT(world_.calls, ElementsAre("define web"));
  EXPECT_THAT(Plan()[0].changes, IsEmpty());
  EXPECT_THAT(Apply(Plan())[0].changes, IsEmpty());
  EXPECT_THAT(world_.calls, ElementsAre("define web"));
}

TEST_F(MigrateTest, RunningDomainWaitsForAPowerCycle) {
  AddOldDomain(DomainState::kRunning);
  EXPECT_TRUE(Apply(Plan())[0].needs_power_cycle);
  EXPECT_TRUE(Plan()[0].power_cycle_pending);
  world_.domains[kUuid].live_xml = InactiveXml();  // the power cycle
  EXPECT_FALSE(Plan()[0].power_cycle_pending);
}

TEST_F(MigrateTest, ChangedSinceThePlanIsRefused) {
  AddOldDomain();
  const auto plan = Plan();
  world_.domains[kUuid].inactive_xml.replace(InactiveXml().find("3.1"), 3, "2.9");
  const auto migrated = Apply(plan);
  EXPECT_EQ(migrated[0].outcome.kind, OutcomeKind::kFailed);
  EXPECT_THAT(std::string(migrated[0].outcome.error.message()),
              HasSubstr("changed since it was planned"));
  EXPECT_THAT(world_.calls, IsEmpty());
}

TEST_F(MigrateTest, LibvirtStoringSomethingElseIsRolledBack) {
  AddOldDomain();
  const std::string before = InactiveXml();
  world_.stored_xml = before;  // libvirt drops the change
  const auto migrated = Apply(Plan());
  EXPECT_EQ(migrated[0].outcome.kind, OutcomeKind::kFailed);
  EXPECT_THAT(std::string(migrated[0].outcome.error.message()),
              HasSubstr("(os/type/@machine); the old definition was put back"));
  EXPECT_EQ(InactiveXml(), before);
  EXPECT_THAT(world_.calls, ElementsAre("define web"));  // it is the old one already
  world_.stored_xml = before;
  world_.stored_xml.replace(before.find("/images/a.raw"), 13, "/images/b.raw");
  EXPECT_EQ(Apply(Plan())[0].outcome.kind, OutcomeKind::kFailed);
  EXPECT_EQ(InactiveXml(), before);
  EXPECT_THAT(world_.calls, ElementsAre("define web", "define web", "define web"));
}

TEST_F(MigrateTest, DefineThatFailsLeavesTheDomainAlone) {
  AddOldDomain();
  const std::string before = InactiveXml();
  world_.define = absl::InvalidArgumentError("define: unsupported machine type");
  EXPECT_EQ(Apply(Plan())[0].outcome.kind, OutcomeKind::kFailed);
  EXPECT_EQ(InactiveXml(), before);
}

TEST_F(MigrateTest, ManagedSaveTransientAndManagersRefuse) {
  AddOldDomain().managed_save = true;
  EXPECT_EQ(Plan()[0].blockers[0].reason, Reason::kManagedSave);
  EXPECT_EQ(Apply(Plan())[0].outcome.kind, OutcomeKind::kSkipped);
  world_.domains[kUuid].managed_save = false;
  world_.domains[kUuid].summary.persistent = false;
  EXPECT_EQ(Plan()[0].blockers[0].reason, Reason::kTransient);
  world_.domains[kUuid].summary.persistent = true;
  std::string& xml = world_.domains[kUuid].inactive_xml;
  xml.insert(xml.find("  <os>"),
             "  <metadata><o:vm xmlns:o='http://ovirt.org/vm/1.0'/></metadata>\n");
  ASSERT_FALSE(Plan()[0].blockers.empty());
  EXPECT_EQ(Plan()[0].blockers[0].reason, Reason::kManaged);
  EXPECT_THAT(world_.calls, IsEmpty());
}

// The guest is asked what it discards when the clusters are large.
TEST_F(MigrateTest, LargeClustersAreNotSaidToAGuestThatDiscardsAsMuch) {
  FakeDomain& domain = AddOldDomain(DomainState::kRunning);
  world_.AddImage("/images/a.raw", 1 << 30, 1 << 20);
  world_.granularity = 2 << 20;
  const auto said = [&] {
    const auto risks = Plan()[0].risks;
    return std::any_of(risks.begin(), risks.end(),
                       [](const Blocker& risk) { return risk.reason == Reason::kLargeClusters; });
  };
  GuestFilesystem filesystem = FilesystemOn("vda", 5, "/", 1 << 30, 1 << 20);
  filesystem.devices[0].discard_granularity = 512;
  domain.agent.facts.filesystems = {filesystem};
  EXPECT_TRUE(said());
  domain.agent.facts.filesystems[0].devices[0].discard_granularity = 2 << 20;
  EXPECT_FALSE(said());
  // Another disk is under that name when it starts the next time.
  const std::string live = domain.live_xml;
  domain.live_xml.replace(live.find("/images/a.raw"), 13, "/images/b.raw");
  EXPECT_TRUE(said());
  domain.live_xml = live;
  // On another bus it discards in other units.
  options_.rewrite.bus = xml::BusPolicy::kVirtioScsi;
  EXPECT_TRUE(said());
  options_.rewrite.bus = xml::BusPolicy::kKeep;
  EXPECT_FALSE(said());
  domain.agent.list = absl::UnavailableError("gone");
  EXPECT_TRUE(said());
  domain.agent.list = absl::OkStatus();
  domain.agent.connect = absl::UnavailableError("nobody");
  EXPECT_TRUE(said());
}

TEST_F(MigrateTest, IssueDiscardsIsSaidToAGuestWithVolumes) {
  FakeDomain& domain = AddOldDomain(DomainState::kRunning);
  domain.agent.facts.filesystems = {FilesystemOn("vda", 5, "/", 1 << 30, 1 << 20)};
  const auto said = [&] {
    const auto risks = Plan()[0].risks;
    return std::any_of(risks.begin(), risks.end(), [](const Blocker& risk) {
      return risk.reason == Reason::kLvmIssueDiscards;
    });
  };
  domain.agent.preflight->lvm_issue_discards = GuestSetting::kEnabled;
  EXPECT_FALSE(said());
  GuestDevice volume;
  volume.name = "dm-0";
  volume.kind = GuestDeviceKind::kLvm;
  domain.agent.facts.filesystems[0].devices.push_back(volume);
  EXPECT_TRUE(said());
  EXPECT_THAT(Plan()[0].blockers, IsEmpty());
  domain.agent.preflight->lvm_issue_discards = GuestSetting::kUnknown;
  EXPECT_FALSE(said());
}

TEST_F(MigrateTest, WhatElseWaitsForAPowerCycleIsARisk) {
  FakeDomain& domain = AddOldDomain(DomainState::kRunning);
  options_.power_cycle = PowerCycle::kShutdown;
  domain.inactive_xml.insert(domain.inactive_xml.find("  <os>"), "  <memory>2048</memory>\n");
  domain.live_xml.insert(domain.live_xml.find("  <os>"), "  <memory>2048</memory>\n");
  EXPECT_THAT(Plan()[0].risks, IsEmpty());
  domain.inactive_xml.replace(domain.inactive_xml.find(">2048<"), 6, ">9048<");
  EXPECT_THAT(Plan()[0].risks, ElementsAre(Blocker{Reason::kDefinitionPending, "memory"}));
  EXPECT_THAT(Plan()[0].blockers, IsEmpty());
}

TEST_F(MigrateTest, StopIsHonouredBetweenDomains) {
  AddOldDomain();
  const auto plan = Plan();
  std::stop_source stop;
  stop.request_stop();
  const auto migrated = ApplyMigrate(world_.services(), options_, plan, stop.get_token());
  EXPECT_EQ(migrated[0].outcome.kind, OutcomeKind::kCancelled);
  EXPECT_THAT(world_.calls, IsEmpty());
}

TEST_F(MigrateTest, ASecondRunMeanwhileIsBusyAndChangesNothing) {
  AddOldDomain();
  const auto planned = Plan();
  int seconds = 0;
  world_.while_defining = [&] {
    if (++seconds > 1) return;
    const std::string definition = InactiveXml();
    const auto kept = Kept();
    EXPECT_FALSE(kept.empty());
    ExpectBusy(Apply(planned));
    ExpectBusy(Apply(Plan()));
    ExpectBusy(RollBackMigrated(world_.services(), options_, {}).value());
    ExpectBusy(VerifyMigrated(world_.services(), options_, {}).value());
    EXPECT_EQ(InactiveXml(), definition);
    EXPECT_EQ(Kept(), kept);
  };
  const auto first = Apply(planned);
  EXPECT_EQ(first[0].outcome.kind, OutcomeKind::kDone) << first[0].outcome.error;
  EXPECT_EQ(seconds, 1);
  EXPECT_THAT(world_.calls, ElementsAre("define web"));
}

TEST_F(MigrateTest, ASecondRunMeanwhileServesTheOthersOnce) {
  AddOldDomain();
  world_.AddDomain(
      DomainXml("web2", kUuid2, "pc-i440fx-3.1", {{"vda", "virtio", "/images/b.raw", ""}}, ""),
      DomainState::kShutOff);
  std::vector<MigratedDomain> second;
  world_.while_defining = [&] {
    if (second.empty()) second = Apply(Plan());
  };
  const auto first = Apply(Plan());
  ASSERT_EQ(second.size(), 2u);
  ExpectBusy({second[0]});
  EXPECT_EQ(second[1].outcome.kind, OutcomeKind::kDone);
  EXPECT_EQ(first[0].outcome.kind, OutcomeKind::kDone);
  // It was as planned no more, and is left as the other has left it.
  EXPECT_THAT(std::string(first[1].outcome.error.message()), HasSubstr("changed since"));
  EXPECT_THAT(world_.calls, ElementsAre("define web", "define web2"));
}

// Whoever means all domains means this one, too, also while it is only being looked at.
TEST_F(MigrateTest, AGuestThatAnotherRunHasIsBusyAndNotUnknown) {
  FakeDomain& domain = AddOldDomain(DomainState::kRunning);
  options_.assume = false;
  EXPECT_THAT(Plan()[0].blockers, IsEmpty());
  const auto lock = DomainLock::Take(world_.services().lock_directory, kUuid);
  const auto plan = Plan();
  EXPECT_FALSE(plan[0].asked_for);
  ExpectBusy(Apply(plan));
  EXPECT_EQ(domain.inactive_xml, domain.first_xml);
  EXPECT_THAT(world_.calls, IsEmpty());
}

TEST_F(MigrateTest, ADefinitionThatIsMadeWasNotInterrupted) {
  AddOldDomain();
  std::stop_source stop;
  world_.while_defining = [&] { stop.request_stop(); };
  const auto migrated = ApplyMigrate(world_.services(), options_, Plan(), stop.get_token());
  EXPECT_EQ(migrated[0].outcome.kind, OutcomeKind::kDone) << migrated[0].outcome.error;
  EXPECT_EQ(migrated[0].place->step, MigrationStep::kDefined);
  EXPECT_NE(world_.domains[kUuid].inactive_xml.find("unmap"), std::string::npos);
  EXPECT_THAT(migrated[0].changes, testing::Not(IsEmpty()));
}

}  // namespace
}  // namespace virt_reclaim
