// What `sync --domain` plans, and what it leaves behind when it fails. The copying itself needs a
// QEMU: integration/sync_domain_test.py.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/io.h"
#include "host/commands/sync_domain.h"
#include "host/sync/checkpoint_note.h"
#include "tests/fakes/fake_world.h"

namespace virt_reclaim {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class SyncDomainTest : public testing::Test {
 protected:
  SyncDomainTest() : services_(world_.services()) {
    options_.domain = "web";
    options_.directory = world_.directory() + "/copies";
    std::filesystem::create_directory(options_.directory);
    const std::string image = world_.directory() + "/a.qcow2";
    EXPECT_TRUE(WriteFileDurably(image, "", 0600).ok());
    world_.AddImage(image, kGiB, kMiB);
    std::string xml =
        DomainXml("web", kUuid, "pc-q35-7.2", {{"vda", "virtio", image, "unmap"}}, "connected");
    const size_t format = xml.find("type='raw'");
    if (format != std::string::npos) xml.replace(format, 10, "type='qcow2'");
    domain_ = &world_.AddDomain(xml, DomainState::kRunning);
  }

  absl::StatusOr<std::vector<SyncedFile>> Run() {
    const auto plan = PlanSyncDomain(services_, options_);
    if (!plan.ok()) return plan.status();
    return Run(*plan);
  }
  absl::StatusOr<std::vector<SyncedFile>> Run(const SyncDomainPlan& plan) {
    return SyncDomain(
        services_, options_, plan, [] { return std::chrono::steady_clock::now(); }, nullptr, {},
        left_behind_);
  }
  // A second disk, with `disk` as its XML.
  void AddDisk(const std::string& disk) {
    const size_t end = domain_->live_xml.find("</disk>") + 7;
    domain_->live_xml.insert(end, disk);
  }
  std::string Copy() const { return options_.directory + "/web.vda.raw"; }

  FakeWorld world_;
  Services services_;
  SyncDomainOptions options_;
  FakeDomain* domain_;
  absl::Status left_behind_;
};

TEST_F(SyncDomainTest, PlansAllDisksOrTheOneThatIsNamed) {
  auto plan = PlanSyncDomain(services_, options_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->disks.size(), 1U);
  EXPECT_EQ(plan->disks[0].copy, Copy());
  EXPECT_EQ(plan->disks[0].since, "");
  EXPECT_TRUE(plan->disks[0].bitmaps);
  options_.target = "vdb";
  EXPECT_TRUE(absl::IsNotFound(PlanSyncDomain(services_, options_).status()));
}

TEST_F(SyncDomainTest, WhatCannotBeCopiedNow) {
  domain_->backup_xml = "<domainbackup mode='push'/>";
  EXPECT_TRUE(absl::IsAborted(PlanSyncDomain(services_, options_).status()));
  domain_->backup_xml.clear();
  domain_->summary.state = DomainState::kShutOff;
  EXPECT_THAT(PlanSyncDomain(services_, options_).status().message(), HasSubstr("not running"));
  world_.images_are_local = false;
  EXPECT_TRUE(absl::IsFailedPrecondition(PlanSyncDomain(services_, options_).status()));
  options_.directory += "/none";
  world_.images_are_local = true;
  EXPECT_FALSE(PlanSyncDomain(services_, options_).ok());
}

TEST_F(SyncDomainTest, GoesOnFromTheCheckpointThatTheCopyIsOf) {
  ASSERT_TRUE(WriteFileDurably(Copy(), "copy", 0600).ok());
  struct stat status = {};
  ASSERT_EQ(stat(Copy().c_str(), &status), 0);
  const int64_t mtime_ns = IdentityOf(status).mtime_ns;
  if (!sync::NoteCheckpoint(Copy(), "mine", mtime_ns).ok()) GTEST_SKIP() << "no attributes here";
  EXPECT_EQ(PlanSyncDomain(services_, options_)->disks[0].since, "");  // the domain has it no more
  domain_->checkpoints = {"mine"};
  EXPECT_EQ(PlanSyncDomain(services_, options_)->disks[0].since, "mine");
  // Somebody wrote to the copy.
  ASSERT_TRUE(WriteFileDurably(Copy(), "other", 0600).ok());
  EXPECT_EQ(PlanSyncDomain(services_, options_)->disks[0].since, "");
}

TEST_F(SyncDomainTest, AFailureLeavesNoJobAndNoCheckpoint) {
  domain_->checkpoints = {"somebody's"};
  const auto files = Run();  // nobody serves the disk
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(files->front().outcome.kind, OutcomeKind::kFailed);
  EXPECT_THAT(world_.calls, ElementsAre("begin backup web", "end backup web"));
  EXPECT_THAT(domain_->checkpoints, ElementsAre("somebody's"));
  EXPECT_FALSE(std::filesystem::exists(Copy()));
  domain_->begin_backup = absl::InternalError("no");
  EXPECT_FALSE(Run().ok());
  EXPECT_EQ(domain_->backup_xml, "");
}

// Somebody's job may begin between our plan and ours, which then cannot.
TEST_F(SyncDomainTest, ABackupOfSomebodyElseIsLeftAlone) {
  const auto plan = PlanSyncDomain(services_, options_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  domain_->backup_xml = "<domainbackup mode='push'/>";
  EXPECT_TRUE(absl::IsAborted(Run(*plan).status()));
  EXPECT_EQ(domain_->backup_xml, "<domainbackup mode='push'/>");
  EXPECT_THAT(world_.calls, IsEmpty());
  EXPECT_TRUE(left_behind_.ok()) << left_behind_;
}

// QEMU crashed, or the power went: its bitmaps are of no use, and will be in no later run.
TEST_F(SyncDomainTest, WithoutItsCheckpointEverythingIsLookedAt) {
  ASSERT_TRUE(WriteFileDurably(Copy(), "copy", 0600).ok());
  struct stat status = {};
  ASSERT_EQ(stat(Copy().c_str(), &status), 0);
  if (!sync::NoteCheckpoint(Copy(), "mine", IdentityOf(status).mtime_ns).ok())
    GTEST_SKIP() << "no attributes here";
  domain_->checkpoints = {"mine"};
  domain_->checkpoints_lost = true;
  const auto files = Run();
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_TRUE(files->front().checkpoint_lost);
  EXPECT_THAT(world_.calls, ElementsAre("begin backup web", "end backup web"));
  // Of any other error nothing is known.
  world_.calls.clear();
  domain_->begin_backup = absl::UnavailableError("no");
  EXPECT_TRUE(absl::IsUnavailable(Run().status()));
  EXPECT_THAT(world_.calls, IsEmpty());
}

TEST_F(SyncDomainTest, ImagesOfVersion2HaveNoCheckpoints) {
  world_.qcow2_version = 2;
  EXPECT_FALSE(PlanSyncDomain(services_, options_)->disks[0].bitmaps);
  world_.qcow2_version = 3;
  EXPECT_TRUE(PlanSyncDomain(services_, options_)->disks[0].bitmaps);
}

TEST_F(SyncDomainTest, DisksThatAreLeftOutAreSaid) {
  AddDisk(
      "<disk type='network' device='disk'><source protocol='rbd' name='pool/image'/>"
      "<target dev='vdb' bus='virtio'/></disk>"
      "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>");
  auto files = Run();
  ASSERT_TRUE(files.ok()) << files.status();
  ASSERT_EQ(files->size(), 2U);
  EXPECT_EQ(files->back().source, "web:vdb");
  EXPECT_EQ(files->back().outcome.kind, OutcomeKind::kSkipped);
  EXPECT_TRUE(files->back().outcome.asked_for);
  EXPECT_EQ(files->back().outcome.reasons[0].reason, Reason::kNoLocalImage);
  options_.target = "vda";
  EXPECT_EQ(Run()->size(), 1U);
}

TEST_F(SyncDomainTest, OneDomainAtATime) {
  const std::string other = "00000000-0000-4000-8000-000000000077";
  world_.AddDomain(
      DomainXml("web-2", other, "pc-q35-7.2",
                {{"vda", "virtio", world_.directory() + "/a.qcow2", "unmap"}}, "connected"),
      DomainState::kRunning);
  options_.domain = "web*";
  const absl::Status status = PlanSyncDomain(services_, options_).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(status.message(), HasSubstr("is 2 domains"));
  options_.domain = "web-*";
  EXPECT_TRUE(PlanSyncDomain(services_, options_).ok());
}

// As after a restart of libvirtd in the middle of a copy.
TEST_F(SyncDomainTest, AJobThatDoesNotEndIsSaid) {
  domain_->end_backup = absl::UnavailableError("connection is gone");
  EXPECT_TRUE(Run().ok());
  EXPECT_TRUE(absl::IsUnavailable(left_behind_));
  EXPECT_NE(domain_->backup_xml, "");
  // Who cannot be asked has not said that there is none.
  domain_->end_backup = absl::OkStatus();
  const auto plan = PlanSyncDomain(services_, options_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  domain_->backup_xml_error = absl::UnavailableError("connection is gone");
  EXPECT_TRUE(absl::IsUnavailable(Run(*plan).status()));
  EXPECT_TRUE(absl::IsUnavailable(PlanSyncDomain(services_, options_).status()));
  domain_->backup_xml_error = absl::OkStatus();
  EXPECT_TRUE(Run().ok());
  EXPECT_TRUE(left_behind_.ok()) << left_behind_;
  EXPECT_EQ(domain_->backup_xml, "");
}

TEST_F(SyncDomainTest, AKilledRunIsClearedAway) {
  domain_->backup_xml = "<server transport='unix' socket='/tmp/virt-reclaim-backup-none/nbd'/>";
  // The checkpoint of this directory, by the name that a run gives it.
  const auto plan = PlanSyncDomain(services_, options_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_TRUE(plan->stale_job);
  options_.clean = true;
  ASSERT_TRUE(Run().ok());
  EXPECT_EQ(domain_->backup_xml, "");
  EXPECT_THAT(world_.calls, ElementsAre("end backup web"));
}

// A QEMU that AppArmor or SELinux confines may make sockets there, and not below /tmp.
TEST_F(SyncDomainTest, TheSocketLiesInTheDirectoryOfTheDomain) {
  domain_->directory = world_.directory() + "/domain-1-w&b";
  std::filesystem::create_directory(domain_->directory);
  ASSERT_TRUE(Run().ok());
  EXPECT_EQ(domain_->backup_socket,
            world_.directory() + "/domain-1-w&amp;b/virt-reclaim-backup.sock");
  EXPECT_EQ(domain_->backup_xml, "") << "it is known as ours";
  // What a killed run has left there.
  const std::string socket = domain_->directory + "/virt-reclaim-backup.sock";
  ASSERT_TRUE(WriteFileDurably(socket, "", 0600).ok());
  domain_->backup_xml =
      absl::StrCat("<server transport='unix' socket='", domain_->backup_socket, "'/>");
  EXPECT_TRUE(PlanSyncDomain(services_, options_)->stale_job);
  options_.clean = true;
  ASSERT_TRUE(Run().ok());
  EXPECT_EQ(domain_->backup_xml, "");
  EXPECT_FALSE(std::filesystem::exists(socket));
  EXPECT_TRUE(std::filesystem::is_directory(domain_->directory)) << "libvirt's";
}

// A socket of somebody else in the same directory is no sign of a job of ours.
TEST_F(SyncDomainTest, ASocketOfAnotherNameIsSomebodyElses) {
  for (const char* socket :
       {"/var/lib/libvirt/qemu/domain-1-web/nbd.sock", "/tmp/virt-reclaim-backup-none/other", ""}) {
    domain_->backup_xml = absl::StrCat("<server transport='unix' socket='", socket, "'/>");
    EXPECT_TRUE(absl::IsAborted(PlanSyncDomain(services_, options_).status())) << socket;
  }
}

TEST_F(SyncDomainTest, WithoutADirectoryOfTheDomainTheSocketLiesBelowTmp) {
  const std::string link = world_.directory() + "/link";
  std::filesystem::create_directory_symlink(world_.directory(), link);
  const std::string deep = world_.directory() + "/" + std::string(100, 'd');
  std::filesystem::create_directory(deep);
  for (const std::string& directory :
       {std::string(), world_.directory() + "/none", link, world_.directory() + "/a.qcow2", deep}) {
    domain_->directory = directory;
    ASSERT_TRUE(Run().ok());
    EXPECT_THAT(domain_->backup_socket, testing::StartsWith("/tmp/virt-reclaim-backup-"));
    EXPECT_FALSE(
        std::filesystem::exists(std::filesystem::path(domain_->backup_socket).parent_path()));
  }
}

TEST_F(SyncDomainTest, WhatQemuMayNotIsSaid) {
  domain_->begin_backup = absl::PermissionDeniedError("Failed to bind socket: Permission denied");
  const absl::Status status = Run().status();
  EXPECT_TRUE(absl::IsPermissionDenied(status));
  EXPECT_THAT(status.message(), HasSubstr("Failed to bind socket"));
  EXPECT_THAT(status.message(), HasSubstr("/tmp/virt-reclaim-backup-"));
  EXPECT_THAT(status.message(), HasSubstr("a.qcow2.vda.virt-reclaim-scratch"));
  EXPECT_THAT(status.message(), HasSubstr("AppArmor"));
}

// The watcher of a killed run passes --freeze on.
TEST_F(SyncDomainTest, AGuestThatAKilledRunFrozeIsThawed) {
  options_.clean = true;
  options_.freeze = true;
  ASSERT_TRUE(Run().ok());
  EXPECT_THAT(world_.calls, ElementsAre("thaw web"));
  // The watcher goes on trying as long as this fails.
  domain_->thaw = absl::DeadlineExceededError("the agent is silent");
  EXPECT_TRUE(absl::IsDeadlineExceeded(Run().status()));
}

TEST_F(SyncDomainTest, FrozenForTheBeginningOnly) {
  options_.freeze = true;
  ASSERT_TRUE(Run().ok());
  EXPECT_THAT(world_.calls,
              ElementsAre("freeze web", "begin backup web", "thaw web", "end backup web"));
  world_.calls.clear();
  domain_->begin_backup = absl::InternalError("no");
  EXPECT_FALSE(Run().ok());
  EXPECT_THAT(world_.calls, ElementsAre("freeze web", "thaw web"));
}

TEST_F(SyncDomainTest, AFreezeThatFailsIsUndone) {
  options_.freeze = true;
  domain_->freeze = absl::DeadlineExceededError("the agent is slow");
  EXPECT_TRUE(absl::IsDeadlineExceeded(Run().status()));
  EXPECT_THAT(world_.calls, ElementsAre("freeze web", "thaw web"));
  // Nor is one forgotten that does not thaw.
  EXPECT_TRUE(left_behind_.ok());
  domain_->thaw = absl::UnavailableError("the agent is gone");
  EXPECT_TRUE(absl::IsDeadlineExceeded(Run().status()));
  EXPECT_TRUE(absl::IsUnavailable(left_behind_));
  domain_->freeze = absl::OkStatus();
  EXPECT_TRUE(absl::IsUnavailable(Run().status()));
  EXPECT_TRUE(absl::IsUnavailable(left_behind_));
  // Somebody else's is not ours to end.
  world_.calls.clear();
  domain_->activity = {{Reason::kFrozen, ""}};
  EXPECT_TRUE(absl::IsAborted(Run().status()));
  EXPECT_THAT(world_.calls, IsEmpty());
}

TEST_F(SyncDomainTest, AnotherRunIsBusy) {
  const auto lock = DomainLock::Take(services_.lock_directory, kUuid);
  ASSERT_TRUE(lock.ok());
  EXPECT_TRUE(absl::IsAborted(Run().status()));
  EXPECT_THAT(world_.calls, IsEmpty());
}

}  // namespace
}  // namespace virt_reclaim
