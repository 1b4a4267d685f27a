// sync on every kind of filesystem: the copy becomes equal, sparse, and of the source's time, and
// no more is written than differs.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/unique_fd.h"
#include "host/sync/unfinished_mark.h"
#include "tests/component/sync_fixtures.h"

namespace virt_reclaim::sync {
namespace {

struct Kind {
  const char* name;
  const char* type;
  const char* mkfs;
  const char* mount;
  uint64_t unit;
  bool reflinks;
  // 64 KiB blocks need a kernel that can mount blocks larger than a page (XFS since Linux 6.12).
  bool may_be_missing = false;
  bool compresses = false;
  bool nocow_file = false;  // btrfs: one of the two files has +C, which ends cloning between them
};
void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }

const Kind kKinds[] = {
    {"ext4", "ext4", "-E nodiscard", "", 4096, false},
    {"ext4_1k", "ext4", "-b 1024 -E nodiscard", "", 1024, false},
    {"ext4_no_extents", "ext4", "-O ^extents,^64bit -E nodiscard", "", 4096, false},
    {"ext4_bigalloc", "ext4", "-O bigalloc -C 65536 -E nodiscard", "", 65536, false},
    {"ext4_64k", "ext4", "-F -b 65536 -E nodiscard", "", 65536, false, true},
    {"xfs", "xfs", "-K", "", 4096, true},
    {"xfs_64k", "xfs", "-K -b size=65536", "", 65536, true, true},
    {"xfs_no_reflink", "xfs", "-K -m reflink=0", "", 4096, false},
    {"btrfs", "btrfs", "-K", "", 4096, true},
    {"btrfs_nocow", "btrfs", "-K", "nodatacow", 4096, true},
    {"btrfs_nocow_file", "btrfs", "-K", "", 4096, true, false, false, true},
    {"btrfs_compressed", "btrfs", "-K", "compress-force=zstd", 4096, true, false, true},
    {"tmpfs", "tmpfs", "", "", 4096, false},
};

struct SyncEveryFilesystemTest : ::testing::TestWithParam<Kind> {
  SyncEveryFilesystemTest() : fs(GetParam().type, GetParam().mkfs, GetParam().mount) {}
  // Absent kinds pass: each has a twin of another size that runs everywhere.
  bool Ready() const {
    if (fs.ok()) return true;
    EXPECT_TRUE(GetParam().may_be_missing) << fs.why_not();
    printf("not on this kernel: %s\n", fs.why_not().c_str());
    return false;
  }
  // The attribute must be there before the content.
  void Create(const std::string& path) const {
    if (!GetParam().nocow_file) return;
    const RunResult made = Shell(absl::StrCat("touch ", path, " && chattr +C ", path));
    ASSERT_EQ(made.status, 0) << made.output;
  }
  static void DropCache(const std::string& path) {
    const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED);
  }
  LoopMount fs;
};

TEST_P(SyncEveryFilesystemTest, BecomesEqualAndNoMoreIsWrittenThanDiffers) {
  if (!Ready()) return;
  const std::string source = fs.Path("source");
  Create(source);
  for (const bool cold : {false, true}) {
    for (const bool reflink : {true, false}) {
      const std::string copy = fs.Path(absl::StrCat("copy-", cold, reflink));
      std::string content = HalfZeroContent(24 * kMiB);
      WriteContent(source, content);
      const SyncOptions options = {.verify = !reflink, .reflink = reflink};
      const auto drop = [&] {
        if (!cold) return;
        DropCache(source);
        if (access(copy.c_str(), F_OK) == 0) DropCache(copy);
      };
      drop();
      const auto first = SyncFile(source, copy, options);
      ASSERT_TRUE(first.ok()) << first.status();
      ASSERT_TRUE(first->complete);
      ASSERT_TRUE(ReadContent(copy) == content);
      EXPECT_EQ(MtimeNs(copy), MtimeNs(source));
      EXPECT_FALSE(IsUnfinished(copy));
      const bool clones = reflink && GetParam().reflinks && !GetParam().nocow_file;
      EXPECT_EQ(first->cloned_bytes > 0, clones);
      // What is zero in the source is a hole in a copy that was written.
      if (!clones && !GetParam().compresses) {
        EXPECT_LE(AllocatedBytes(copy), first->written_bytes + content.size() / 10 + 64 * kKiB +
                                            (GetParam().unit == 65536 ? 8 * kMiB : 0));
      }
      // Nothing to do: not even a look.
      const auto plan = Syncer(options, Clock()).Plan(source, copy);
      ASSERT_TRUE(plan.ok()) << plan.status();
      EXPECT_TRUE(plan->unchanged);
      // Equal, but looked at.
      drop();
      SyncOptions forced = options;
      forced.compare = true;
      auto again = SyncFile(source, copy, forced);
      ASSERT_TRUE(again.ok()) << again.status();
      EXPECT_EQ(again->written_bytes + again->cloned_bytes, 0U);
      // A clone has the compressed zeroes of its source; being looked at, it gets holes for them.
      EXPECT_EQ(again->changed, clones && GetParam().compresses);
      // A hundredth differs, and some of it is zero now.
      const uint64_t changed = ChangeBlocks(content, content.size() / 4096 / 100, true, 3);
      WriteContent(source, content);
      drop();
      again = SyncFile(source, copy, options);
      ASSERT_TRUE(again.ok()) << again.status();
      EXPECT_EQ(again->written_bytes + again->cloned_bytes, changed);
      EXPECT_EQ(again->different_bytes, changed);
      EXPECT_TRUE(ReadContent(copy) == content);
      EXPECT_EQ(MtimeNs(copy), MtimeNs(source));
      EXPECT_FALSE(IsUnfinished(copy));
      EXPECT_EQ(again->digest.has_value(), options.verify);
    }
  }
}

TEST_P(SyncEveryFilesystemTest, ZeroesBecomeHoles) {
  if (!Ready()) return;
  WriteContent(fs.Path("source"), std::string(4 * kMiB, 'x') + std::string(4 * kMiB, '\0') + "end");
  WriteContent(fs.Path("copy"), std::string(9 * kMiB, 'y'));
  const auto measured = MeasureFile(fs.Path("source"), fs.Path("copy"));
  ASSERT_TRUE(measured.ok()) << measured.status();
  EXPECT_EQ(measured->different_bytes, 4 * kMiB + 3);
  EXPECT_EQ(measured->zeroed_bytes, 4 * kMiB);
  EXPECT_TRUE(ReadContent(fs.Path("copy")) == std::string(9 * kMiB, 'y'));
  const auto result = SyncFile(fs.Path("source"), fs.Path("copy"), {.reflink = false});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->punched_bytes, 4 * kMiB);
  EXPECT_EQ(result->written_bytes, 4 * kMiB + 3);
  EXPECT_TRUE(ReadContent(fs.Path("copy")) == ReadContent(fs.Path("source")));
  if (!GetParam().compresses) {
    EXPECT_LE(AllocatedBytes(fs.Path("copy")), 4 * kMiB + 256 * kKiB);
  }
  // Holes of the source over data of the copy are not read.
  ASSERT_EQ(truncate(fs.Path("source").c_str(), 0), 0);
  ASSERT_EQ(truncate(fs.Path("source").c_str(), 4 * kMiB), 0);
  const auto holes = SyncFile(fs.Path("source"), fs.Path("copy"));
  ASSERT_TRUE(holes.ok()) << holes.status();
  EXPECT_EQ(holes->read_bytes + holes->compared_bytes, 0U);
  EXPECT_EQ(ReadContent(fs.Path("copy")), std::string(4 * kMiB, '\0'));
  EXPECT_LE(AllocatedBytes(fs.Path("copy")), 64 * kKiB);
}

TEST_P(SyncEveryFilesystemTest, Sizes) {
  if (!Ready()) return;
  const std::string source = fs.Path("source");
  for (const uint64_t size : {0, 1, 511, 513, 4096, 4097, 65537, 1048577, 1200001}) {
    for (const int64_t before : {-1, 0, 1, 513, 4097, 300000, 1300001}) {
      for (const bool atomic : {false, true}) {
        if (atomic && before >= 0 && !GetParam().reflinks) continue;
        const std::string copy = fs.Path("copy");
        const std::string content(size, 'x');
        WriteContent(source, content);
        unlink(copy.c_str());
        if (before >= 0) {
          Create(copy);
          WriteContent(copy, std::string(static_cast<size_t>(before), 'y'));
        }
        const auto result = SyncFile(source, copy,
                                     {.compare = true,  // two files made at once have the same time
                                      .atomic = atomic,
                                      .verify = true,
                                      .reflink = size % 2 == 0});
        ASSERT_TRUE(result.ok()) << size << " over " << before << ": " << result.status();
        ASSERT_TRUE(result->complete);
        ASSERT_TRUE(ReadContent(copy) == content) << size << " over " << before;
        EXPECT_EQ(MtimeNs(copy), MtimeNs(source));
        EXPECT_EQ(StatFile(copy).st_size, static_cast<off_t>(size));
        EXPECT_FALSE(IsUnfinished(copy));
      }
    }
  }
}

TEST_P(SyncEveryFilesystemTest, SparseTebibyte) {
  if (!Ready()) return;
  const std::string source = fs.Path("large");
  const std::string copy = fs.Path("copy");
  UniqueFd fd(open(source.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (ftruncate(fd.get(), off_t{1} << 40) != 0) {
    // ext4 of 1 KiB blocks or without extents has smaller files.
    ASSERT_EQ(errno, EFBIG);
    ASSERT_EQ(ftruncate(fd.get(), off_t{1} << 33), 0);
  }
  const off_t end = StatFile(source).st_size;
  ASSERT_EQ(pwrite(fd.get(), "x", 1, end - 1), 1);
  ASSERT_EQ(pwrite(fd.get(), "y", 1, end / 2), 1);
  fsync(fd.get());
  EXPECT_EQ(SyncFile(source, copy).status().code(), absl::StatusCode::kAborted);  // we may write it
  fd.Reset();
  const auto result = SyncFile(source, copy, {.verify = true});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_LE(result->read_bytes, 128 * kKiB);
  EXPECT_EQ(StatFile(copy).st_size, end);
  EXPECT_LE(AllocatedBytes(copy), 256 * kKiB);
  fd = UniqueFd(open(copy.c_str(), O_RDONLY | O_CLOEXEC));
  char found[2] = {};
  ASSERT_EQ(pread(fd.get(), found, 1, end - 1), 1);
  ASSERT_EQ(pread(fd.get(), found + 1, 1, end / 2), 1);
  EXPECT_EQ(std::string(found, 2), "xy");
}

INSTANTIATE_TEST_SUITE_P(All, SyncEveryFilesystemTest, ::testing::ValuesIn(kKinds),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace virt_reclaim::sync
