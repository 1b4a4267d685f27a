// sync --atomic where the new copy cannot come about: the old one stays what it is. More of it is
// in sync_cases_test.cc.
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "host/sync/unfinished_mark.h"
#include "tests/component/sync_fixtures.h"

namespace virt_reclaim::sync {
namespace {

using ::testing::HasSubstr;

// The old copy is whole as long as the new one is not, and nothing nameless keeps room.
TEST(AtomicTest, OnAFullFilesystem) {
  for (const char* type : {"xfs", "btrfs"}) {
    const LoopMount fs(type, "-K", "", std::string(type) == "xfs" ? 320 * kMiB : 256 * kMiB);
    const LoopMount other("ext4", "-E nodiscard", "", kGiB);
    ASSERT_TRUE(fs.ok() && other.ok()) << fs.why_not() << other.why_not();
    const std::string old = HalfZeroContent(kMiB);
    WriteContent(other.Path("source"), std::string(64 * kMiB, 'x'));
    WriteContent(fs.Path("copy"), old);
    const std::string filler = fs.Path("filler");
    const RunResult full =
        Shell(absl::StrCat("dd if=/dev/zero bs=1M of=", filler, " 2>&1; truncate -s -16M ", filler,
                           " && sync -f ", filler));
    ASSERT_EQ(full.status, 0) << full.output;
    const ino_t before = StatFile(fs.Path("copy")).st_ino;
    for (const char* copy : {"copy", "new"}) {
      const auto result = SyncFile(other.Path("source"), fs.Path(copy), {.atomic = true});
      ASSERT_FALSE(result.ok()) << type << " " << copy;
      EXPECT_THAT(result.status().message(), HasSubstr("No space left")) << type << " " << copy;
    }
    EXPECT_TRUE(ReadContent(fs.Path("copy")) == old) << type;
    EXPECT_EQ(StatFile(fs.Path("copy")).st_ino, before) << type;
    EXPECT_FALSE(IsUnfinished(fs.Path("copy"))) << type << ": nothing of it was changed";
    const RunResult names = Shell(absl::StrCat("ls -A ", fs.Path("")));
    EXPECT_EQ(names.output, "copy\nfiller\n") << type;
    ASSERT_EQ(unlink(filler.c_str()), 0);
    const std::string content(20 * kMiB, 'z');
    WriteContent(other.Path("source"), content);
    const auto next = SyncFile(other.Path("source"), fs.Path("copy"), {.atomic = true});
    ASSERT_TRUE(next.ok()) << type << ": " << next.status();
    EXPECT_TRUE(ReadContent(fs.Path("copy")) == content) << type;
  }
}

// A name cannot be made there: root's permissions do not help against chattr +i.
TEST(AtomicTest, InADirectoryThatCannotBeWritten) {
  const LoopMount fs("xfs", "-K");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  ASSERT_EQ(mkdir(fs.Path("fixed").c_str(), 0755), 0);
  WriteContent(fs.Path("source"), "new content");
  WriteContent(fs.Path("fixed/copy"), "old");
  const RunResult fixed = Shell("chattr +i " + fs.Path("fixed"));
  ASSERT_EQ(fixed.status, 0) << fixed.output;
  for (const char* copy : {"fixed/copy", "fixed/new"}) {
    const auto result = SyncFile(fs.Path("source"), fs.Path(copy), {.atomic = true});
    EXPECT_FALSE(result.ok()) << copy;
    EXPECT_THAT(result.status().message(), HasSubstr("Operation not permitted")) << copy;
  }
  EXPECT_EQ(ReadContent(fs.Path("fixed/copy")), "old");
  EXPECT_FALSE(IsUnfinished(fs.Path("fixed/copy")));
  // In place no name is needed.
  EXPECT_TRUE(SyncFile(fs.Path("source"), fs.Path("fixed/copy")).ok());
  EXPECT_EQ(ReadContent(fs.Path("fixed/copy")), "new content");
  EXPECT_EQ(Shell("chattr -i " + fs.Path("fixed")).status, 0);
}

}  // namespace
}  // namespace virt_reclaim::sync
