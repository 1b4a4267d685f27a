// `sync --domain` with a disk that is really served, by qemu-nbd in the place of a QEMU whose
// libvirt is a fake: what becomes of the copy. With a guest: integration/sync_domain_test.py.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/byte_size.h"
#include "host/commands/sync_domain.h"
#include "host/sync/checkpoint_note.h"
#include "host/sync/unfinished_mark.h"
#include "tests/component/punch_fixtures.h"
#include "tests/fakes/fake_world.h"

namespace virt_reclaim {
namespace {

using punch::HalfZeroContent;
using punch::LoopMount;
using punch::ReadContent;
using punch::Shell;
using punch::StatFile;
using punch::WriteContent;
using testing::ElementsAre;

class SyncDomainCopyTest : public testing::Test {
 protected:
  SyncDomainCopyTest() : services_(world_.services()), image_(world_.directory() + "/a.qcow2") {}

  // A domain with a qcow2 image that has `content`; its copies go to `directory`.
  void Make(const std::string& content, const std::string& directory) {
    WriteContent(world_.directory() + "/raw", content);
    Succeed(absl::StrCat("qemu-img convert -f raw -O qcow2 ", world_.directory(), "/raw ", image_));
    world_.AddImage(image_, content.size(), content.size());
    domain_ = &world_.AddDomain(
        absl::StrReplaceAll(
            DomainXml("web", kUuid, "pc-q35-7.2", {{"vda", "virtio", image_, "unmap"}}, ""),
            {{"type='raw'", "type='qcow2'"}}),
        DomainState::kRunning);
    domain_->while_beginning_backup = [this](const std::string& backup) {
      StopServer();
      const bool since = absl::StrContains(backup, "incremental=");
      Succeed(absl::StrCat("qemu-nbd --fork -t -e 8 -r -f qcow2 -x vda ", since ? "-B since " : "",
                           "--pid-file=", PidFile(), " -k ", domain_->backup_socket, " ", image_));
    };
    options_.domain = "web";
    options_.directory = directory;
  }
  ~SyncDomainCopyTest() override { StopServer(); }
  std::string PidFile() const { return world_.directory() + "/nbd.pid"; }
  void StopServer() const {
    if (std::filesystem::exists(PidFile()))
      Succeed(absl::StrCat("pid=$(cat ", PidFile(),
                           "); kill $pid && while test -e /proc/$pid; do sleep 0.1; done; rm -f ",
                           PidFile()));
  }
  static void Succeed(const std::string& command) {
    const auto result = Shell(command);
    ASSERT_EQ(result.status, 0) << command << ": " << result.output;
  }
  absl::StatusOr<SyncedFile> Run() {
    world_.Sleep(absl::Seconds(1));  // checkpoints are named by their time
    const auto plan = PlanSyncDomain(services_, options_);
    if (!plan.ok()) return plan.status();
    const auto files = SyncDomain(
        services_, options_, *plan, [] { return std::chrono::steady_clock::now(); }, nullptr, {},
        left_behind_);
    if (!files.ok()) return files.status();
    return files->front();
  }
  std::string Copy() const { return options_.directory + "/web.vda.raw"; }

  FakeWorld world_;
  Services services_;
  std::string image_;
  SyncDomainOptions options_;
  FakeDomain* domain_ = nullptr;
  absl::Status left_behind_;
};

TEST_F(SyncDomainCopyTest, AtomicTheCopyIsReplacedInOneStep) {
  if (Shell("command -v qemu-img && command -v qemu-nbd && command -v qemu-io").status != 0)
    GTEST_SKIP() << "needs qemu-img, qemu-nbd and qemu-io";
  const LoopMount fs("xfs", "-K");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  std::string content = HalfZeroContent(8 * kMiB);
  ASSERT_NO_FATAL_FAILURE(Make(content, fs.Path("")));
  options_.engine.atomic = true;
  auto file = Run();
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->outcome.kind, OutcomeKind::kDone) << file->outcome.error;
  EXPECT_TRUE(ReadContent(Copy()) == content);
  ASSERT_EQ(domain_->checkpoints.size(), 1U);
  EXPECT_EQ(sync::NotedCheckpoint(Copy()), domain_->checkpoints[0]);
  // What is written since comes into another file, which has the older one's note for a moment.
  ino_t before = StatFile(Copy()).st_ino;
  StopServer();
  Succeed(absl::StrCat("qemu-img bitmap --add ", image_, " since"));
  Succeed(absl::StrCat("qemu-io -f qcow2 -c 'write -P 0x6e 1M 64k' ", image_));
  content.replace(kMiB, 64 * kKiB, std::string(64 * kKiB, 'n'));
  file = Run();
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->outcome.kind, OutcomeKind::kDone) << file->outcome.error;
  EXPECT_LE(file->result.read_bytes, 64 * kKiB);
  EXPECT_TRUE(ReadContent(Copy()) == content);
  EXPECT_NE(StatFile(Copy()).st_ino, before);
  EXPECT_FALSE(sync::IsUnfinished(Copy()));
  // The one that the copy is of now, and the older one is gone.
  ASSERT_EQ(domain_->checkpoints.size(), 1U);
  EXPECT_EQ(sync::NotedCheckpoint(Copy()), domain_->checkpoints[0]);
  // Nothing to put in its place: the same file is of the new checkpoint.
  before = StatFile(Copy()).st_ino;
  const std::string older = domain_->checkpoints[0];
  file = Run();
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->outcome.kind, OutcomeKind::kDone) << file->outcome.error;
  EXPECT_EQ(StatFile(Copy()).st_ino, before);
  ASSERT_EQ(domain_->checkpoints.size(), 1U);
  EXPECT_NE(domain_->checkpoints[0], older);
  EXPECT_EQ(sync::NotedCheckpoint(Copy()), domain_->checkpoints[0]);
}

TEST_F(SyncDomainCopyTest, AtomicNeedsReflinks) {
  if (Shell("command -v qemu-img && command -v qemu-nbd").status != 0)
    GTEST_SKIP() << "needs qemu-img and qemu-nbd";
  const LoopMount fs("ext4", "-E nodiscard");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  ASSERT_NO_FATAL_FAILURE(Make(HalfZeroContent(kMiB), fs.Path("")));
  WriteContent(Copy(), "old");
  options_.engine.atomic = true;
  const auto file = Run();
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->outcome.kind, OutcomeKind::kSkipped) << file->outcome.error;
  ASSERT_EQ(file->outcome.reasons.size(), 1U);
  EXPECT_EQ(file->outcome.reasons[0].reason, Reason::kNotAtomic);
  EXPECT_EQ(ReadContent(Copy()), "old");
  EXPECT_FALSE(sync::IsUnfinished(Copy()));
  EXPECT_TRUE(domain_->checkpoints.empty()) << "no copy is of it";
  EXPECT_EQ(domain_->backup_xml, "");
}

}  // namespace
}  // namespace virt_reclaim
