#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "host/commands/sparsify_copy.h"
#include "tests/unit/sparsify_fixture.h"

namespace virt_reclaim {
namespace {

using sparsify::Mode;
using testing::ElementsAre;
using testing::Field;
using testing::IsEmpty;

TEST_F(SparsifyImagesTest, AStoppedDomain) {
  AddDomain(DomainState::kShutOff);
  const Outcome outcome = RunOne();
  EXPECT_EQ(outcome.kind, OutcomeKind::kDone);
  EXPECT_FALSE(outcome.nothing_freed);
  EXPECT_THAT(world_.calls, ElementsAre("sparsify /images/a.raw"));
}

TEST_F(SparsifyImagesTest, ADryRunChangesNothing) {
  AddDomain(DomainState::kShutOff);
  SparsifyImagesOptions options;
  options.targets = {"web"};
  EXPECT_EQ(Run(options, Mode::kMeasure)[0].outcome.kind, OutcomeKind::kDone);
  EXPECT_THAT(world_.calls, IsEmpty());
}

TEST_F(SparsifyImagesTest, RunningPausedAndSavedAreRefused) {
  FakeDomain& domain = AddDomain(DomainState::kRunning);
  EXPECT_THAT(Reasons(RunOne()), ElementsAre(Reason::kRunning));
  domain.summary.state = DomainState::kPaused;
  EXPECT_THAT(Reasons(RunOne()), ElementsAre(Reason::kPaused));
  domain.summary.state = DomainState::kShutOff;
  domain.managed_save = true;
  const Outcome outcome = RunOne();
  EXPECT_EQ(outcome.kind, OutcomeKind::kSkipped);
  EXPECT_THAT(Reasons(outcome), ElementsAre(Reason::kManagedSave));
  EXPECT_THAT(world_.calls, IsEmpty());
}

TEST_F(SparsifyImagesTest, AnotherDomainWithTheSameImageMustBeOffToo) {
  const std::string path = AddFile();
  for (const auto& [name, uuid] : {std::pair("web", kUuid), std::pair("clone", kUuid2)}) {
    world_.AddDomain(DomainXml(name, uuid, "pc-q35-7.2", {{"vda", "virtio", path, ""}}, ""),
                     name == std::string("web") ? DomainState::kShutOff : DomainState::kPaused);
  }
  EXPECT_THAT(Reasons(RunOne()), ElementsAre(Reason::kPaused));
  // And so for the file by its name.
  SparsifyImagesOptions options;
  options.targets = {path};
  EXPECT_THAT(Reasons(Run(options)[0].outcome), ElementsAre(Reason::kPaused));
}

// A file of a guest with two disks: the other one may hold the memory of a guest that sleeps.
TEST_F(SparsifyImagesTest, ANamedFileOfAGuestThatSleeps) {
  const std::string path = AddFile();
  std::vector<FakeDisk> disks = {{"vda", "virtio", path, ""}};
  const auto run = [&] {
    world_.calls.clear();
    world_.AddDomain(DomainXml("web", kUuid, "pc-q35-7.2", disks, ""), DomainState::kShutOff);
    SparsifyImagesOptions options;
    options.targets = {path};
    return Run(options)[0].outcome;
  };
  EXPECT_EQ(run().kind, OutcomeKind::kDone);
  disks.push_back({"vdb", "virtio", "/images/a.raw", ""});
  EXPECT_EQ(run().kind, OutcomeKind::kDone);
  EXPECT_THAT(world_.calls, ElementsAre("sparsify " + path));
  world_.sparsify->filesystems[0].found.refusal = freemap::Refusal::kState;
  world_.sparsify->filesystems[0].found.reason = "the memory of a hibernated system";
  const Outcome asleep = run();
  EXPECT_EQ(asleep.kind, OutcomeKind::kSkipped);
  EXPECT_THAT(Reasons(asleep), ElementsAre(Reason::kImageRefused));
  EXPECT_THAT(world_.calls, IsEmpty());
  // One that cannot be read is told.
  world_.sparsify = FoundExt4(500 * kMiB, 500 * kMiB, 490 * kMiB);
  disks.back().image = "/images/none.raw";
  const Outcome remark = run();
  EXPECT_EQ(remark.kind, OutcomeKind::kDone);
  ASSERT_THAT(Reasons(remark), ElementsAre(Reason::kImageUnreadable));
  EXPECT_EQ(remark.reasons[0].detail, "web vdb: a hibernated system on it is not noticed");
}

TEST_F(SparsifyImagesTest, WhatTheImageSaysOfItself) {
  AddDomain(DomainState::kShutOff);
  world_.header.backing = true;
  world_.domains[kUuid].inactive_xml = world_.domains[kUuid].live_xml = absl::StrCat(
      "<domain type='kvm'><name>web</name><uuid>", kUuid,
      "</uuid><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
      "<source file='/images/a.raw'/><target dev='vda' bus='virtio'/></disk></devices></domain>");
  EXPECT_THAT(Reasons(RunOne()), ElementsAre(Reason::kOverlay));
  world_.header = {};
  world_.header.bitmaps = true;
  EXPECT_THAT(Reasons(RunOne()), ElementsAre(Reason::kPersistentBitmaps));
  SparsifyImagesOptions options;
  options.with_bitmaps = true;
  EXPECT_EQ(RunOne(options).kind, OutcomeKind::kDone);
  world_.header = {};
  world_.internal_snapshots = 2;
  world_.header.encrypted = world_.header.external_data = world_.header.needs_check = true;
  EXPECT_THAT(Reasons(RunOne()), ElementsAre(Reason::kInternalSnapshots, Reason::kExternalDataFile,
                                             Reason::kEncryptedImage, Reason::kImageNeedsCheck));
}

TEST_F(SparsifyImagesTest, AThickImageOnlyWhenTold) {
  AddDomain(DomainState::kShutOff);
  world_.images["/images/a.raw"].allocation = kGiB;
  EXPECT_THAT(Reasons(RunOne()), ElementsAre(Reason::kThickImage));
  SparsifyImagesOptions options;
  options.allow_thick = true;
  EXPECT_EQ(RunOne(options).kind, OutcomeKind::kDone);
}

TEST_F(SparsifyImagesTest, ADomainThatStartsMeanwhile) {
  AddDomain(DomainState::kShutOff);
  const Services services = world_.services();
  SparsifyImagesOptions options;
  options.targets = {"web"};
  const auto actions = PlanSparsify(services, options, {}).value();
  world_.domains[kUuid].summary.state = DomainState::kRunning;
  const auto targets = ExecuteSparsify(services, options, actions, Mode::kSparsify, {}, {});
  EXPECT_THAT(Reasons(targets[0].outcome), ElementsAre(Reason::kImageInUse));
  EXPECT_THAT(world_.calls, IsEmpty());
}

TEST_F(SparsifyImagesTest, NothingFreedIsAStatusOfItsOwn) {
  AddDomain(DomainState::kShutOff);
  world_.sparsify = FoundExt4(500 * kMiB, 500 * kMiB, 0);
  EXPECT_TRUE(RunOne().nothing_freed);
  world_.sparsify = FoundExt4(0, 0, 0);
  const Outcome outcome = RunOne();
  EXPECT_FALSE(outcome.nothing_freed);
  EXPECT_THAT(Reasons(outcome), ElementsAre(Reason::kNothingReclaimable));
}

TEST_F(SparsifyImagesTest, ADirtyFilesystemIsARemarkAndAloneARefusal) {
  AddDomain(DomainState::kShutOff);
  sparsify::SparsifyResult result = FoundExt4(500 * kMiB, 500 * kMiB, 490 * kMiB);
  sparsify::FilesystemResult& dirty = result.filesystems.emplace_back();
  dirty.found.type = "xfs";
  dirty.found.place = "partition 2";
  dirty.found.refusal = freemap::Refusal::kDirtyJournal;
  dirty.found.reason = "its log wants to be replayed";
  world_.sparsify = result;
  const Outcome remark = RunOne();
  EXPECT_EQ(remark.kind, OutcomeKind::kDone);
  ASSERT_THAT(Reasons(remark), ElementsAre(Reason::kFilesystemRefused));
  EXPECT_EQ(remark.reasons[0].detail, "partition 2 (xfs): its log wants to be replayed");
  result.filesystems.erase(result.filesystems.begin());
  result.disks[0].reclaimable_bytes = result.disks[0].given_back_bytes = 0;
  world_.sparsify = result;
  EXPECT_EQ(RunOne().kind, OutcomeKind::kSkipped);
}

TEST_F(SparsifyImagesTest, AllThatAreOff) {
  AddDomain(DomainState::kShutOff);
  world_.AddDomain(
      DomainXml("busy", kUuid2, "pc-q35-7.2", {{"vda", "virtio", "/images/b.raw", ""}}, ""),
      DomainState::kRunning);
  SparsifyImagesOptions options;
  options.all_off = true;
  EXPECT_THAT(Run(options), ElementsAre(Field(&SparsifiedTarget::name, "web")));
}

TEST_F(SparsifyImagesTest, OnlyThoseOnAStorage) {
  AddDomain(DomainState::kShutOff);
  SparsifyImagesOptions options;
  options.all_off = true;
  options.storage = "/images";
  EXPECT_THAT(Run(options), ElementsAre(Field(&SparsifiedTarget::name, "web")));
  options.storage = "/elsewhere";
  EXPECT_THAT(Run(options), IsEmpty());
  options.storage = "/nowhere";
  EXPECT_EQ(PlanSparsify(world_.services(), options, {}).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(SparsifyImagesTest, ImagesOfAnotherMachineAreRefused) {
  world_.images_are_local = false;
  SparsifyImagesOptions options;
  options.targets = {"/images/a.raw"};
  EXPECT_EQ(PlanSparsify(world_.services(), options, {}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(SparsifyImagesTest, ACopyIsMadeOfWhatNobodyRuns) {
  const std::string path = AddFile();
  FakeDomain& domain =
      world_.AddDomain(DomainXml("web", kUuid, "pc-q35-7.2", {{"vda", "virtio", path, ""}}, ""),
                       DomainState::kRunning);
  SparsifyCopyOptions options;
  options.source = path;
  options.source_format = "raw";
  options.output = "/images/copy.raw";
  EXPECT_TRUE(absl::IsAborted(PlanSparsifyCopy(world_.services(), options, {}).status()));
  domain.summary.state = DomainState::kShutOff;
  const auto plan = PlanSparsifyCopy(world_.services(), options, {});
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->users.size(), 1u);
  EXPECT_EQ(plan->users[0].name, "web");
  EXPECT_EQ(plan->output.path, "/images/copy.raw");
  EXPECT_EQ(plan->output.format, "raw");
  // It was saved since.
  domain.managed_save = true;
  EXPECT_TRUE(
      absl::IsAborted(ExecuteSparsifyCopy(world_.services(), options, *plan, {}, {}).status()));
}

}  // namespace
}  // namespace virt_reclaim
