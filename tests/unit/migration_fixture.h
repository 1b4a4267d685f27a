// What the tests of migrations share: domains that wait for one, in the fake world.
#ifndef VIRT_RECLAIM_TESTS_UNIT_MIGRATION_FIXTURE_H_
#define VIRT_RECLAIM_TESTS_UNIT_MIGRATION_FIXTURE_H_

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "host/commands/migrate.h"
#include "tests/fakes/fake_world.h"

namespace virt_reclaim {

class MigrationTest : public testing::Test {
 protected:
  MigrationTest() {
    options_.power_cycle = PowerCycle::kShutdown;
    options_.run.verify_timeout = absl::Minutes(2);
    options_.assume = true;  // of the domains that are off
    options_.parallel = 1;   // the fake world has no locks
  }

  FakeDomain& Add(FakeWorld& world, int number = 0, DomainState state = DomainState::kRunning) {
    FakeDomain& domain = world.AddDomain(
        DomainXml(absl::StrCat("web", number), Uuid(number), "pc-i440fx-3.1",
                  {{"vda", "virtio", absl::StrCat("/images/", number, ".raw"), ""}}, "connected"),
        state);
    domain.agent.facts.filesystems = {FilesystemOn("vda", 5, "/", 1 << 30, 1 << 20)};
    domain.agent.facts.filesystems[0].uuid = "root-uuid";
    return domain;
  }
  // Its fstab names a disk by path, as long as its agent does nothing about it.
  static void NameByPath(FakeDomain& domain) {
    const auto set = [&domain](bool by_path) {
      auto& names = domain.agent.preflight->names;
      names.clear();
      if (by_path)
        names.push_back({GuestNameSource::kFstab, "/etc/fstab", 1, "/dev/vda1 / ext4", "/dev/vda1",
                         "UUID=root-uuid", true});
    };
    set(true);
    domain.agent.fix = [&domain, set](GuestFixAction action) -> absl::StatusOr<GuestFix> {
      GuestFix fix;
      const bool by_path = !domain.agent.preflight->names.empty();
      const bool undo = action == GuestFixAction::kUndo;
      fix.result = by_path == undo ? GuestFixResult::kNothingToDo : GuestFixResult::kDone;
      set(undo);
      return fix;
    };
  }
  static std::vector<MigrateAction> Plan(FakeWorld& world, const MigrateOptions& options) {
    return PlanMigrate(world.services(), options, {}).value();
  }
  static MigratedDomain ApplyOne(FakeWorld& world, const MigrateOptions& options) {
    return ApplyMigrate(world.services(), options, Plan(world, options), {}).at(0);
  }
  static MigrationStep StepOf(FakeWorld& world) {
    return MigrationStatus(world.services(), {}).value().at(0).place->step;
  }
  static bool IsNew(const FakeDomain& domain) {
    return domain.inactive_xml.find("unmap") != std::string::npos;
  }

  MigrateOptions options_;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_TESTS_UNIT_MIGRATION_FIXTURE_H_
