// punch on every kind of filesystem: the bytes stay, the zeros go, mtime stays, and ctime where the
// kernel compares.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/unique_fd.h"
#include "tests/component/punch_fixtures.h"

namespace virt_reclaim::punch {
namespace {

struct Kind {
  const char* name;
  const char* type;
  const char* mkfs;
  const char* mount;
  uint64_t unit;
  Way way;
  // 64 KiB blocks need a kernel that can mount blocks larger than a page (XFS since Linux 6.12).
  bool may_be_missing = false;
  bool compresses = false;
  bool nocow_file = false;  // btrfs: the file has +C, its directory and new files have not
};
void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }

const Kind kKinds[] = {
    {"ext4", "ext4", "-E nodiscard", "", 4096, Way::kPlain},
    {"ext4_1k", "ext4", "-b 1024 -E nodiscard", "", 1024, Way::kPlain},
    {"ext4_no_extents", "ext4", "-O ^extents,^64bit -E nodiscard", "", 4096, Way::kPlain},
    {"ext4_bigalloc", "ext4", "-O bigalloc -C 65536 -E nodiscard", "", 65536, Way::kPlain},
    {"ext4_64k", "ext4", "-F -b 65536 -E nodiscard", "", 65536, Way::kPlain, true},
    {"xfs", "xfs", "-K", "", 4096, Way::kAtomic},
    {"xfs_64k", "xfs", "-K -b size=65536", "", 65536, Way::kAtomic, true},
    {"xfs_no_reflink", "xfs", "-K -m reflink=0", "", 4096, Way::kPlain},
    {"btrfs", "btrfs", "-K", "", 4096, Way::kAtomic},
    {"btrfs_nocow", "btrfs", "-K", "nodatacow", 4096, Way::kAtomic},
    {"btrfs_nocow_file", "btrfs", "-K", "", 4096, Way::kAtomic, false, false, true},
    {"btrfs_compressed", "btrfs", "-K", "compress-force=zstd", 4096, Way::kAtomic, false, true},
    {"tmpfs", "tmpfs", "", "", 4096, Way::kPlain},
};

struct EveryFilesystemTest : ::testing::TestWithParam<Kind> {
  EveryFilesystemTest() : fs(GetParam().type, GetParam().mkfs, GetParam().mount) {}
  // Absent kinds pass: each has a twin of another size that runs everywhere.
  bool Ready() const {
    if (fs.ok()) return true;
    EXPECT_TRUE(GetParam().may_be_missing) << fs.why_not();
    printf("not on this kernel: %s\n", fs.why_not().c_str());
    return false;
  }
  // Of the kind that is tested; attributes must be there before the content.
  void Create(const std::string& path) const {
    if (!GetParam().nocow_file) return;
    const RunResult made = Shell(absl::StrCat("touch ", path, " && chattr +C ", path));
    ASSERT_EQ(made.status, 0) << made.output;
  }
  LoopMount fs;
};

TEST_P(EveryFilesystemTest, ZerosBecomeHolesAndNothingElse) {
  if (!Ready()) return;
  const std::string path = fs.Path("image");
  const std::string content = HalfZeroContent(24 * kMiB);
  const bool compresses = GetParam().compresses;
  Create(path);
  for (const bool cold : {false, true}) {
    WriteContent(path, content);
    if (cold) {
      const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
      posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED);
    }
    const uint64_t allocated = AllocatedBytes(path);
    const struct stat before = StatFile(path);
    Puncher puncher({}, [] { return std::chrono::steady_clock::now(); });
    const auto plan = puncher.Plan(path);
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_EQ(plan->filesystem.unit_bytes, GetParam().unit);
    EXPECT_EQ(plan->way, GetParam().way);
    const auto measured = puncher.Measure(*plan, [](const PunchProgress&) {}, {});
    ASSERT_TRUE(measured.ok()) << measured.status();
    EXPECT_EQ(AllocatedBytes(path), allocated);
    EXPECT_EQ(measured->punched_bytes, 0U);
    const auto result = puncher.Punch(*plan, [](const PunchProgress&) {}, {});
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->zero_bytes, measured->zero_bytes);
    EXPECT_EQ(result->punched_bytes, result->zero_bytes);
    EXPECT_TRUE(ReadContent(path) == content);
    const struct stat after = StatFile(path);
    EXPECT_EQ(IdentityOf(after).mtime_ns, IdentityOf(before).mtime_ns);
    if (GetParam().way == Way::kAtomic) {
      EXPECT_EQ(after.st_ctim.tv_sec, before.st_ctim.tv_sec);
      EXPECT_EQ(after.st_ctim.tv_nsec, before.st_ctim.tv_nsec);
    }
    EXPECT_EQ(plan->read.skipped.compressed_bytes > 0, compresses);
    // Zeroes take no space there.
    if (!compresses) {
      EXPECT_GE(result->zero_bytes, GetParam().unit == 65536 ? 4 * kMiB : 10 * kMiB);
      EXPECT_LE(AllocatedBytes(path) + result->punched_bytes, allocated + kMiB);
    }
    ASSERT_TRUE(result->freed_bytes.has_value());
    EXPECT_GE(*result->freed_bytes + kMiB, result->punched_bytes);
    // A second run finds nothing: holes are not read.
    const auto again = PunchFile(path);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->punched_bytes, 0U);
  }
}

TEST_P(EveryFilesystemTest, Sizes) {
  if (!Ready()) return;
  for (const uint64_t size : {0, 1, 513, 4097, 65537, 262145}) {
    for (const bool zero : {true, false}) {
      const std::string path = fs.Path(absl::StrCat("size-", size));
      const std::string content(size, zero ? '\0' : 'x');
      Create(path);
      WriteContent(path, content);
      const auto result = PunchFile(path);
      ASSERT_TRUE(result.ok()) << size << ": " << result.status();
      EXPECT_TRUE(ReadContent(path) == content) << size;
      EXPECT_EQ(result->punched_bytes, result->zero_bytes) << size;
      if (!zero) {
        EXPECT_EQ(result->zero_bytes, 0U) << size;
      } else if (size > 4096 && !GetParam().compresses) {
        EXPECT_LE(AllocatedBytes(path), 4096U) << size;  // without extents, a block of addresses
      }
    }
  }
}

TEST_P(EveryFilesystemTest, SparseTebibyte) {
  if (!Ready()) return;
  const std::string path = fs.Path("large");
  Create(path);
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (ftruncate(fd.get(), off_t{1} << 40) != 0) {
    // ext4 of 1 KiB blocks or without extents has smaller files.
    ASSERT_EQ(errno, EFBIG);
    ASSERT_EQ(ftruncate(fd.get(), off_t{1} << 33), 0);
  }
  const off_t end = StatFile(path).st_size;
  const std::string zeros(1 << 20, '\0');
  ASSERT_EQ(pwrite(fd.get(), zeros.data(), zeros.size(), end - (2 << 20)), ssize_t{1} << 20);
  ASSERT_EQ(pwrite(fd.get(), "x", 1, end - 1), 1);
  fsync(fd.get());
  EXPECT_EQ(PunchFile(path).status().code(), absl::StatusCode::kAborted);  // we have it open
  fd.Reset();
  const auto result = PunchFile(path);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->punched_bytes, GetParam().compresses ? 0 : kMiB);
  EXPECT_LE(result->read_bytes, 2 * kMiB);
  // Compressed zeroes take next to nothing, and count as what they were.
  EXPECT_LE(AllocatedBytes(path), 128 * kKiB + (GetParam().compresses ? kMiB : 0));
}

INSTANTIATE_TEST_SUITE_P(All, EveryFilesystemTest, ::testing::ValuesIn(kKinds),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace virt_reclaim::punch
