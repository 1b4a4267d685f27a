// A plan that is saved today and applied tomorrow: what is not as it was is left alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/io.h"
#include "host/commands/migrate.h"
#include "tests/fakes/fake_world.h"

namespace virt_reclaim {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class PlanFileTest : public testing::Test {
 protected:
  PlanFileTest() : path_(world_.directory() + "/plan.json") {
    for (int i = 0; i < 3; ++i) {
      const std::string image = absl::StrCat("/images/", i, ".raw");
      world_.AddDomain(DomainXml(absl::StrCat("web", i), Uuid(i), "pc-i440fx-3.1",
                                 {{"vda", "virtio", image, ""}}, "connected"),
                       DomainState::kShutOff);
      world_.AddImage(image, 1 << 30, 100 << 20);
    }
    options_.assume = true;
    options_.parallel = 1;
  }

  void Save() {
    const auto plan = PlanMigrate(world_.services(), options_, {}).value();
    ASSERT_TRUE(WritePlanFile(path_, PlanFileOf(world_.services(), options_, plan)).ok());
    options_ = MigrateOptions();
    options_.parallel = 1;
    options_.plan = ReadPlanFile(path_).value();
    options_.rewrite = options_.plan->rewrite;
    options_.assume = options_.plan->assume;
  }
  std::vector<MigrateAction> Plan() { return PlanMigrate(world_.services(), options_, {}).value(); }
  std::vector<MigratedDomain> Apply() {
    return ApplyMigrate(world_.services(), options_, Plan(), {});
  }
  FakeDomain& DomainOf(int number) { return world_.domains.at(Uuid(number)); }
  absl::Status ReadChanged(absl::string_view from, absl::string_view to) {
    const std::string text = ReadFile(path_, 1 << 20).value();
    EXPECT_THAT(text, HasSubstr(std::string(from)));
    EXPECT_TRUE(WriteFileDurably(path_, absl::StrReplaceAll(text, {{from, to}}), 0600).ok());
    const absl::Status status = ReadPlanFile(path_).status();
    EXPECT_TRUE(WriteFileDurably(path_, text, 0600).ok());
    return status;
  }

  FakeWorld world_;
  MigrateOptions options_;
  const std::string path_;
};

TEST_F(PlanFileTest, IsAppliedAsItWasMade) {
  options_.rewrite.detect_zeroes = xml::DetectZeroesPolicy::kUnmap;
  options_.rewrite.machine = xml::MachinePolicy::kNamed;
  options_.rewrite.machine_name = "pc-i440fx-6.2";
  options_.rewrite.targets = {"vda"};
  Save();
  struct stat st;
  ASSERT_EQ(stat(path_.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777u, 0600u);
  EXPECT_EQ(options_.plan->domains.size(), 3u);
  EXPECT_EQ(options_.rewrite.machine_name, "pc-i440fx-6.2");
  EXPECT_THAT(options_.rewrite.targets, ElementsAre("vda"));
  for (const MigratedDomain& domain : Apply())
    EXPECT_EQ(domain.outcome.kind, OutcomeKind::kDone) << domain.outcome.error;
  EXPECT_THAT(DomainOf(0).inactive_xml, HasSubstr("detect_zeroes='unmap'"));
  EXPECT_THAT(DomainOf(0).inactive_xml, HasSubstr("pc-i440fx-6.2"));
  // What is applied already is no change since the plan.
  for (const MigratedDomain& domain : Apply()) {
    EXPECT_EQ(domain.outcome.kind, OutcomeKind::kDone);
    EXPECT_THAT(domain.changes, IsEmpty());
  }
  EXPECT_THAT(world_.calls, ElementsAre("define web0", "define web1", "define web2"));
}

TEST_F(PlanFileTest, LeavesAloneWhatChangedSince) {
  Save();
  const auto xml = [&](int i) -> std::string& { return DomainOf(i).inactive_xml; };
  xml(0).insert(xml(0).find("  <os>"), "  <description>new</description>\n");
  world_.replaced.insert("/images/1.raw");
  world_.domains.erase(Uuid(2));
  const auto plan = Plan();
  ASSERT_EQ(plan.size(), 3u);
  for (const MigrateAction& action : plan) {
    ASSERT_FALSE(action.blockers.empty()) << action.domain.name;
    EXPECT_EQ(action.blockers[0].reason, Reason::kChangedSincePlan);
  }
  std::vector<Outcome> outcomes;
  for (const MigratedDomain& domain : Apply()) outcomes.push_back(domain.outcome);
  EXPECT_EQ(ExitStatusOf(outcomes), ExitStatus::kRefused);
  EXPECT_THAT(world_.calls, IsEmpty());
}

// As whoever looks at the device: by its number and size.
TEST_F(PlanFileTest, LeavesAloneABlockDeviceThatIsAnother) {
  FakeDomain& domain = DomainOf(0);
  domain.inactive_xml = absl::StrReplaceAll(
      domain.inactive_xml,
      {{"disk type='file'", "disk type='block'"}, {"file='/images/0.raw'", "dev='/dev/vg/web'"}});
  HostDevice device;
  device.name = "dm-3";
  device.discard_max = uint64_t{1} << 30;
  device.number = 0xfd03;
  device.size = uint64_t{10} << 30;
  world_.block_storage = {device};
  Save();
  EXPECT_THAT(options_.plan->domains.at(0).images,
              ElementsAre(PlannedImage{"vda", "/dev/vg/web", 0, 0, 0xfd03, uint64_t{10} << 30}));
  EXPECT_THAT(options_.plan->domains.at(1).images.at(0).path, HasSubstr("1.raw"));
  EXPECT_THAT(Plan()[0].blockers, IsEmpty());
  for (const bool resized : {false, true}) {
    world_.block_storage = {device};
    (resized ? *world_.block_storage[0].size : world_.block_storage[0].number) += 1;
    const auto blockers = Plan()[0].blockers;
    ASSERT_FALSE(blockers.empty()) << resized;
    EXPECT_EQ(blockers[0], (Blocker{Reason::kChangedSincePlan, "the image of vda"}));
  }
  world_.block_storage[0].size = std::nullopt;  // not known is not as it was
  EXPECT_FALSE(Plan()[0].blockers.empty());
  world_.block_storage = {};
  EXPECT_FALSE(Plan()[0].blockers.empty());
  // ... and so between the plan of a call and its apply.
  world_.block_storage = {device};
  const auto plan = Plan();
  world_.block_storage[0].number += 1;
  const auto applied = ApplyMigrate(world_.services(), options_, plan, {});
  EXPECT_EQ(applied.at(0).outcome.kind, OutcomeKind::kFailed);
  EXPECT_THAT(std::string(applied.at(0).outcome.error.message()), HasSubstr("were replaced"));
  EXPECT_THAT(world_.calls, testing::Not(testing::Contains("define web0")));
}

TEST_F(PlanFileTest, SelectsTheDomainsOfTheOtherVerbs) {
  Save();
  options_.domains = {"web1"};
  Apply();
  EXPECT_THAT(world_.calls, ElementsAre("define web1"));
  options_.domains = {};
  const auto rolled = RollBackMigrated(world_.services(), options_, {}).value();
  ASSERT_EQ(rolled.size(), 1u);
  EXPECT_EQ(rolled[0].domain.name, "web1");
  EXPECT_EQ(DomainOf(1).inactive_xml, DomainOf(1).first_xml);
  options_.domains = {"web7"};
  EXPECT_EQ(PlanMigrate(world_.services(), options_, {}).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(PlanFileTest, OfAnotherHypervisorIsRefused) {
  Save();
  options_.plan->hypervisor = "qemu:///system";
  EXPECT_EQ(PlanMigrate(world_.services(), options_, {}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(RollBackMigrated(world_.services(), options_, {}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(PlanFileTest, IsCheckedWholly) {
  Save();
  EXPECT_FALSE(ReadChanged("\"schema_version\": 1", "\"schema_version\": 2").ok());
  EXPECT_FALSE(ReadChanged("migrate-plan-file", "migrate-plan").ok());
  EXPECT_FALSE(ReadChanged("\"bus\": \"keep\"", "\"bus\": \"ide\"").ok());
  EXPECT_FALSE(ReadChanged("\"bus\":", "\"buss\":").ok());
  EXPECT_FALSE(ReadChanged("\"assume\": true", "\"assume\": 1").ok());
  EXPECT_FALSE(ReadChanged("\"before_sha256\": \"", "\"before_sha256\": \"x").ok());
  EXPECT_FALSE(ReadChanged("\"inode\": ", "\"inode\": -").ok());
  EXPECT_FALSE(ReadChanged("\"inode\": ", "\"device_number\": ").ok());  // without a size
  EXPECT_FALSE(ReadChanged("\"domains\": [", "\"domains\": [1,").ok());
  EXPECT_FALSE(ReadChanged("}", "").ok());
  EXPECT_FALSE(ReadPlanFile(path_ + ".no").ok());
}

// What is changed is the saved definition; the running domain may have another disk of that name.
TEST_F(PlanFileTest, TheSavedDefinitionsImagesAreLookedAt) {
  FakeDomain& domain = DomainOf(0);
  domain.summary.state = DomainState::kRunning;
  world_.AddImage("/images/thick.raw", 1 << 30, 1 << 30);
  domain.inactive_xml = absl::StrReplaceAll(domain.inactive_xml, {{"0.raw", "thick.raw"}});
  const MigrateAction action = Plan()[0];
  EXPECT_THAT(action.changes, IsEmpty());
  ASSERT_EQ(action.refusals.size(), 1u);
  EXPECT_EQ(action.refusals[0].reason, "thick-image");
}

// A block device is judged by its own limits, not by a file beside its node in /dev; on another
// machine nothing is known of it.
TEST_F(PlanFileTest, ABlockDeviceThatTakesNoDiscardsStaysAsItIs) {
  FakeDomain& domain = DomainOf(0);
  domain.inactive_xml = absl::StrReplaceAll(
      domain.inactive_xml,
      {{"disk type='file'", "disk type='block'"}, {"file='/images/0.raw'", "dev='/dev/vg/web'"}});
  world_.can_punch = false;
  HostDevice device;
  device.name = "sdx";
  for (const std::optional<uint64_t> limit :
       {std::optional<uint64_t>(uint64_t{1} << 30), std::optional<uint64_t>(),
        std::optional<uint64_t>(0)}) {
    device.discard_max = limit;
    world_.block_storage = {device};
    const MigrateAction action = Plan()[0];
    if (limit == 0u) {
      EXPECT_THAT(action.changes, IsEmpty());
      ASSERT_EQ(action.refusals.size(), 1u);
      EXPECT_EQ(action.refusals[0].reason, "storage-cannot-punch");
      EXPECT_THAT(action.refusals[0].detail, HasSubstr("sdx"));
    } else {
      EXPECT_FALSE(action.changes.empty());
      EXPECT_THAT(action.refusals, IsEmpty());
    }
  }
  world_.images_are_local = false;
  EXPECT_FALSE(Plan()[0].changes.empty());
}

// The user has not said that images may be thinned, and storage that cannot punch gives nothing.
TEST_F(PlanFileTest, DisksAreExcludedByTheirImages) {
  world_.images.at("/images/1.raw").allocation = 1 << 30;
  auto plan = Plan();
  EXPECT_FALSE(plan[0].changes.empty());
  EXPECT_THAT(plan[1].changes, IsEmpty());
  ASSERT_EQ(plan[1].refusals.size(), 1u);
  EXPECT_EQ(plan[1].refusals[0].reason, "thick-image");
  EXPECT_EQ(plan[1].after, plan[1].before);
  options_.allow_thick = true;
  EXPECT_FALSE(Plan()[1].changes.empty());
  world_.can_punch = false;
  plan = Plan();
  EXPECT_THAT(plan[0].changes, IsEmpty());
  EXPECT_EQ(plan[0].refusals.at(0).reason, "storage-cannot-punch");
  world_.can_punch = true;
  world_.internal_snapshots = 3;
  EXPECT_EQ(Plan()[0].risks.at(0).reason, Reason::kInternalSnapshots);
}

}  // namespace
}  // namespace virt_reclaim
