// What goes wrong with others, and what must be left alone.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <random>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/unique_fd.h"
#include "host/punch/find_files.h"
#include "tests/component/punch_fixtures.h"

namespace virt_reclaim::punch {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// ---- The two bugs of `fallocate --dig-holes` (util-linux 2.38.1 and later) that destroy data.

// Whether it has them here is no concern of ours, but what makes these tests worth something: the
// log says whether this very file would have lost data.
void PrintWhatFallocateDoes(const std::string& path, const std::string& blocks, const char* range,
                            absl::string_view where) {
  WriteBlocks(path, blocks);
  const std::string content = ReadContent(path);
  const RunResult dug = Shell(absl::StrCat("fallocate --dig-holes ", range, " ", path));
  absl::string_view result = "loses nothing";
  if (dug.status != 0) result = dug.output;
  if (ReadContent(path) != content) result = "LOSES DATA";
  const std::string line =
      absl::StrCat("control: fallocate --dig-holes ", range, " of ", where, ": ", result);
  puts(line.c_str());
  unlink(path.c_str());
}

// It lengthens the last punch by st_blksize. Where all of a run between two holes is zero, the hole
// behind it is smaller than that, and data follows, the data goes: XFS says 256 KiB or 1 MiB there
// with these options.
TEST(FallocateBugsTest, LargeIoSizeXfs) {
  for (const char* options : {"largeio,allocsize=1m", "largeio,swalloc"}) {
    const LoopMount fs("xfs", "-K -d su=64k,sw=4", options, kGiB);
    ASSERT_TRUE(fs.ok()) << fs.why_not();
    for (const Way way : {Way::kAtomic, Way::kPlain}) {
      const std::string path = fs.Path("image");
      std::string blocks;
      for (int i = 0; i < 40; ++i) blocks += "-0000-xxxxxxx00-xxxxxxxxxxxxxxxxxxxx";
      if (way == Way::kAtomic) PrintWhatFallocateDoes(path, blocks, "", options);
      WriteBlocks(path, blocks);
      ASSERT_GE(StatFile(path).st_blksize, 262144);
      const std::string content = ReadContent(path);
      const auto result = PunchFile(path, {.way = way});
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_TRUE(ReadContent(path) == content);
      EXPECT_EQ(result->punched_bytes, 40U * 6 * 4096);
    }
  }
}

// With a range it zeroes the block behind the range: no run may be longer than what was read.
TEST(FallocateBugsTest, DataBehindTheLastZeros) {
  const LoopMount fs("ext4", "-E nodiscard");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  const std::string path = fs.Path("image");
  for (const char* blocks : {"00xx", "x00x", "00-x", "0-0x", "xx00"}) {
    PrintWhatFallocateDoes(path, blocks, "--offset 0 --length 8192", blocks);
    WriteBlocks(path, blocks);
    const std::string content = ReadContent(path);
    ASSERT_TRUE(PunchFile(path).ok());
    EXPECT_TRUE(ReadContent(path) == content) << blocks;
    EXPECT_EQ(AllocatedBytes(path),
              4096U * static_cast<uint64_t>(std::string(blocks).find_last_of('x') -
                                            std::string(blocks).find_first_of('x') + 1 -
                                            (std::string(blocks) == "x00x" ? 2 : 0)))
        << blocks;
  }
}

// ---- What is left alone.

// Once read, SEEK_DATA takes preallocated extents for data on ext4 and XFS.
TEST(SkippedTest, PreallocationStays) {
  for (const char* type : {"ext4", "xfs", "btrfs"}) {
    const LoopMount fs(type, std::string(type) == "ext4" ? "-E nodiscard" : "-K");
    ASSERT_TRUE(fs.ok()) << fs.why_not();
    const std::string path = fs.Path("image");
    WriteBlocks(path, "xxxx");
    ASSERT_EQ(Shell(absl::StrCat("fallocate -l 4M ", path)).status, 0);
    ReadContent(path);
    const uint64_t allocated = AllocatedBytes(path);
    auto result = PunchFile(path);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->zero_bytes, 0U);
    EXPECT_EQ(AllocatedBytes(path), allocated);
    result = PunchFile(path, {.unwritten = true});
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->punched_bytes, 4 * kMiB - 16384) << type;
    EXPECT_LE(AllocatedBytes(path), 64 * kKiB) << type;
  }
}

TEST(SkippedTest, CompressedExtentsAreReported) {
  const LoopMount fs("btrfs", "-K", "compress-force=zstd");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  const std::string path = fs.Path("image");
  WriteContent(path, std::string(4 * kMiB, '\0') + std::string(4 * kMiB, 'x'));
  Puncher puncher({}, [] { return std::chrono::steady_clock::now(); });
  const auto plan = puncher.Plan(path);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->read.skipped.compressed_bytes, 8 * kMiB);
  EXPECT_EQ(plan->read.read_bytes, 0U);
}

TEST(SkippedTest, CompressedClustersOfQcow2AreReported) {
  if (Shell("command -v qemu-img").status != 0) GTEST_SKIP() << "needs qemu-img";
  const LoopMount fs("ext4", "-E nodiscard");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  // Half of it compresses, half does not and stays plain clusters, of which one has zeroes in it.
  std::string content(8 * kMiB, 'x');
  std::mt19937 dice(3);
  for (size_t i = 0; i < 8 * kMiB; ++i) content += static_cast<char>(dice());
  content.replace(9 * kMiB + 4096, 16384, std::string(16384, '\0'));
  for (const char* options : {"cluster_size=65536", "cluster_size=4096", "compat=0.10",
                              "extended_l2=on,cluster_size=131072"}) {
    WriteContent(fs.Path("raw"), content);
    const std::string path = fs.Path("image");
    const RunResult made = Shell(absl::StrCat("qemu-img convert -c -f raw -O qcow2 -o ", options,
                                              " ", fs.Path("raw"), " ", path, " && sync ", path));
    ASSERT_EQ(made.status, 0) << made.output;
    const std::string before = ReadContent(path);
    Puncher puncher({}, [] { return std::chrono::steady_clock::now(); });
    const auto plan = puncher.Plan(path);
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_GT(plan->read.skipped.compressed_cluster_bytes, 0U) << options;
    EXPECT_LT(plan->read.read_bytes, before.size()) << options;
    EXPECT_GT(plan->read.read_bytes, 7 * kMiB) << options;  // the plain ones
    EXPECT_LE(plan->read.read_bytes + plan->read.skipped.compressed_cluster_bytes,
              AllocatedBytes(path))
        << options;
    const auto result = puncher.Punch(*plan, [](const PunchProgress&) {}, {});
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_TRUE(ReadContent(path) == before) << options;
    const RunResult same =
        Shell(absl::StrCat("qemu-img check -q -f qcow2 ", path,
                           " && qemu-img compare -f raw -F qcow2 ", fs.Path("raw"), " ", path));
    EXPECT_EQ(same.status, 0) << options << ": " << same.output;
  }
}

TEST(SkippedTest, SharedExtentsAreReported) {
  for (const char* type : {"xfs", "btrfs"}) {
    const LoopMount fs(type, "-K");
    ASSERT_TRUE(fs.ok()) << fs.why_not();
    WriteBlocks(fs.Path("image"), std::string(256, '0') + std::string(256, 'x'));
    ASSERT_EQ(
        Shell(absl::StrCat("cp --reflink=always ", fs.Path("image"), " ", fs.Path("copy"))).status,
        0);
    auto result = PunchFile(fs.Path("image"));
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->shared_bytes, kMiB) << type;
    EXPECT_EQ(result->freed_bytes, std::optional<uint64_t>(0)) << type;
    EXPECT_EQ(result->moved_bytes, 0U) << type;  // moving would take space
    result = PunchFile(fs.Path("copy"));         // the last sharer
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(ReadContent(fs.Path("image")), ReadContent(fs.Path("copy")));
  }
}

TEST(SkippedTest, SwapFiles) {
  const LoopMount fs("ext4", "-E nodiscard");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  const std::string path = fs.Path("swap");
  WriteContent(path, std::string(kMiB, '\0'));
  ASSERT_EQ(Shell("mkswap " + path).status, 0);
  const auto plan = Puncher({}, [] { return std::chrono::steady_clock::now(); }).Plan(path);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(plan.status().message(), HasSubstr("is a swap file"));
}

TEST(SkippedTest, ShortRuns) {
  const LoopMount fs("ext4", "-E nodiscard");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  WriteBlocks(fs.Path("image"), "x0x00x0000x");
  const auto result = PunchFile(fs.Path("image"), {.min_hole_bytes = 8192});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->punched_bytes, 6U * 4096);
  EXPECT_EQ(result->holes, 2U);
}

// ---- btrfs gives nothing back for holes in an extent until what is left of it has moved.
TEST(BtrfsTest, ReleasesWhatCpSparseWouldFree) {
  for (const char* options : {"", "nodatacow"}) {
    const LoopMount fs("btrfs", "-K", options);
    ASSERT_TRUE(fs.ok()) << fs.why_not();
    const std::string path = fs.Path("image");
    const std::string content = HalfZeroContent(64 * kMiB);
    WriteContent(path, content);
    struct stat before = StatFile(path);
    const uint64_t free_before = fs.FreeBytes();
    uint64_t done = 0;
    const auto result = PunchFile(path, {}, [&done](const PunchProgress& now) {
      EXPECT_GE(now.done_bytes, done) << "it goes back when the moves begin";
      done = now.done_bytes;
    });
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_TRUE(result->release.ok()) << result->release;
    EXPECT_GT(result->moved_bytes, 0U);
    const uint64_t freed = fs.FreeBytes() - free_before;
    EXPECT_TRUE(ReadContent(path) == content);
    EXPECT_GE(freed + kMiB, result->zero_bytes);
    ASSERT_TRUE(result->freed_bytes.has_value());
    EXPECT_NEAR(static_cast<double>(*result->freed_bytes), static_cast<double>(freed), 2.0 * kMiB);
    struct stat after = StatFile(path);
    EXPECT_EQ(after.st_ctim.tv_sec, before.st_ctim.tv_sec);
    EXPECT_EQ(after.st_ctim.tv_nsec, before.st_ctim.tv_nsec);
    EXPECT_EQ(IdentityOf(after).mtime_ns, IdentityOf(before).mtime_ns);
  }
}

TEST(BtrfsTest, MovingKeepsTheRate) {
  const LoopMount fs("btrfs", "-K");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  WriteContent(fs.Path("image"), HalfZeroContent(24 * kMiB));
  constexpr uint64_t kRate = 24 * kMiB;
  const auto begin = std::chrono::steady_clock::now();
  const auto result = PunchFile(fs.Path("image"), {.max_bytes_per_second = kRate});
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GT(result->moved_bytes, 8 * kMiB);
  EXPECT_GE(took.count(),
            static_cast<double>(result->read_bytes + result->moved_bytes) / kRate - 0.1);
}

TEST(BtrfsTest, NothingMovesUnlessAskedTo) {
  const LoopMount fs("btrfs", "-K");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  const std::string content = HalfZeroContent(16 * kMiB);
  WriteContent(fs.Path("image"), content);
  const auto result = PunchFile(fs.Path("image"), {.release = false});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GT(result->punched_bytes, 4 * kMiB);
  EXPECT_EQ(result->moved_bytes, 0U);
  EXPECT_TRUE(result->release.ok());
  EXPECT_LT(result->freed_bytes.value_or(0), result->punched_bytes / 2);
  EXPECT_TRUE(ReadContent(fs.Path("image")) == content);
}

// ---- Places where there is no room, no right, or nothing to punch with.
TEST(PlacesTest, FullFilesystem) {
  for (const char* type : {"ext4", "xfs", "btrfs"}) {
    const LoopMount fs(type, std::string(type) == "ext4" ? "-E nodiscard" : "-K", "",
                       std::string(type) == "xfs" ? 320 * kMiB : 256 * kMiB);
    ASSERT_TRUE(fs.ok()) << fs.why_not();
    const std::string content = HalfZeroContent(16 * kMiB);
    WriteContent(fs.Path("image"), content);
    Shell(absl::StrCat("cat /dev/urandom > ", fs.Path("filler"), "; sync -f ", fs.Path("filler")));
    const auto result = PunchFile(fs.Path("image"));
    ASSERT_TRUE(result.ok()) << type << ": " << result.status();
    EXPECT_EQ(result->punched_bytes, result->zero_bytes);
    EXPECT_TRUE(ReadContent(fs.Path("image")) == content);
  }
}

// A dry run opens nothing for writing, so that it may look at what nobody may change.
TEST(PlacesTest, AnImmutableFileIsMeasured) {
  const LoopMount fs("ext4", "-E nodiscard");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  WriteBlocks(fs.Path("image"), "x00");
  ASSERT_EQ(Shell("chattr +i " + fs.Path("image")).status, 0);
  const auto measured = MeasureFile(fs.Path("image"));
  const auto punched = PunchFile(fs.Path("image"));
  EXPECT_EQ(Shell("chattr -i " + fs.Path("image")).status, 0);
  ASSERT_TRUE(measured.ok()) << measured.status();
  EXPECT_EQ(measured->zero_bytes, 8192U);
  EXPECT_FALSE(punched.ok());
  EXPECT_EQ(AllocatedBytes(fs.Path("image")), 12288U);
}

TEST(PlacesTest, ReadOnly) {
  const LoopMount fs("ext4", "-E nodiscard");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  WriteBlocks(fs.Path("image"), "x00");
  ASSERT_EQ(mount(nullptr, fs.Path("").c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr), 0);
  EXPECT_THAT(PunchFile(fs.Path("image")).status().message(), HasSubstr("mounted read-only"));
}

// ramfs has no fallocate(2).
TEST(PlacesTest, CannotPunchIsSaidBeforeReading) {
  const LoopMount fs("ramfs");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  const std::string path = fs.Path("image");
  WriteBlocks(path, "x00");
  ASSERT_NE(Shell(absl::StrCat("fallocate --punch-hole -o 4096 -l 4096 ", path)).status, 0);
  int windows = 0;
  const auto result = PunchFile(path, {}, [&](const PunchProgress&) { ++windows; });
  EXPECT_EQ(result.status().code(), absl::StatusCode::kUnimplemented) << result.status();
  EXPECT_THAT(result.status().message(), HasSubstr("cannot punch holes"));
  EXPECT_EQ(windows, 0);
  EXPECT_FALSE(PunchFile("/proc/self/status").ok());
}

TEST(PlacesTest, OneInodeOnceAndAnyName) {
  const LoopMount fs("tmpfs");
  ASSERT_TRUE(fs.ok());
  const std::string odd = fs.Path("a\nb\xff");
  WriteBlocks(odd, "x0");
  ASSERT_EQ(link(odd.c_str(), fs.Path("hard").c_str()), 0);
  ASSERT_EQ(symlink(odd.c_str(), fs.Path("soft").c_str()), 0);
  std::filesystem::create_directory(fs.Path("sub"));
  WriteBlocks(fs.Path("sub/c"), "x0");
  ASSERT_EQ(symlink("/etc", fs.Path("sub/out").c_str()), 0);
  std::vector<std::string> found;
  std::vector<std::string> failed;
  const std::vector<std::string> paths = {fs.Path("soft"), fs.Path(""), fs.Path("missing")};
  const auto collect = [&](const FindOptions& options) {
    found.clear();
    failed.clear();
    return FindFiles(
        paths, options, {}, [&](const std::string& path) { found.push_back(path); },
        [&](const std::string& path, const absl::Status&) { failed.push_back(path); });
  };
  ASSERT_TRUE(collect({.recursive = true}).ok());
  EXPECT_THAT(found, ElementsAre(fs.Path("soft"), fs.Path("sub/c")));
  EXPECT_THAT(failed, ElementsAre(fs.Path("missing")));
  ASSERT_TRUE(collect({}).ok());
  EXPECT_THAT(failed, ElementsAre(fs.Path(""), fs.Path("missing")));
  const auto result = PunchFile(fs.Path("soft"));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(AllocatedBytes(odd), 4096U);
}

TEST(PlacesTest, AnotherFileThanPlanned) {
  const LoopMount fs("ext4", "-E nodiscard");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  const std::string path = fs.Path("image");
  WriteBlocks(path, "x00");
  Puncher puncher({}, [] { return std::chrono::steady_clock::now(); });
  const auto plan = puncher.Plan(path);
  ASSERT_TRUE(plan.ok());
  WriteBlocks(path, "x00");
  const auto result = puncher.Punch(*plan, [](const PunchProgress&) {}, {});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(AllocatedBytes(path), 12288U);
}

TEST(PlacesTest, BlockDevice) {
  const LoopMount fs("ext4", "-E nodiscard");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  // The device below the mount is in use, and says by what.
  EXPECT_EQ(PunchFile(fs.device()).status().code(), absl::StatusCode::kAborted);
  EXPECT_THAT(PunchFile(fs.device()).status().message(), HasSubstr("mounted at"));
  const std::string path = fs.Path("disk");
  const std::string content = HalfZeroContent(8 * kMiB);
  WriteContent(path, content);
  const RunResult loop = Shell("losetup --find --show " + path);
  ASSERT_EQ(loop.status, 0) << loop.output;
  const std::string device = loop.output.substr(0, loop.output.find('\n'));
  const auto in_use = PunchFile(path);
  const auto result = PunchFile(device);
  Shell("losetup --detach " + device);
  EXPECT_EQ(in_use.status().code(), absl::StatusCode::kAborted);
  EXPECT_THAT(in_use.status().message(), HasSubstr(device));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_FALSE(result->freed_bytes.has_value());
  EXPECT_TRUE(ReadContent(path) == content);
  EXPECT_LE(AllocatedBytes(path) + result->punched_bytes, 8 * kMiB + 64 * kKiB);
}

// ---- Killed at any moment, the content is the same, and the next run ends the job.
TEST(KilledTest, FortyTimes) {
  constexpr int kKills = 14;  // on each of three filesystems
  constexpr int kTries = 100;
  std::mt19937 dice(5);
  for (const char* type : {"ext4", "xfs", "btrfs"}) {
    const LoopMount fs(type, std::string(type) == "ext4" ? "-E nodiscard" : "-K");
    ASSERT_TRUE(fs.ok()) << fs.why_not();
    const std::string path = fs.Path("image");
    const std::string content = HalfZeroContent(32 * kMiB);
    int killed = 0;
    int tries = 0;
    for (useconds_t longest = 60000; killed < kKills && tries < kTries; ++tries) {
      WriteContent(path, content);
      const pid_t child = fork();
      ASSERT_GE(child, 0);
      if (child == 0) _exit(PunchFile(path).ok() ? 0 : 1);
      usleep(static_cast<useconds_t>(dice() % longest));
      kill(child, SIGKILL);
      int status = 0;
      waitpid(child, &status, 0);
      ASSERT_TRUE(ReadContent(path) == content) << type;
      if (!WIFSIGNALED(status)) {  // it was faster
        EXPECT_EQ(status, 0) << type;
        longest = std::max<useconds_t>(longest * 3 / 4, 4000);
        continue;
      }
      if (++killed % 7 != 0) continue;
      ASSERT_TRUE(PunchFile(path).ok());
      ASSERT_TRUE(ReadContent(path) == content) << type;
    }
    printf("%s: %d of %d runs were killed before their end\n", type, killed, tries);
    EXPECT_EQ(killed, kKills) << type;
  }
}

}  // namespace
}  // namespace virt_reclaim::punch
