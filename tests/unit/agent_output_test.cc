// What list and trim print, and the exit status of a trim.
#include <gmock/gmock.h>
#include <sys/sysmacros.h>

#include "guest-agent/cli.h"

namespace virt_reclaim::agent {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

FilesystemList Example() {
  FilesystemList list;
  Filesystem root;
  root.source = "/dev/vda1";
  root.type = "ext4";
  root.mount_points = {"/"};
  root.size_bytes = uint64_t{20} << 30;
  root.used_bytes = uint64_t{5} << 30;
  BlockDevice disk;
  disk.name = "vda";
  disk.kind = DeviceKind::kDisk;
  disk.number = makedev(254, 0);
  disk.serial = "abc";
  root.chain.devices = {disk};
  root.chain.tops = 1;
  Filesystem crypt = root;
  crypt.mount_points = {"/ho\x1b[31mme"};
  crypt.verdict = {Obstacle::kDmCrypt, "dm-0"};
  Filesystem temporary;
  temporary.type = "tmpfs";
  temporary.mount_points = {"/tmp"};
  temporary.verdict = {Obstacle::kNoDevice, ""};
  list.filesystems = {root, crypt, temporary};
  return list;
}

TEST(OutputTest, Table) {
  EXPECT_EQ(ListTable(Example(), false),
            "MOUNTPOINT     TYPE      SIZE     USED  DEVICES  TRIM\n"
            "/              ext4  20.0 GiB  5.0 GiB  vda      yes\n"
            "/ho\\x1b[31mme  ext4  20.0 GiB  5.0 GiB  vda      no: dm-crypt device 'dm-0' does not "
            "allow discards\n");
  EXPECT_THAT(ListTable(Example(), true), HasSubstr("/tmp"));
}

TEST(OutputTest, Json) {
  const std::string json = ListJson(Example(), false);
  EXPECT_THAT(json, HasSubstr("\"schema_version\": 1"));
  EXPECT_THAT(json, HasSubstr("\"size_bytes\": 21474836480"));
  EXPECT_THAT(json, HasSubstr("\"obstacle\": \"dm-crypt\""));
  EXPECT_THAT(json, HasSubstr("\"serial\": \"abc\""));
  EXPECT_THAT(json, HasSubstr("/ho\\u001b[31mme"));
  EXPECT_THAT(json, Not(HasSubstr("tmpfs")));
}

TrimLine Line(TrimResult result, bool named = true) {
  TrimLine line;
  line.target.filesystem = Example().filesystems[0];
  line.target.mount_point = "/mnt";
  line.target.named = named;
  line.finished.result = result;
  line.finished.progress.trimmed_bytes = 1020264448;
  return line;
}

TEST(OutputTest, Sentences) {
  EXPECT_EQ(TrimSentence(Line(TrimResult::kDone), false),
            "/mnt: 973 MiB (1020264448 bytes) trimmed on /dev/vda1\n");
  EXPECT_EQ(TrimSentence(Line(TrimResult::kDone), true),
            "/mnt: 0 B (dry run) trimmed on /dev/vda1\n");
  EXPECT_EQ(TrimWarning(Line(TrimResult::kDone)), "");
  TrimLine skipped = Line(TrimResult::kSkipped);
  skipped.finished.verdict.obstacle = Obstacle::kReadOnly;
  EXPECT_EQ(TrimWarning(skipped), "/mnt: skipped: mounted read-only");
  TrimLine failed = Line(TrimResult::kFailed);
  failed.finished.error_number = EIO;
  EXPECT_EQ(TrimWarning(failed), "/mnt: cannot trim: Input/output error (EIO)");
  failed.finished.error_number = ENOTTY;
  failed.finished.verdict.obstacle = Obstacle::kTypeNotSupported;
  EXPECT_EQ(TrimWarning(failed),
            "/mnt: cannot trim: Inappropriate ioctl for device (ENOTTY): the filesystem type knows "
            "no trim");
}

TEST(OutputTest, ExitStatus) {
  TrimTotals totals;
  totals.done = 1;
  EXPECT_EQ(TrimExitStatus({Line(TrimResult::kDone)}, totals), kExitDone);
  totals.skipped = 1;
  EXPECT_EQ(TrimExitStatus({Line(TrimResult::kDone), Line(TrimResult::kSkipped, false)}, totals),
            kExitDone);
  EXPECT_EQ(TrimExitStatus({Line(TrimResult::kDone), Line(TrimResult::kSkipped, true)}, totals),
            kExitSomeFailed);
  totals.failed = 1;
  EXPECT_EQ(TrimExitStatus({}, totals), kExitSomeFailed);
  totals.done = 0;
  EXPECT_EQ(TrimExitStatus({}, totals), kExitError);
  totals.cancelled = true;
  EXPECT_EQ(TrimExitStatus({}, totals), kExitInterrupted);
}

}  // namespace
}  // namespace virt_reclaim::agent
