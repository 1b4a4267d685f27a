// migrate beside other people, in the fake world: who changes a definition or power-cycles a domain
// between its steps, and agents that fall silent.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/migration_fixture.h"

namespace virt_reclaim {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Defined first, power-cycled by somebody later, and then verified.
TEST_F(MigrationTest, VerifyKnowsWhatTheGuestWasLikeWhenItWasDefined) {
  for (const bool has_agent : {true, false}) {
    FakeWorld world;
    FakeDomain& domain = Add(world);
    options_.power_cycle = PowerCycle::kNever;
    options_.domains = {"web0"};
    options_.assume = true;
    if (!has_agent) domain.agent.connect = absl::UnavailableError("nobody there");
    ASSERT_EQ(ApplyOne(world, options_).place->step, MigrationStep::kDefined);
    domain.live_xml = domain.inactive_xml;
    auto verified = VerifyMigrated(world.services(), options_, {}).value();
    if (has_agent) {
      EXPECT_EQ(verified.at(0).outcome.kind, OutcomeKind::kDone) << verified[0].outcome.error;
      domain.agent.connect = absl::UnavailableError("nobody there");
      verified = VerifyMigrated(world.services(), options_, {}).value();
      EXPECT_EQ(verified.at(0).outcome.kind, OutcomeKind::kFailed);
    } else {
      EXPECT_EQ(verified.at(0).outcome.kind, OutcomeKind::kSkipped);
      EXPECT_EQ(verified[0].outcome.reasons.at(0).reason, Reason::kNotVerified);
      EXPECT_EQ(ExitStatusOf(std::vector<Outcome>{verified[0].outcome}), ExitStatus::kRefused);
    }
  }
}

// A subvolume of the root's own filesystem is missed like any other; a bind mount is not.
TEST_F(MigrationTest, ASubvolumeThatIsGoneAfterThePowerCycle) {
  for (const bool is_known : {true, false}) {
    for (const bool is_there : {true, false}) {
      FakeWorld world;
      FakeDomain& domain = Add(world);
      GuestFilesystem& root = domain.agent.facts.filesystems.at(0);
      root.type = "btrfs";
      root.mount_points = {"/", "/var/www", "/home", "/export/home"};
      if (is_known) root.mount_roots = {"/@", "", "/@home", "/@home"};
      domain.boots_from = root;
      domain.boots_from->mount_points = {"/"};
      if (is_there) domain.boots_from->mount_points.push_back("/home");
      domain.boots_from->mount_roots.clear();
      const MigratedDomain migrated = ApplyOne(world, options_);
      const bool is_missed = is_known && !is_there;  // an older agent does not tell
      EXPECT_EQ(migrated.place->step, is_missed ? MigrationStep::kRolledBack : MigrationStep::kDone)
          << migrated.outcome.error;
      EXPECT_THAT(std::string(migrated.outcome.error.message()),
                  HasSubstr(is_missed ? "'/home'" : ""));
    }
  }
}

TEST_F(MigrationTest, RollBackRefusesToUndoSomebodyElsesChange) {
  FakeWorld world;
  FakeDomain& domain = Add(world);
  ApplyOne(world, options_);
  domain.inactive_xml.insert(domain.inactive_xml.find("<os>"), "<memory>1</memory>");
  const std::string theirs = domain.inactive_xml;
  const auto rolled = RollBackMigrated(world.services(), options_, {}).value();
  EXPECT_EQ(rolled.at(0).outcome.kind, OutcomeKind::kFailed);
  EXPECT_THAT(std::string(rolled[0].outcome.error.message()), HasSubstr("changed after"));
  EXPECT_EQ(domain.inactive_xml, theirs);
}

// Not only when it is asked for by hand: a change of somebody else's outlives every way back.
TEST_F(MigrationTest, NothingIsPutBackOverSomebodyElsesChange) {
  for (const std::string at : {"defined", "verifying", "rolling-back"}) {
    FakeWorld world;
    FakeDomain& domain = Add(world);
    domain.cannot_boot_with = "unmap";
    std::string theirs;
    options_.progress = [&](const DomainSummary&, absl::string_view step) {
      if (step != at) return;
      domain.inactive_xml.insert(domain.inactive_xml.find("<os>"), "<memory>1</memory>");
      theirs = domain.inactive_xml;
    };
    const MigratedDomain migrated = ApplyOne(world, options_);
    EXPECT_EQ(migrated.outcome.kind, OutcomeKind::kFailed) << at;
    EXPECT_THAT(std::string(migrated.outcome.error.message()), HasSubstr("was changed after"))
        << at;
    EXPECT_EQ(Name(migrated.place->step), at);
    EXPECT_EQ(domain.inactive_xml, theirs) << at;
    EXPECT_THAT(world.calls, testing::Not(testing::Contains("power off web0"))) << at;
    if (at == "defined") {
      EXPECT_THAT(world.calls, ElementsAre("define web0"));
    }
    // The way out that it names: the old definition, and then the end.
    if (at != "rolling-back") continue;
    domain.inactive_xml = domain.first_xml;
    EXPECT_EQ(RollBackMigrated(world.services(), options_, {}).value().at(0).place->step,
              MigrationStep::kRolledBack);
  }
}

TEST_F(MigrationTest, WhatLibvirtStoredInsteadIsNotUndoneOverSomebodyElsesChange) {
  FakeWorld world;
  FakeDomain& domain = Add(world);
  world.stored_xml = domain.first_xml;
  world.stored_xml.replace(world.stored_xml.find("web0"), 4, "web9");
  std::string theirs;
  options_.progress = [&](const DomainSummary&, absl::string_view step) {
    if (step != "undoing") return;
    domain.inactive_xml.insert(domain.inactive_xml.find("<os>"), "<memory>1</memory>");
    theirs = domain.inactive_xml;
  };
  EXPECT_EQ(ApplyOne(world, options_).place->step, MigrationStep::kUndoing);
  EXPECT_EQ(domain.inactive_xml, theirs);
}

// The agent told what is mounted when it was defined, and is silent when it is to be shut down.
TEST_F(MigrationTest, WhatAnAgentHasSaidCountsWhenItIsSilentLater) {
  FakeWorld world;
  FakeDomain& domain = Add(world);
  options_.power_cycle = PowerCycle::kNever;
  ASSERT_EQ(ApplyOne(world, options_).place->mounts.size(), 1u);
  domain.agent.list = absl::UnavailableError("busy");
  options_.power_cycle = PowerCycle::kShutdown;
  const MigratedDomain migrated = ApplyOne(world, options_);
  EXPECT_EQ(migrated.outcome.kind, OutcomeKind::kFailed);
  EXPECT_THAT(std::string(migrated.outcome.error.message()), HasSubstr("did not come back"));
  EXPECT_EQ(migrated.place->step, MigrationStep::kRolledBack);
}

// Whether its guest finds its disks on another bus only its agent can say.
TEST_F(MigrationTest, DisksAreNotMovedUnderASilentAgent) {
  FakeWorld world;
  FakeDomain& domain = Add(world);
  options_.rewrite.bus = xml::BusPolicy::kVirtioScsi;
  options_.power_cycle = PowerCycle::kNever;
  ASSERT_EQ(ApplyOne(world, options_).place->step, MigrationStep::kDefined);
  options_.power_cycle = PowerCycle::kShutdown;
  const auto plan = Plan(world, options_);
  domain.agent.connect = absl::UnavailableError("nobody there");
  const MigratedDomain refused = ApplyOne(world, options_);
  EXPECT_EQ(refused.outcome.kind, OutcomeKind::kSkipped);
  ASSERT_EQ(refused.outcome.reasons.size(), 1u);
  EXPECT_EQ(refused.outcome.reasons[0].reason, Reason::kGuestUnknown);
  // Silent since it was planned.
  const MigratedDomain migrated = ApplyMigrate(world.services(), options_, plan, {}).at(0);
  EXPECT_EQ(migrated.outcome.kind, OutcomeKind::kFailed);
  EXPECT_THAT(std::string(migrated.outcome.error.message()), HasSubstr("no agent answers"));
  EXPECT_EQ(migrated.place->step, MigrationStep::kDefined);
  EXPECT_THAT(world.calls, ElementsAre("define web0"));
  domain.agent.connect = absl::OkStatus();
  EXPECT_EQ(ApplyOne(world, options_).place->step, MigrationStep::kDone);
}

// Power-cycled by somebody else: looked at where it runs, not stopped once more.
TEST_F(MigrationTest, AGuestThatRunsItsNewDefinitionAlreadyIsOnlyVerified) {
  for (const bool apply : {true, false}) {
    for (const bool is_well : {true, false}) {
      FakeWorld world;
      FakeDomain& domain = Add(world);
      options_.domains = {"web0"};
      options_.power_cycle = PowerCycle::kNever;
      ASSERT_EQ(ApplyOne(world, options_).place->step, MigrationStep::kDefined);
      domain.live_xml = domain.inactive_xml;
      if (!is_well) domain.agent.facts.filesystems.clear();
      if (apply) options_.power_cycle = PowerCycle::kShutdown;
      const MigratedDomain migrated =
          apply ? ApplyOne(world, options_)
                : VerifyMigrated(world.services(), options_, {}).value().at(0);
      EXPECT_THAT(world.calls, ElementsAre("define web0"));
      EXPECT_EQ(migrated.outcome.kind, is_well ? OutcomeKind::kDone : OutcomeKind::kFailed);
      EXPECT_EQ(migrated.place->step, is_well ? MigrationStep::kDone : MigrationStep::kDefined);
      EXPECT_FALSE(migrated.needs_power_cycle);
    }
  }
}

// A guest that could not be prepared is as it was, and what was migrated before can be rolled back.
TEST_F(MigrationTest, AGuestThatCannotBePreparedHidesNoEarlierMigration) {
  FakeWorld world;
  FakeDomain& domain = Add(world);
  ASSERT_EQ(ApplyOne(world, options_).place->step, MigrationStep::kDone);
  NameByPath(domain);
  domain.agent.fix = [](GuestFixAction) {
    return absl::FailedPreconditionError("an earlier fix is in place");
  };
  options_.rewrite.bus = xml::BusPolicy::kVirtioScsi;
  options_.fix_guest = true;
  const MigratedDomain migrated = ApplyOne(world, options_);
  EXPECT_EQ(migrated.outcome.kind, OutcomeKind::kFailed);
  EXPECT_THAT(std::string(migrated.outcome.error.message()), HasSubstr("an earlier fix"));
  EXPECT_EQ(StepOf(world), MigrationStep::kDone);
  options_.fix_guest = false;
  EXPECT_EQ(RollBackMigrated(world.services(), options_, {}).value().at(0).place->step,
            MigrationStep::kRolledBack);
  EXPECT_EQ(domain.live_xml, domain.first_xml);
}

// It lost its power between two changes of its files, and its agent does not go on with half a fix.
TEST_F(MigrationTest, AGuestThatIsHalfPreparedIsPutBackFirst) {
  for (const bool roll_back : {true, false}) {
    FakeWorld world;
    FakeDomain& domain = Add(world);
    NameByPath(domain);
    const auto whole = domain.agent.fix;
    bool is_half = false;
    domain.agent.fix = [&](GuestFixAction action) -> absl::StatusOr<GuestFix> {
      if (action == GuestFixAction::kUndo) {
        is_half = false;
        return whole(action);
      }
      if (is_half) return absl::FailedPreconditionError("undo that one first");
      is_half = true;
      return absl::UnavailableError("the guest is gone");
    };
    options_.rewrite.bus = xml::BusPolicy::kVirtioScsi;
    options_.fix_guest = true;
    MigratedDomain migrated = ApplyOne(world, options_);
    EXPECT_EQ(migrated.outcome.kind, OutcomeKind::kFailed);
    EXPECT_EQ(StepOf(world), MigrationStep::kFixing);
    EXPECT_TRUE(is_half);
    if (roll_back) {
      migrated = RollBackMigrated(world.services(), options_, {}).value().at(0);
      EXPECT_EQ(migrated.outcome.kind, OutcomeKind::kDone) << migrated.outcome.error;
    } else {
      migrated = ApplyOne(world, options_);
      EXPECT_THAT(std::string(migrated.outcome.error.message()), HasSubstr("apply once more"));
    }
    EXPECT_EQ(migrated.place->step, MigrationStep::kUndone);
    EXPECT_FALSE(is_half);
    EXPECT_EQ(domain.inactive_xml, domain.first_xml);
    domain.agent.fix = whole;
    EXPECT_EQ(ApplyOne(world, options_).place->step, MigrationStep::kDone);
  }
}

TEST_F(MigrationTest, StatusKnowsWhatWasUndefinedInTheMiddle) {
  for (const bool over : {true, false}) {
    FakeWorld world;
    FakeDomain& domain = Add(world);
    domain.cannot_boot_with = over ? "" : "unmap";
    options_.progress = [&](const DomainSummary&, absl::string_view step) {
      if (!over && step == "verifying") domain.inactive_xml += " ";
    };
    ASSERT_EQ(ApplyOne(world, options_).place->step,
              over ? MigrationStep::kDone : MigrationStep::kVerifying);
    world.domains.clear();
    const auto all = MigrationStatus(world.services(), {}).value();
    ASSERT_EQ(all.size(), over ? 0u : 1u);
    if (over) continue;
    EXPECT_EQ(all[0].domain.name, "web0");
    EXPECT_EQ(all[0].outcome.kind, OutcomeKind::kFailed);
    EXPECT_THAT(std::string(all[0].outcome.error.message()), HasSubstr("/old.xml"));
    EXPECT_EQ(all[0].place->step, MigrationStep::kVerifying);
    EXPECT_EQ(ExitStatusOf(std::vector<Outcome>{all[0].outcome}), ExitStatus::kError);
  }
}

}  // namespace
}  // namespace virt_reclaim
