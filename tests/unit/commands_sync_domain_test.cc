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
    return SyncDomain(services_, options_, *plan, [] { return std::chrono::steady_clock::now(); },
                      nullptr, {});
  }
  std::string Copy() const { return options_.directory + "/web.vda.raw"; }

  FakeWorld world_;
  Services services_;
  SyncDomainOptions options_;
  FakeDomain* domain_;
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
  if (!sync::NoteCheckpoint(Copy(), "mine", mtime_ns).ok()) return;    // no attributes here
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

// The watcher of a killed run passes --freeze on.
TEST_F(SyncDomainTest, AGuestThatAKilledRunFrozeIsThawed) {
  options_.clean = true;
  options_.freeze = true;
  ASSERT_TRUE(Run().ok());
  EXPECT_THAT(world_.calls, ElementsAre("thaw web"));
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

TEST_F(SyncDomainTest, AnotherRunIsBusy) {
  const auto lock = DomainLock::Take(services_.lock_directory, kUuid);
  ASSERT_TRUE(lock.ok());
  EXPECT_TRUE(absl::IsAborted(Run().status()));
  EXPECT_THAT(world_.calls, IsEmpty());
}

}  // namespace
}  // namespace virt_reclaim
