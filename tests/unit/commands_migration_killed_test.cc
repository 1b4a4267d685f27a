// migrate killed at every point at which it can be, in the fake world: no domain is lost, the old
// definition is kept, and the next call of apply, verify or rollback brings it to an end.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "host/services/migration_store.h"
#include "tests/unit/migration_fixture.h"

namespace virt_reclaim {
namespace {

// Killed at every point at which it can be, and called again until it is through: with what result
// does not depend on the kill.
class KilledTest : public MigrationTest, public testing::WithParamInterface<const char*> {
 protected:
  // What has begun comes to its end, whatever is known of a guest that is off by then.
  KilledTest() { options_.assume = false; }

  static bool Works() {
    return GetParam() == std::string("works") || GetParam() == std::string("is slow");
  }
  void Prepare(FakeDomain& domain) {
    if (GetParam() == std::string("is slow")) domain.power_takes = absl::Seconds(10);
    if (GetParam() == std::string("does not boot")) domain.cannot_boot_with = "unmap";
    if (GetParam() == std::string("does not start"))
      domain.start = absl::InternalError("start: no such machine type");
  }
  static bool Crashes(FakeWorld& world, const std::function<void()>& call) {
    try {
      call();
    } catch (const FakeCrash&) {
      return true;
    }
    world.crash_in = 0;
    return false;
  }
  // Wherever it was killed: the domain has the one definition or the other, and the old one is
  // kept.
  static void ExpectNothingLost(FakeWorld& world, const FakeDomain& domain) {
    EXPECT_TRUE(domain.inactive_xml == domain.first_xml || IsNew(domain)) << domain.inactive_xml;
    const MigrationStore store(world.services().state_directory, "fake:///world");
    const auto latest = store.Latest(domain.summary.uuid);
    ASSERT_TRUE(latest.ok()) << latest.status();
    if (!*latest) {
      EXPECT_EQ(domain.inactive_xml, domain.first_xml) << "changed before it was kept";
    } else {
      EXPECT_EQ((*latest)->OldXml().value_or("gone"), domain.first_xml);
    }
  }
  // `call` in a world of its own for each point at which it can be killed, with `before` done in
  // it; then `after`. Returns the number of points.
  int AtEveryPoint(const std::function<void(FakeWorld&, FakeDomain&)>& before,
                   const std::function<void(FakeWorld&)>& call,
                   const std::function<void(FakeWorld&, FakeDomain&)>& after) {
    int points = 0;
    for (bool crashed = true; crashed && !testing::Test::HasFailure();) {
      SCOPED_TRACE(absl::StrCat("killed at ", ++points));
      FakeWorld world;
      FakeDomain& domain = Add(world);
      Prepare(domain);
      before(world, domain);
      world.crash_in = points;
      crashed = Crashes(world, [&] { call(world); });
      ExpectNothingLost(world, domain);
      after(world, domain);
      ExpectNothingLost(world, domain);
    }
    return points;
  }
  static void ExpectAsBefore(FakeWorld& world, const FakeDomain& domain) {
    EXPECT_EQ(domain.inactive_xml, domain.first_xml);
    EXPECT_EQ(domain.live_xml, domain.first_xml);
    EXPECT_EQ(domain.summary.state, DomainState::kRunning);
    EXPECT_EQ(StepOf(world), MigrationStep::kRolledBack);
  }
  std::vector<MigratedDomain> RollBack(FakeWorld& world) {
    return RollBackMigrated(world.services(), options_, {}).value();
  }
  std::vector<MigratedDomain> Verify(FakeWorld& world) {
    return VerifyMigrated(world.services(), options_, {}).value();
  }
};

TEST_P(KilledTest, InAnApplyTheNextOneConverges) {
  const int points = AtEveryPoint([](FakeWorld&, FakeDomain&) {},
                                  [&](FakeWorld& world) { ApplyOne(world, options_); },
                                  [&](FakeWorld& world, FakeDomain& domain) {
                                    for (int call = 0; call < 3; ++call) ApplyOne(world, options_);
                                    if (!Works()) return ExpectAsBefore(world, domain);
                                    EXPECT_TRUE(IsNew(domain));
                                    EXPECT_EQ(domain.summary.state, DomainState::kRunning);
                                    EXPECT_EQ(domain.live_xml, domain.inactive_xml);
                                    EXPECT_EQ(StepOf(world), MigrationStep::kDone);
                                  });
  EXPECT_GT(points, 10);
}

// Nobody has to go forward to come back; and a guest that the apply has shut down is started again,
// whether or not the rollback may shut one down.
TEST_P(KilledTest, InAnApplyARollbackPutsTheOldOneBack) {
  for (const PowerCycle cycle : {PowerCycle::kShutdown, PowerCycle::kNever}) {
    const int points =
        AtEveryPoint([&](FakeWorld&, FakeDomain&) { options_.power_cycle = PowerCycle::kShutdown; },
                     [&](FakeWorld& world) { ApplyOne(world, options_); },
                     [&](FakeWorld& world, FakeDomain& domain) {
                       options_.power_cycle = cycle;
                       RollBack(world);
                       if (domain.inactive_xml != domain.first_xml) {
                         // A dead guest hears no shutdown, and its power is its owner's to take.
                         EXPECT_TRUE(domain.IsDead());
                         EXPECT_EQ(domain.summary.state, DomainState::kRunning);
                         domain.summary.state = DomainState::kShutOff;
                         RollBack(world);
                       }
                       EXPECT_EQ(domain.inactive_xml, domain.first_xml);
                       EXPECT_EQ(domain.summary.state, DomainState::kRunning);
                       // Whoever may shut it down later finds it as it was, too.
                       options_.power_cycle = PowerCycle::kShutdown;
                       if (cycle == PowerCycle::kNever && !domain.IsDead()) RollBack(world);
                       EXPECT_TRUE(domain.IsDead() || domain.live_xml == domain.first_xml);
                     });
    EXPECT_GT(points, 10);
  }
}

// The shutdown that the apply asked for is heard late: after the rollback has looked.
TEST_F(MigrationTest, AGuestThatGoesWhileItIsRolledBackIsStartedAgain) {
  FakeWorld world;
  FakeDomain& domain = Add(world);
  domain.ignores_shutdown = true;
  options_.progress = [&](const DomainSummary&, absl::string_view step) {
    if (step == "stopping") world.crash_in = 3;
    if (step == "restored") domain.summary.state = DomainState::kShutOff;
  };
  EXPECT_THROW(ApplyOne(world, options_), FakeCrash);
  ASSERT_EQ(StepOf(world), MigrationStep::kStopping);
  options_.power_cycle = PowerCycle::kNever;
  const auto rolled = RollBackMigrated(world.services(), options_, {}).value();
  EXPECT_EQ(rolled.at(0).outcome.kind, OutcomeKind::kDone) << rolled[0].outcome.error;
  EXPECT_EQ(domain.summary.state, DomainState::kRunning);
  EXPECT_EQ(domain.live_xml, domain.first_xml);
}

// The guest is prepared first: whoever was killed then leaves behind that it has begun. A rollback
// waits for a guest that is slow to boot, shuts it down and asks it when it is back.
TEST_P(KilledTest, WhileTheGuestIsPreparedTheNextCallConverges) {
  if (!Works()) return;
  for (const bool roll_back : {false, true}) {
    const auto prepare = [&](FakeWorld&, FakeDomain& domain) {
      NameByPath(domain);
      options_.rewrite.bus = xml::BusPolicy::kVirtioScsi;
      options_.fix_guest = true;
    };
    const int points = AtEveryPoint(
        prepare, [&](FakeWorld& world) { ApplyOne(world, options_); },
        [&](FakeWorld& world, FakeDomain& domain) {
          const bool by_path = roll_back;
          if (roll_back) {
            RollBack(world);
            EXPECT_EQ(domain.inactive_xml, domain.first_xml);
          } else {
            for (int call = 0; call < 3; ++call) ApplyOne(world, options_);
            EXPECT_EQ(StepOf(world), MigrationStep::kDone);
            EXPECT_THAT(domain.live_xml, testing::HasSubstr("bus='scsi'"));
          }
          EXPECT_EQ(!domain.agent.preflight->names.empty(), by_path);
          EXPECT_EQ(domain.summary.state, DomainState::kRunning);
        });
    EXPECT_GT(points, 12);
  }
}

// Whoever comes then without knowing of the preparation does not go on without it.
TEST_P(KilledTest, WhileTheGuestIsPreparedNobodyElseGoesOnWithoutIt) {
  if (!Works()) return;
  for (const bool verify : {true, false}) {
    AtEveryPoint(
        [&](FakeWorld&, FakeDomain& domain) {
          NameByPath(domain);
          options_.rewrite.bus = xml::BusPolicy::kVirtioScsi;
          options_.fix_guest = true;
        },
        [&](FakeWorld& world) { ApplyOne(world, options_); },
        [&](FakeWorld& world, FakeDomain& domain) {
          options_.rewrite.bus = xml::BusPolicy::kKeep;
          options_.fix_guest = false;
          if (verify) {
            Verify(world);
          } else {
            ApplyOne(world, options_);
          }
          const bool is_by_path = !domain.agent.preflight->names.empty();
          const bool is_moved = domain.inactive_xml.find("bus='scsi'") != std::string::npos;
          EXPECT_FALSE(is_by_path && is_moved);
        });
  }
}

TEST_P(KilledTest, InARollbackTheNextOneConverges) {
  for (const bool comes_back : {true, false}) {
    if (!Works()) return;
    const int points = AtEveryPoint(
        [&](FakeWorld& world, FakeDomain& domain) {
          ApplyOne(world, options_);
          // It does not come back with the old definition, either: that is said, and it is over.
          if (!comes_back) domain.cannot_boot_with = "pc-i440fx-3.1";
        },
        [&](FakeWorld& world) { RollBack(world); },
        [&](FakeWorld& world, FakeDomain& domain) {
          RollBack(world);
          ExpectAsBefore(world, domain);
        });
    EXPECT_GT(points, 6);
  }
}

// The files of a guest that was prepared are put back last, once it is on its old bus.
TEST_P(KilledTest, InARollbackThatPutsFilesBackTheNextOneConverges) {
  if (!Works()) return;
  const int points = AtEveryPoint(
      [&](FakeWorld& world, FakeDomain& domain) {
        NameByPath(domain);
        options_.rewrite.bus = xml::BusPolicy::kVirtioScsi;
        options_.fix_guest = true;
        ApplyOne(world, options_);
        ASSERT_TRUE(domain.agent.preflight->names.empty());
      },
      [&](FakeWorld& world) { RollBack(world); },
      [&](FakeWorld& world, FakeDomain& domain) {
        const auto rolled = RollBack(world);
        EXPECT_EQ(rolled.at(0).outcome.kind, OutcomeKind::kDone) << rolled[0].outcome.error;
        ExpectAsBefore(world, domain);
        EXPECT_FALSE(domain.agent.preflight->names.empty());
      });
  EXPECT_GT(points, 8);
}

// Whoever comes next: an apply goes on with the way back, and so does a verify.
TEST_P(KilledTest, InARollbackOtherVerbsConverge) {
  if (!Works()) return;
  for (const bool apply : {true, false}) {
    AtEveryPoint([&](FakeWorld& world, FakeDomain&) { ApplyOne(world, options_); },
                 [&](FakeWorld& world) { RollBack(world); },
                 [&](FakeWorld& world, FakeDomain& domain) {
                   if (StepOf(world) == MigrationStep::kDone) return;  // before it began
                   const bool was_over = StepOf(world) == MigrationStep::kRolledBack;
                   if (!apply) {
                     Verify(world);
                   } else if (!was_over) {
                     ApplyOne(world, options_);
                   }
                   ExpectAsBefore(world, domain);
                 });
  }
}

TEST_P(KilledTest, InAVerifyTheNextOneIsAsGood) {
  if (!Works()) return;
  const int points = AtEveryPoint(
      [&](FakeWorld& world, FakeDomain& domain) {
        world.AddImage("/images/0.raw", 1 << 30, 100 << 20);
        domain.agent.image_of["/"] = "/images/0.raw";
        options_.domains = {"web0"};
        ApplyOne(world, options_);
      },
      [&](FakeWorld& world) { Verify(world); },
      [&](FakeWorld& world, FakeDomain& domain) {
        const auto verified = Verify(world);
        ASSERT_EQ(verified.size(), 1u);
        EXPECT_EQ(verified[0].outcome.kind, OutcomeKind::kDone) << verified[0].outcome.error;
        ASSERT_EQ(verified[0].probed.size(), 1u);
        EXPECT_EQ(verified[0].probed[0].reaches, true);
        EXPECT_TRUE(IsNew(domain));
        EXPECT_EQ(StepOf(world), MigrationStep::kDone);
        RollBack(world);
        ExpectAsBefore(world, domain);
      });
  EXPECT_GT(points, 3);
}

// A verify goes on with what an apply left, also when it is killed itself.
TEST_P(KilledTest, InAVerifyThatGoesOnTheNextOneConverges) {
  AtEveryPoint(
      [&](FakeWorld& world, FakeDomain&) {
        world.crash_in = 12;  // somewhere in the middle, after it was defined
        ASSERT_TRUE(Crashes(world, [&] { ApplyOne(world, options_); }));
        world.crash_in = 0;
        ASSERT_FALSE(IsOver(StepOf(world)));
      },
      [&](FakeWorld& world) { Verify(world); },
      [&](FakeWorld& world, FakeDomain& domain) {
        for (int call = 0; call < 3; ++call) Verify(world);
        if (!Works()) return ExpectAsBefore(world, domain);
        EXPECT_TRUE(IsNew(domain));
        EXPECT_EQ(domain.live_xml, domain.inactive_xml);
        EXPECT_EQ(StepOf(world), MigrationStep::kDone);
      });
}

INSTANTIATE_TEST_SUITE_P(Migration, KilledTest,
                         testing::Values("works", "is slow", "does not boot", "does not start"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), ' ', '_');
                           return name;
                         });

}  // namespace
}  // namespace virt_reclaim
