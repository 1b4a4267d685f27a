#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/io.h"
#include "host/commands/sparsify_copy.h"
#include "host/commands/sparsify_images.h"
#include "tests/fakes/fake_world.h"

namespace virt_reclaim {
namespace {

using sparsify::Mode;
using testing::ElementsAre;
using testing::Field;
using testing::IsEmpty;

sparsify::SparsifyResult Found(uint64_t reclaimable, uint64_t given, uint64_t freed) {
  sparsify::SparsifyResult result;
  sparsify::DiskResult& disk = result.disks.emplace_back();
  disk.size_bytes = kGiB;
  disk.before = 600 * kMiB;
  disk.after = 600 * kMiB - freed;
  disk.reclaimable_bytes = reclaimable;
  disk.given_back_bytes = given;
  sparsify::FilesystemResult& filesystem = result.filesystems.emplace_back();
  filesystem.found.type = "ext4";
  filesystem.found.place = "partition 1";
  filesystem.reclaimable_bytes = reclaimable;
  return result;
}

class SparsifyImagesTest : public testing::Test {
 protected:
  SparsifyImagesTest() {
    world_.AddImage("/images/a.raw", kGiB, 600 * kMiB);
    world_.sparsify = Found(500 * kMiB, 500 * kMiB, 490 * kMiB);
  }
  ~SparsifyImagesTest() override {
    for (const std::string& path : files_) unlink(path.c_str());
  }
  // An image that is there: some things go by what the file is.
  std::string AddFile() {
    std::string path = testing::TempDir() + "vr-sparsify-XXXXXX";
    const int fd = mkstemp(path.data());
    EXPECT_GE(fd, 0);
    close(fd);
    world_.AddImage(path, kGiB, 600 * kMiB);
    files_.push_back(path);
    return path;
  }
  FakeDomain& AddDomain(DomainState state) {
    return world_.AddDomain(
        DomainXml("web", kUuid, "pc-q35-7.2", {{"vda", "virtio", "/images/a.raw", ""}}, ""), state);
  }
  std::vector<SparsifiedTarget> Run(const SparsifyImagesOptions& options,
                                    Mode mode = Mode::kSparsify) {
    const Services services = world_.services();
    const auto actions = PlanSparsify(services, options, {});
    EXPECT_TRUE(actions.ok()) << actions.status();
    if (!actions.ok()) return {};
    return ExecuteSparsify(services, options, *actions, mode, {}, {});
  }
  // Of the domain web.
  Outcome RunOne(SparsifyImagesOptions options = {}) {
    options.targets = {"web"};
    const auto targets = Run(options);
    EXPECT_EQ(targets.size(), 1u);
    return targets.empty() ? Outcome{} : targets[0].outcome;
  }
  static std::vector<Reason> Reasons(const Outcome& outcome) {
    std::vector<Reason> reasons;
    for (const Blocker& blocker : outcome.reasons) reasons.push_back(blocker.reason);
    return reasons;
  }

  FakeWorld world_;

 private:
  std::vector<std::string> files_;
};

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
  world_.sparsify = Found(500 * kMiB, 500 * kMiB, 490 * kMiB);
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
  world_.sparsify = Found(500 * kMiB, 500 * kMiB, 0);
  EXPECT_TRUE(RunOne().nothing_freed);
  world_.sparsify = Found(0, 0, 0);
  const Outcome outcome = RunOne();
  EXPECT_FALSE(outcome.nothing_freed);
  EXPECT_THAT(Reasons(outcome), ElementsAre(Reason::kNothingReclaimable));
}

TEST_F(SparsifyImagesTest, ADirtyFilesystemIsARemarkAndAloneARefusal) {
  AddDomain(DomainState::kShutOff);
  sparsify::SparsifyResult result = Found(500 * kMiB, 500 * kMiB, 490 * kMiB);
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

sparsify::SparsifyResult OneOf(const std::string& type, freemap::Refusal refusal) {
  sparsify::SparsifyResult result = Found(0, 0, 0);
  result.filesystems[0].found.type = type;
  result.filesystems[0].found.refusal = refusal;
  return result;
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

TEST(ApplianceJobsTest, OnlyWhatIsNotKnown) {
  using enum freemap::Refusal;
  const auto count = [](const std::string& type, freemap::Refusal refusal, SparsifyEngine engine,
                        bool replay = false, bool strict = false) {
    return ApplianceJobs(OneOf(type, refusal), {engine, replay, strict, {}}).size();
  };
  EXPECT_EQ(count("f2fs", kUnknown, SparsifyEngine::kAuto), 1u);
  EXPECT_EQ(count("f2fs", kUnknown, SparsifyEngine::kNative), 0u);
  EXPECT_EQ(count("crypto_LUKS", kUnknown, SparsifyEngine::kAuto), 0u);
  EXPECT_EQ(count("", kUnknown, SparsifyEngine::kLibguestfs), 0u);
  EXPECT_EQ(count("ext4", kNone, SparsifyEngine::kAuto), 0u);
  EXPECT_EQ(count("ext4", kNone, SparsifyEngine::kLibguestfs), 1u);
  EXPECT_EQ(count("ntfs", kNone, SparsifyEngine::kLibguestfs), 0u);
  EXPECT_EQ(count("ext4", kDirtyJournal, SparsifyEngine::kLibguestfs), 0u);
  EXPECT_EQ(count("ext4", kDirtyJournal, SparsifyEngine::kAuto, true), 1u);
  EXPECT_EQ(count("ext4", kUnknown, SparsifyEngine::kAuto, true, true), 0u);
  EXPECT_EQ(count("ext4", kDirtyJournal, SparsifyEngine::kLibguestfs, true, true), 0u);
  EXPECT_EQ(count("ext4", kNone, SparsifyEngine::kLibguestfs, true, true), 1u);
  for (const freemap::Refusal refusal : {kState, kDamaged, kUnreadable, kUnchecked}) {
    EXPECT_EQ(count("ext4", refusal, SparsifyEngine::kLibguestfs, true), 0u);
  }
}

TEST(ApplianceJobsTest, NamesOfDevices) {
  const auto device = [](const std::string& place, bool mapped, uint32_t disk) -> std::string {
    sparsify::SparsifyResult result = OneOf("jfs", freemap::Refusal::kUnknown);
    freemap::Filesystem& found = result.filesystems[0].found;
    found.place = place;
    found.mapped = mapped;
    found.disk = disk;
    const auto jobs = ApplianceJobs(result, {});
    return jobs.empty() ? "" : jobs[0].device;
  };
  EXPECT_EQ(device("disk", false, 0), "/dev/sda");
  EXPECT_EQ(device("partition 12", false, 2), "/dev/sdc12");
  EXPECT_EQ(device("disk", false, 26), "");
  EXPECT_EQ(device("web/root", true, 0), "/dev/web/root");
  EXPECT_EQ(device("web (free extents)", true, 0), "");
  EXPECT_EQ(device("../root", true, 0), "");
}

// What sleeps may have any of the disks in its memory.
TEST(ApplianceJobsTest, NothingBesideADoubtfulState) {
  sparsify::SparsifyResult result = OneOf("f2fs", freemap::Refusal::kUnknown);
  result.filesystems.push_back(OneOf("ext4", freemap::Refusal::kState).filesystems[0]);
  EXPECT_TRUE(ApplianceJobs(result, {SparsifyEngine::kLibguestfs, true, false, {}}).empty());
}

TEST(ApplianceJobsTest, WhatIsToBeZero) {
  sparsify::SparsifyResult result = OneOf("ext4", freemap::Refusal::kState);
  result.filesystems.push_back(OneOf("LVM2_member", freemap::Refusal::kNotAsked).filesystems[0]);
  result.filesystems[1].found.place = "partition 2";
  result.filesystems.push_back(OneOf("", freemap::Refusal::kDamaged).filesystems[0]);
  result.filesystems[2].found.place = "disk";
  const std::vector<std::string> all = {"/dev/sda", "/dev/sda1", "/dev/sda2", "/dev/sda3"};
  const auto jobs = ApplianceJobs(result, {SparsifyEngine::kAuto, true, false, all});
  ASSERT_EQ(jobs.size(), 1u);
  EXPECT_EQ(jobs[0].device, "/dev/sda1");
  EXPECT_TRUE(jobs[0].zero);
  EXPECT_TRUE(ApplianceJobs(result, {SparsifyEngine::kAuto, true, false, {"/dev/vda1"}}).empty());
}

// As libguestfs's virt-sparsify passes over what it cannot mount or trim, and over nothing else.
TEST(ApplianceFailureTest, WhatTheOtherOneWouldFailBy) {
  EXPECT_TRUE(ApplianceFailure({}).ok());
  EXPECT_TRUE(ApplianceFailure({{0, absl::OkStatus()},
                                {1, absl::UnavailableError("mount: bad superblock")},
                                {2, absl::UnimplementedError("not installed")}})
                  .ok());
  for (const absl::Status& failed :
       {absl::FailedPreconditionError("no appliance"), absl::DeadlineExceededError("took too long"),
        absl::InternalError("trim: I/O error")})
    EXPECT_EQ(ApplianceFailure({{0, absl::OkStatus()}, {3, failed}}), failed);
}

// A file of its own, as an appliance opens it by its name; domain web has it.
class SparsifyByApplianceTest : public SparsifyImagesTest {
 protected:
  SparsifyByApplianceTest() {
    world_.AddDomain(DomainXml("web", kUuid, "pc-q35-7.2", {{"vda", "virtio", path, ""}}, ""),
                     DomainState::kShutOff);
  }

  const std::string path = AddFile();
};

TEST_F(SparsifyByApplianceTest, AllByIt) {
  SparsifyImagesOptions options;
  options.choice = SparsifyEngine::kLibguestfs;
  world_.sparsify = Found(500 * kMiB, 0, 0);
  const Outcome trimmed = RunOne(options);
  EXPECT_THAT(world_.calls, ElementsAre("trim /dev/sda1"));
  EXPECT_EQ(trimmed.kind, OutcomeKind::kDone);
  EXPECT_TRUE(trimmed.nothing_freed);
  // What it does not trim is not done, and said.
  for (const char* type : {"ntfs", "swap", "LVM2_member"}) {
    world_.calls.clear();
    world_.sparsify->filesystems[0].found.type = type;
    const Outcome passed_over = RunOne(options);
    EXPECT_THAT(world_.calls, IsEmpty());
    EXPECT_EQ(passed_over.kind, OutcomeKind::kSkipped);
    ASSERT_THAT(Reasons(passed_over), ElementsAre(Reason::kFilesystemRefused));
    EXPECT_EQ(passed_over.reasons[0].detail,
              absl::StrCat("partition 1 (", type, "): libguestfs: it does not trim this"));
  }
}

// A guest with a managed save has nothing open: only its definition tells whose image it is.
TEST_F(SparsifyImagesTest, OfADomainWhoseDefinitionCannotBeReadAnyImageMayBe) {
  FakeDomain& domain = AddDomain(DomainState::kShutOff);
  domain.managed_save = true;
  SparsifyImagesOptions options;
  options.targets = {AddFile()};
  const Services services = world_.services();
  ASSERT_TRUE(PlanSparsify(services, options, {}).ok());
  for (const absl::Status& error :
       {absl::UnavailableError("read its XML: gone"), absl::PermissionDeniedError("hidden")}) {
    domain.xml_error = error;
    const auto planned = PlanSparsify(services, options, {});
    EXPECT_TRUE(absl::IsFailedPrecondition(planned.status())) << planned.status();
  }
  domain.xml_error = absl::OkStatus();
  domain.inactive_xml = "<domain";
  EXPECT_TRUE(absl::IsFailedPrecondition(PlanSparsify(services, options, {}).status()));
  // One that went away after the list was made is nobody's user.
  domain.xml_error = absl::NotFoundError("no such domain");
  EXPECT_TRUE(PlanSparsify(services, options, {}).ok());
}

TEST_F(SparsifyByApplianceTest, WhatIsFreedIsMeasured) {
  SparsifyImagesOptions options;
  options.choice = SparsifyEngine::kLibguestfs;
  options.targets = {"web"};
  world_.sparsify = Found(500 * kMiB, 0, 0);
  world_.while_reading = [&] { world_.images[path].allocation = 200 * kMiB; };
  const auto targets = Run(options);
  ASSERT_TRUE(targets[0].result);
  EXPECT_EQ(targets[0].result->disks[0].freed_bytes(), 400 * kMiB);
  EXPECT_FALSE(targets[0].outcome.nothing_freed);
}

TEST_F(SparsifyByApplianceTest, WhatNativeDoesNotKnow) {
  world_.sparsify = OneOf("f2fs", freemap::Refusal::kUnknown);
  EXPECT_EQ(RunOne().kind, OutcomeKind::kDone);
  EXPECT_THAT(world_.calls, ElementsAre("sparsify " + path, "trim /dev/sda1"));
  // What is named must be done.
  SparsifyImagesOptions zero;
  zero.zero = {"/dev/sda1"};
  world_.calls.clear();
  EXPECT_EQ(RunOne(zero).kind, OutcomeKind::kDone);
  EXPECT_THAT(world_.calls, ElementsAre("sparsify " + path, "zero /dev/sda1"));
  // It opens the image by its name.
  world_.while_reading = [&] {
    const std::string other = path + ".other";
    close(open(other.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(rename(other.c_str(), path.c_str()), 0);
  };
  EXPECT_THAT(Reasons(RunOne()), ElementsAre(Reason::kImageRefused));
  world_.while_reading = nullptr;
  // Without it there is one clear line.
  world_.has_offline_guest = false;
  const Outcome outcome = RunOne();
  EXPECT_EQ(outcome.kind, OutcomeKind::kSkipped);
  ASSERT_THAT(Reasons(outcome), ElementsAre(Reason::kFilesystemRefused));
  EXPECT_EQ(outcome.reasons[0].detail, "partition 1 (f2fs): libguestfs: not installed");
}

}  // namespace
}  // namespace virt_reclaim
