// migrate with power cycles and rollbacks, in the fake world: whatever happens, no domain is lost,
// and its XML is the old one or the new one. Kills:
// commands_migration_killed_test.cc; what others do meanwhile: commands_migration_others_test.cc.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/commands/migrate.h"
#include "host/services/storage_lock.h"
#include "tests/unit/migration_fixture.h"

namespace virt_reclaim {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST_F(MigrationTest, PowerCycleAndVerify) {
  FakeWorld world;
  FakeDomain& domain = Add(world);
  const MigratedDomain migrated = ApplyOne(world, options_);
  EXPECT_EQ(migrated.outcome.kind, OutcomeKind::kDone) << migrated.outcome.error;
  EXPECT_EQ(migrated.place->step, MigrationStep::kDone);
  EXPECT_THAT(world.calls, ElementsAre("define web0", "shutdown web0", "start web0"));
  EXPECT_TRUE(IsNew(domain));
  EXPECT_EQ(domain.live_xml, domain.inactive_xml);
  EXPECT_THAT(ApplyOne(world, options_).changes, IsEmpty());
  EXPECT_THAT(world.calls, testing::SizeIs(3));
}

TEST_F(MigrationTest, WhatASlowGuestHasMountedIsStillLookedFor) {
  FakeWorld world;
  Add(world).agent.listing_takes = kListingTimeout;
  const MigratedDomain migrated = ApplyOne(world, options_);
  EXPECT_EQ(migrated.place->step, MigrationStep::kDone) << migrated.outcome.error;
  EXPECT_EQ(migrated.place->mounts.size(), 1u);
}

TEST_F(MigrationTest, DiscardsAreProvedAfterThePowerCycle) {
  for (const bool reaches : {true, false}) {
    FakeWorld world;
    FakeDomain& domain = Add(world);
    world.AddImage("/images/0.raw", 1 << 30, 100 << 20);
    domain.agent.image_of["/"] = "/images/0.raw";
    domain.agent.marker_comes_back = reaches;
    const MigratedDomain migrated = ApplyOne(world, options_);
    // Not proved is no reason to roll a healthy guest back.
    EXPECT_EQ(migrated.place->step, MigrationStep::kDone);
    ASSERT_EQ(migrated.probed.size(), 1u);
    EXPECT_EQ(migrated.probed[0].reaches, reaches) << migrated.probed[0].detail;
    EXPECT_EQ(ExitStatusOf(std::vector<Outcome>{migrated.outcome}),
              reaches ? ExitStatus::kDone : ExitStatus::kNothingFreed);
    // What does not come back is measured twice: a marker of 16 MiB, and one of 64 MiB.
    EXPECT_EQ(world.images["/images/0.raw"].allocation.value(), reaches ? 100u << 20 : 180u << 20);
  }
}

// Its image on the storage that locks are taken of.
FakeDomain& Proved(FakeWorld& world, FakeDomain& domain) {
  world.AddImage("/images/0.raw", 1 << 30, 100 << 20);
  domain.agent.image_of["/"] = "/images/0.raw";
  return domain;
}

TEST_F(MigrationTest, NoTrimOfOthersBesideTheProof) {
  FakeWorld world;
  size_t discards = 0;
  Proved(world, Add(world)).agent.while_discarding = [&] {
    ++discards;
    StorageLock other(world.services().lock_directory, {"1"}, 16);
    EXPECT_FALSE(other.Take().value());
  };
  EXPECT_EQ(ApplyOne(world, options_).probed.at(0).reaches, true);
  EXPECT_GE(discards, 1u);
  const size_t applied = discards;
  EXPECT_EQ(VerifyMigrated(world.services(), options_, {}).value().at(0).probed.at(0).reaches,
            true);
  EXPECT_GT(discards, applied);
}

TEST_F(MigrationTest, AStorageThatOthersTrimPutsTheProofOffAndNothingElse) {
  FakeWorld world;
  Proved(world, Add(world));
  std::vector<std::string> told;
  options_.progress = [&](const DomainSummary&, absl::string_view what) {
    told.emplace_back(what);
  };
  StorageLock other(world.services().lock_directory, {"1"}, 1);
  ASSERT_TRUE(other.Take().value());
  const MigratedDomain migrated = ApplyOne(world, options_);
  EXPECT_EQ(migrated.place->step, MigrationStep::kDone);
  EXPECT_EQ(migrated.outcome.kind, OutcomeKind::kDone);
  ASSERT_EQ(migrated.probed.size(), 1u);
  EXPECT_EQ(migrated.probed[0].reaches, std::nullopt);
  EXPECT_THAT(migrated.probed[0].detail, testing::StartsWith("storage-busy: "));
  EXPECT_EQ(world.images["/images/0.raw"].allocation.value(), 100u << 20) << "no marker";
  EXPECT_THAT(told, testing::Contains(HasSubstr("waits for another")));
  const absl::Time begin = world.Now();
  EXPECT_EQ(VerifyMigrated(world.services(), options_, {}).value().at(0).probed.at(0).reaches,
            std::nullopt);
  EXPECT_GE(world.Now() - begin, options_.run.verify_timeout);
}

TEST_F(MigrationTest, InterruptedBeforeThePowerCycle) {
  FakeWorld world;
  Add(world);
  std::stop_source stop;
  world.while_defining = [&] { stop.request_stop(); };
  const MigratedDomain migrated =
      ApplyMigrate(world.services(), options_, Plan(world, options_), stop.get_token()).at(0);
  EXPECT_EQ(migrated.outcome.kind, OutcomeKind::kCancelled);
  EXPECT_EQ(migrated.place->step, MigrationStep::kDefined);
  EXPECT_THAT(world.calls, ElementsAre("define web0"));
}

TEST_F(MigrationTest, AnOlderAgentCannotProveIt) {
  FakeWorld world;
  Add(world);
  world.AddImage("/images/0.raw", 1 << 30, 100 << 20);
  const MigratedDomain migrated = ApplyOne(world, options_);
  EXPECT_EQ(migrated.outcome.kind, OutcomeKind::kDone);
  ASSERT_EQ(migrated.probed.size(), 1u);
  EXPECT_EQ(migrated.probed[0].reaches, std::nullopt);
  EXPECT_FALSE(migrated.outcome.nothing_freed);
}

TEST_F(MigrationTest, NeverMeansThatTheGuestGoesOn) {
  FakeWorld world;
  Add(world);
  options_.power_cycle = PowerCycle::kNever;
  const MigratedDomain migrated = ApplyOne(world, options_);
  EXPECT_TRUE(migrated.needs_power_cycle);
  EXPECT_EQ(migrated.place->step, MigrationStep::kDefined);
  EXPECT_THAT(world.calls, ElementsAre("define web0"));
  // Later, with another word.
  options_.power_cycle = PowerCycle::kShutdown;
  EXPECT_EQ(ApplyOne(world, options_).place->step, MigrationStep::kDone);
}

TEST_F(MigrationTest, WhenOffLeavesRunningDomainsAlone) {
  FakeWorld world;
  Add(world, 0);
  Add(world, 1, DomainState::kShutOff);
  options_.power_cycle = PowerCycle::kWhenOff;
  const auto migrated = ApplyMigrate(world.services(), options_, Plan(world, options_), {});
  EXPECT_EQ(migrated[0].outcome.kind, OutcomeKind::kSkipped);
  EXPECT_EQ(migrated[0].outcome.reasons[0].reason, Reason::kRunning);
  EXPECT_EQ(migrated[1].outcome.kind, OutcomeKind::kDone);
  EXPECT_THAT(world.calls, ElementsAre("define web1"));
}

TEST_F(MigrationTest, AGuestThatDoesNotBootIsRolledBack) {
  FakeWorld world;
  FakeDomain& domain = Add(world);
  domain.cannot_boot_with = "unmap";
  const MigratedDomain migrated = ApplyOne(world, options_);
  EXPECT_EQ(migrated.outcome.kind, OutcomeKind::kFailed);
  EXPECT_THAT(std::string(migrated.outcome.error.message()), HasSubstr("did not come back"));
  EXPECT_EQ(migrated.place->step, MigrationStep::kRolledBack);
  EXPECT_THAT(world.calls, ElementsAre("define web0", "shutdown web0", "start web0",
                                       "power off web0", "define web0", "start web0"));
  EXPECT_EQ(domain.inactive_xml, domain.first_xml);
  EXPECT_EQ(domain.live_xml, domain.first_xml);
  EXPECT_EQ(domain.summary.state, DomainState::kRunning);
}

// Only one of which nothing at all is heard loses its power.
TEST_F(MigrationTest, AGuestThatGivesASignOfLifeKeepsItsPower) {
  const std::map<std::string, std::function<void(FakeDomain&)>> signs = {
      {"its disks are busy", [](FakeDomain& domain) { domain.dead_with_io = true; }},
      {"nobody knows",
       [](FakeDomain& domain) { domain.statistics = absl::UnavailableError("no statistics"); }},
      {"qemu-guest-agent answers",
       [](FakeDomain& domain) {
         domain.qemu_agent.answers.emplace("guest-ping", R"({"return":{}})");
       }},
  };
  for (const auto& [sign, give] : signs) {
    FakeWorld world;
    FakeDomain& domain = Add(world);
    domain.cannot_boot_with = "unmap";
    give(domain);
    const absl::Time begin = world.Now();
    const MigratedDomain migrated = ApplyOne(world, options_);
    EXPECT_EQ(migrated.outcome.kind, OutcomeKind::kFailed) << sign;
    EXPECT_THAT(world.calls, testing::Not(testing::Contains("power off web0"))) << sign;
    // It was asked to shut down, which it does not hear: the next call goes on.
    EXPECT_EQ(migrated.place->step, MigrationStep::kRollingBack) << sign;
    EXPECT_EQ(domain.summary.state, DomainState::kRunning) << sign;
    // Busy disks buy it time, four times what was asked for at the most.
    const absl::Duration most = options_.run.verify_timeout * 4 + options_.run.shutdown_timeout;
    EXPECT_LT(world.Now() - begin, most + absl::Minutes(2)) << sign;
    if (domain.dead_with_io) {
      EXPECT_GT(world.Now() - begin, most) << sign;
    }
  }
}

TEST_F(MigrationTest, AGuestThatIsPausedIsWaitedForAndKeepsItsPower) {
  FakeWorld world;
  FakeDomain& domain = Add(world);
  domain.paused_after_start = true;
  const absl::Time begin = world.Now();
  const MigratedDomain migrated = ApplyOne(world, options_);
  EXPECT_EQ(migrated.outcome.kind, OutcomeKind::kFailed);
  EXPECT_THAT(std::string(migrated.outcome.error.message()), HasSubstr("did not shut down"));
  EXPECT_GE(world.Now() - begin, options_.run.verify_timeout);
  EXPECT_THAT(world.calls, testing::Not(testing::Contains("power off web0")));
  EXPECT_EQ(domain.summary.state, DomainState::kPaused);
}

TEST_F(MigrationTest, ALivingGuestThatLostAFilesystemIsShutDownNotPoweredOff) {
  FakeWorld world;
  FakeDomain& domain = Add(world);
  domain.agent.facts.filesystems.push_back(FilesystemOn("vdb", 6, "/srv", 1 << 30, 1 << 20));
  domain.agent.facts.filesystems[1].uuid = "srv-uuid";
  // It is gone after the power cycle.
  options_.power_cycle = PowerCycle::kNever;
  ApplyOne(world, options_);
  options_.power_cycle = PowerCycle::kShutdown;
  const auto services = world.services();
  MigrationStore store(services.state_directory, "fake:///world");
  auto migration = store.Latest(Uuid(0)).value().value();
  MigrationRecord stopping;
  stopping.step = MigrationStep::kStopping;
  stopping.was_running = stopping.had_agent = true;
  stopping.mounts = {{"/", "ext4", "root-uuid", "", ""}, {"/srv", "ext4", "srv-uuid", "", ""}};
  ASSERT_TRUE(migration.Append(stopping).ok());
  domain.agent.facts.filesystems.pop_back();
  const MigratedDomain migrated = ApplyOne(world, options_);
  EXPECT_EQ(migrated.place->step, MigrationStep::kRolledBack);
  EXPECT_THAT(std::string(migrated.outcome.error.message()), HasSubstr("'/srv'"));
  EXPECT_THAT(world.calls, testing::Not(testing::Contains("power off web0")));
  EXPECT_EQ(domain.inactive_xml, domain.first_xml);
}

TEST_F(MigrationTest, AShutdownThatIsNotAnsweredMayComeAllTheSame) {
  FakeWorld world;
  FakeDomain& domain = Add(world);
  domain.shutdown = absl::DeadlineExceededError("its QEMU has not answered for 5 s");
  EXPECT_EQ(ApplyOne(world, options_).place->step, MigrationStep::kDone);
  FakeWorld other;
  FakeDomain& broken = Add(other);
  broken.shutdown = absl::InternalError("shut down: no");
  EXPECT_EQ(ApplyOne(other, options_).outcome.kind, OutcomeKind::kFailed);
}

TEST_F(MigrationTest, AGuestThatDoesNotShutDownKeepsRunning) {
  FakeWorld world;
  FakeDomain& domain = Add(world);
  domain.ignores_shutdown = true;
  const MigratedDomain migrated = ApplyOne(world, options_);
  EXPECT_EQ(migrated.outcome.kind, OutcomeKind::kFailed);
  EXPECT_THAT(std::string(migrated.outcome.error.message()), HasSubstr("did not shut down"));
  EXPECT_EQ(migrated.place->step, MigrationStep::kDefined);
  EXPECT_EQ(domain.summary.state, DomainState::kRunning);
  EXPECT_TRUE(migrated.needs_power_cycle);
  EXPECT_THAT(world.calls, testing::Not(testing::Contains("power off web0")));
}

TEST_F(MigrationTest, AStartThatFailsIsRolledBack) {
  FakeWorld world;
  FakeDomain& domain = Add(world);
  domain.start = absl::InternalError("start: no such machine type");
  const MigratedDomain migrated = ApplyOne(world, options_);
  EXPECT_EQ(migrated.outcome.kind, OutcomeKind::kFailed);
  EXPECT_EQ(migrated.place->step, MigrationStep::kRolledBack);
  EXPECT_EQ(domain.inactive_xml, domain.first_xml);
  EXPECT_EQ(domain.summary.state, DomainState::kRunning);
}

TEST_F(MigrationTest, RollBackByHand) {
  FakeWorld world;
  FakeDomain& domain = Add(world);
  ApplyOne(world, options_);
  options_.domains = {"web0"};
  auto rolled = RollBackMigrated(world.services(), options_, {}).value();
  EXPECT_EQ(rolled.at(0).outcome.kind, OutcomeKind::kDone) << rolled[0].outcome.error;
  EXPECT_EQ(rolled[0].place->step, MigrationStep::kRolledBack);
  EXPECT_EQ(domain.live_xml, domain.first_xml);
  // A second time there is nothing to undo; a later migration is a new one.
  const size_t calls = world.calls.size();
  rolled = RollBackMigrated(world.services(), options_, {}).value();
  EXPECT_EQ(rolled.at(0).outcome.kind, OutcomeKind::kDone);
  EXPECT_EQ(world.calls.size(), calls);
  EXPECT_EQ(ApplyOne(world, options_).place->step, MigrationStep::kDone);
}

TEST_F(MigrationTest, ARollBackByHandWhoseGuestDoesNotComeBackIsAFailure) {
  FakeWorld world;
  FakeDomain& domain = Add(world);
  ApplyOne(world, options_);
  domain.cannot_boot_with = "pc-i440fx-3.1";
  options_.domains = {"web0"};
  const auto rolled = RollBackMigrated(world.services(), options_, {}).value();
  EXPECT_EQ(rolled.at(0).place->step, MigrationStep::kRolledBack);
  EXPECT_EQ(rolled[0].outcome.kind, OutcomeKind::kFailed);
  EXPECT_THAT(std::string(rolled[0].outcome.error.message()),
              HasSubstr("with the old definition: the guest did not come back"));
}

// What an earlier call left is work like any other: the window, the batches and the question are
// for it, too.
TEST_F(MigrationTest, WhatWasBegunBeforeIsWork) {
  FakeWorld world;
  for (int i = 0; i < 3; ++i) Add(world, i).cannot_boot_with = i == 0 ? "unmap" : "";
  options_.power_cycle = PowerCycle::kNever;
  auto plan = Plan(world, options_);
  for (const MigratedDomain& migrated : ApplyMigrate(world.services(), options_, plan, {}))
    ASSERT_EQ(migrated.place->step, MigrationStep::kDefined);
  // Nobody asks for power cycles.
  for (const MigrateAction& action : Plan(world, options_)) EXPECT_FALSE(HasWork(action));
  options_.power_cycle = PowerCycle::kShutdown;
  plan = Plan(world, options_);
  for (const MigrateAction& action : plan) {
    EXPECT_TRUE(action.goes_on);
    EXPECT_TRUE(HasWork(action));
    EXPECT_THAT(action.changes, IsEmpty());
  }
  const size_t calls = world.calls.size();
  const absl::CivilMinute now = absl::ToCivilMinute(world.services().now(), absl::LocalTimeZone());
  options_.window = DailyWindow{(now.hour() * 60 + now.minute() + 60) % 1440,
                                (now.hour() * 60 + now.minute() + 120) % 1440};
  for (const MigratedDomain& migrated : ApplyMigrate(world.services(), options_, plan, {})) {
    EXPECT_EQ(migrated.outcome.kind, OutcomeKind::kSkipped);
    EXPECT_EQ(migrated.outcome.reasons.at(0).reason, Reason::kOutsideWindow);
  }
  EXPECT_EQ(world.calls.size(), calls);
  options_.window.reset();
  options_.batch = 1;
  options_.max_failures = 0;
  const auto migrated = ApplyMigrate(world.services(), options_, plan, {});
  EXPECT_EQ(migrated[0].outcome.kind, OutcomeKind::kFailed);
  for (const size_t i : {1, 2}) {
    EXPECT_EQ(migrated[i].outcome.kind, OutcomeKind::kSkipped);
    EXPECT_EQ(migrated[i].outcome.reasons.at(0).reason, Reason::kTooManyFailures);
  }
}

// Raised to the lowest type that the host has, not to one that it could have.
TEST_F(MigrationTest, TheMachineTypeIsOneOfTheHosts) {
  FakeWorld world;
  Add(world);
  world.machines.names = {"pc-i440fx-3.1", "pc-i440fx-5.2", "pc-i440fx-7.2", "pc-q35-7.2"};
  world.machines.deprecated = {"pc-i440fx-3.1", "pc-i440fx-5.2"};
  const MigrateAction action = Plan(world, options_).at(0);
  EXPECT_THAT(action.after, HasSubstr("pc-i440fx-5.2"));
  EXPECT_THAT(action.blockers, IsEmpty());
  ASSERT_THAT(action.risks, testing::SizeIs(1));
  EXPECT_EQ(action.risks[0].reason, Reason::kMachineDeprecated);
  EXPECT_EQ(ApplyOne(world, options_).place->step, MigrationStep::kDone);
}

TEST_F(MigrationTest, AGuestOnItsNewBusIsNotPutBack) {
  FakeWorld world;
  FakeDomain& domain = Add(world);
  NameByPath(domain);
  options_.rewrite.bus = xml::BusPolicy::kVirtioScsi;
  options_.fix_guest = true;
  ASSERT_EQ(ApplyOne(world, options_).place->step, MigrationStep::kDone);
  options_.power_cycle = PowerCycle::kNever;
  options_.domains = {"web0"};
  for (int call = 0; call < 2; ++call) {  // again when it is rolled back already
    const auto rolled = RollBackMigrated(world.services(), options_, {}).value();
    EXPECT_EQ(rolled.at(0).outcome.kind, OutcomeKind::kFailed);
    EXPECT_THAT(std::string(rolled[0].outcome.error.message()), HasSubstr("on its new bus"));
    EXPECT_THAT(domain.agent.preflight->names, IsEmpty());
  }
  // A later one that may do so power-cycles it first.
  options_.power_cycle = PowerCycle::kShutdown;
  world.calls.clear();
  const auto rolled = RollBackMigrated(world.services(), options_, {}).value();
  EXPECT_EQ(rolled.at(0).outcome.kind, OutcomeKind::kDone) << rolled[0].outcome.error;
  EXPECT_THAT(world.calls, ElementsAre("shutdown web0", "start web0"));
  EXPECT_EQ(domain.live_xml, domain.first_xml);
  EXPECT_THAT(domain.agent.preflight->names, testing::SizeIs(1));
  EXPECT_EQ(rolled[0].place->detail, "asked for");
}

TEST_F(MigrationTest, BatchesStopAfterTooManyFailures) {
  FakeWorld world;
  for (int i = 0; i < 6; ++i) {
    if (FakeDomain& domain = Add(world, i); i < 2) domain.cannot_boot_with = "unmap";
  }
  options_.batch = 2;
  options_.max_failures = 1;
  const auto migrated = ApplyMigrate(world.services(), options_, Plan(world, options_), {});
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(migrated[i].outcome.kind, i < 2 ? OutcomeKind::kFailed : OutcomeKind::kSkipped);
  }
  EXPECT_EQ(migrated[2].outcome.reasons[0].reason, Reason::kTooManyFailures);
  std::vector<Outcome> outcomes;
  for (const MigratedDomain& domain : migrated) outcomes.push_back(domain.outcome);
  EXPECT_EQ(ExitStatusOf(outcomes), ExitStatus::kSomeFailed);
}

TEST_F(MigrationTest, NothingIsBegunOutsideTheWindow) {
  FakeWorld world;
  Add(world);
  const absl::CivilMinute now = absl::ToCivilMinute(world.services().now(), absl::LocalTimeZone());
  options_.window = DailyWindow{(now.hour() * 60 + now.minute() + 60) % 1440,
                                (now.hour() * 60 + now.minute() + 120) % 1440};
  const MigratedDomain migrated = ApplyOne(world, options_);
  EXPECT_EQ(migrated.outcome.kind, OutcomeKind::kSkipped);
  EXPECT_EQ(migrated.outcome.reasons[0].reason, Reason::kOutsideWindow);
  EXPECT_THAT(world.calls, IsEmpty());
}

TEST_F(MigrationTest, ACloneOfTheBootDiskIsNotTheBootDisk) {
  FakeWorld world;
  world.AddDomain(DomainXml("web0", Uuid(0), "pc-i440fx-3.1",
                            {{"vda", "virtio", "/images/0.raw", ""},
                             {"vdb", "virtio", "/images/clone.raw", ""}},
                            "connected"),
                  DomainState::kRunning);
  world.AddImage("/images/0.raw", 1 << 30, 100 << 20);
  world.AddImage("/images/clone.raw", 1 << 30, 100 << 20);
  FakeDomain& domain = world.domains.at(Uuid(0));
  domain.agent.facts.filesystems = {FilesystemOn("vda", 5, "/", 1 << 30, 1 << 20)};
  domain.agent.facts.filesystems[0].uuid = "root-uuid";
  // After the power cycle the same UUID is mounted from the other disk.
  domain.boots_from = FilesystemOn("vdb", 6, "/", 1 << 30, 1 << 20);
  domain.boots_from->uuid = "root-uuid";
  const MigratedDomain migrated = ApplyOne(world, options_);
  EXPECT_EQ(migrated.place->step, MigrationStep::kRolledBack) << migrated.outcome.error;
  EXPECT_THAT(std::string(migrated.outcome.error.message()), HasSubstr("'/'"));
}

}  // namespace
}  // namespace virt_reclaim
