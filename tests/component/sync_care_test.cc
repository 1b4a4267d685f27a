// Where a copy could be wrong and look right, and where others could be kept waiting.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/byte_size.h"
#include "base/unique_fd.h"
#include "host/punch/btrfs_release.h"
#include "host/sync/checkpoint_note.h"
#include "host/sync/unfinished_mark.h"
#include "tests/component/sync_fixtures.h"

namespace {

std::atomic<int> failing_syncs = 0;

}  // namespace

// Instead of the C library's: the disk says once that it has lost something.
extern "C" int fsync(int fd) {
  if (failing_syncs.load() == 0 || failing_syncs.fetch_sub(1) <= 0)
    return static_cast<int>(syscall(SYS_fsync, fd));
  errno = EIO;
  return -1;
}

namespace virt_reclaim::sync {
namespace {

using std::chrono::steady_clock;
using ::testing::HasSubstr;

constexpr int64_t kSecond = 1'000'000'000;

// Pages of the file that are in memory only; -1 when the kernel does not tell (before Linux 6.5).
int64_t DirtyPages(int fd) {
  struct {
    uint64_t offset = 0, length = 0;
  } range;
  struct {
    uint64_t cached = 0, dirty = 0, writeback = 0, evicted = 0, recently_evicted = 0;
  } found;
  constexpr long kCachestat = 451;
  if (syscall(kCachestat, fd, &range, &found, 0) != 0) return -1;
  return static_cast<int64_t>(found.dirty + found.writeback);
}

// A killed run has written all of it, but not to the disk: finding it equal is not enough.
TEST(SyncCareTest, ACopyThatIsFoundEqualIsOnTheDisk) {
  const LoopMount fs("ext4", "-E nodiscard");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  const std::string content(4 * kMiB, 'x');
  WriteContent(fs.Path("source"), content);
  UniqueFd fd(open(fs.Path("copy").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(pwrite(fd.get(), content.data(), content.size(), 0),
            static_cast<ssize_t>(content.size()));
  ASSERT_NE(DirtyPages(fd.get()), 0);
  fd.Reset();
  const auto result = SyncFile(fs.Path("source"), fs.Path("copy"), {.compare = true});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_FALSE(result->changed);
  fd.Reset(open(fs.Path("copy").c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_LE(DirtyPages(fd.get()), 0);
}

// The kernel says it once, and that may be to who marks early.
TEST(SyncCareTest, ADiskThatLostSomethingAtTheMarkStopsTheCopy) {
  const LoopMount fs("ext4", "-E nodiscard");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  const std::string old(16 * kMiB, 'x');
  std::string content = old;
  content.back() = 'y';
  WriteContent(fs.Path("copy"), old);
  WriteContent(fs.Path("source"), content);
  failing_syncs = 1;
  const auto result = SyncFile(fs.Path("source"), fs.Path("copy"), {});
  EXPECT_EQ(failing_syncs.exchange(0), 0);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("Input/output error"));
  EXPECT_TRUE(ReadContent(fs.Path("copy")) == old);
  ASSERT_TRUE(SyncFile(fs.Path("source"), fs.Path("copy"), {}).ok());
  EXPECT_TRUE(ReadContent(fs.Path("copy")) == content);
}

// What is in the page cache is written there, and stays; what is not goes around it.
TEST(SyncCareTest, ACachedCopyStaysCached) {
  for (const char* type : {"ext4", "xfs"}) {
    const LoopMount fs(type, std::string(type) == "ext4" ? "-E nodiscard" : "-K");
    ASSERT_TRUE(fs.ok()) << fs.why_not();
    std::string content(24 * kMiB + 777, 'x');
    WriteContent(fs.Path("copy"), content);
    for (size_t at = 0; at < content.size(); at += 64 * kKiB) content[at] = 'y';
    content.back() = 'z';
    WriteContent(fs.Path("source"), content);
    const auto result = SyncFile(fs.Path("source"), fs.Path("copy"), {.reflink = false});
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_GE(
        std::stoull(Shell("fincore --bytes --noheadings --output RES " + fs.Path("copy")).output),
        content.size() / 16 * 15)  // some may be reclaimed meanwhile
        << type;
    {
      const UniqueFd fd(open(fs.Path("copy").c_str(), O_RDONLY | O_CLOEXEC));
      EXPECT_LE(DirtyPages(fd.get()), 0);
      posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED);
    }
    EXPECT_TRUE(ReadContent(fs.Path("copy")) == content);
  }
}

// A copy that turned out to be equal is whole, whatever becomes of its time; and one that was
// marked before stays so until a run ends.
TEST(SyncCareTest, AMarkForWhichNothingWasChangedGoes) {
  const LoopMount fs("ext4", "-E nodiscard");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  const std::string content(64 * kMiB, 'x');
  WriteContent(fs.Path("copy"), content);
  WriteContent(fs.Path("source"), content);
  const auto sync_until_cancelled = [&] {
    std::stop_source stop;
    Syncer syncer({.max_bytes_per_second = 32 * kMiB}, Clock());
    const auto plan = syncer.Plan(fs.Path("source"), fs.Path("copy"));
    ASSERT_TRUE(plan.ok()) << plan.status();
    bool marked = false;
    const auto result = syncer.Sync(
        *plan,
        [&](const SyncProgress&) {
          marked = marked || IsUnfinished(fs.Path("copy"));
          if (marked) stop.request_stop();
        },
        stop.get_token());
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_TRUE(result->cancelled);
    EXPECT_FALSE(result->changed);
    EXPECT_TRUE(marked);
  };
  sync_until_cancelled();
  EXPECT_FALSE(IsUnfinished(fs.Path("copy")));
  {
    const UniqueFd fd(open(fs.Path("copy").c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_TRUE(SetUnfinished(fd.get()));
  }
  sync_until_cancelled();
  EXPECT_TRUE(IsUnfinished(fs.Path("copy")));
  const auto result = SyncFile(fs.Path("source"), fs.Path("copy"));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->written_bytes, 0U);
  EXPECT_FALSE(IsUnfinished(fs.Path("copy")));
}

// On btrfs what is written around the cache waits for the disk piece by piece, and each is an
// extent.
TEST(SyncCareTest, ANewCopyOnBtrfsLiesInLargeExtents) {
  const LoopMount fs("btrfs", "-K");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  const LoopMount other("ext4", "-E nodiscard");
  ASSERT_TRUE(other.ok()) << other.why_not();
  const std::string content(40 * kMiB + 777, 'x');
  WriteContent(other.Path("source"), content);
  for (const bool empty : {false, true}) {
    const std::string copy = fs.Path(empty ? "empty" : "copy");
    if (empty) WriteContent(copy, "");
    const auto result = SyncFile(other.Path("source"), copy, {.verify = !empty});
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->written_bytes, content.size());
    EXPECT_LE(std::stoull(Shell("fincore --bytes --noheadings --output RES " + copy).output),
              128 * kKiB);
    const UniqueFd fd(open(copy.c_str(), O_RDONLY | O_CLOEXEC));
    const auto extents = punch::ReadExtentReferences(fd.get());
    ASSERT_TRUE(extents.ok()) << extents.status();
    uint64_t largest = 0;
    for (const punch::ExtentReference& extent : *extents)
      largest = std::max(largest, extent.disk_bytes);
    EXPECT_GT(largest, 4 * kMiB);
    EXPECT_TRUE(ReadContent(copy) == content);
  }
}

// How long a process waits in open(2) for `path`, in seconds.
class Opener {
 public:
  explicit Opener(const std::string& path) : child_(fork()) {
    if (child_ != 0) return;
    const auto start = steady_clock::now();
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    const auto took =
        std::chrono::duration_cast<std::chrono::milliseconds>(steady_clock::now() - start);
    _exit(fd < 0 ? 255 : static_cast<int>(std::min<int64_t>(took.count() / 100, 254)));
  }
  double Seconds() const {
    int status = 0;
    waitpid(child_, &status, 0);
    return WEXITSTATUS(status) / 10.0;
  }

 private:
  pid_t child_;
};

TEST(SyncCareTest, WhoWantsTheCopyDoesNotWaitForTheRate) {
  const LoopMount fs("ext4", "-E nodiscard");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  WriteContent(fs.Path("source"), std::string(64 * kMiB, 'x'));
  std::optional<Opener> opener;
  const auto result = SyncFile(fs.Path("source"), fs.Path("copy"),
                               {.max_bytes_per_second = 2 * kMiB}, [&](const SyncProgress& now) {
                                 if (now.done_bytes >= 16 * kMiB && !opener)
                                   opener.emplace(fs.Path("copy"));
                               });
  ASSERT_TRUE(opener.has_value());
  EXPECT_LT(opener->Seconds(), 3.0);  // a window of 16 MiB would be 8
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->interrupted);
}

TEST(SyncCareTest, WhoWantsTheCopyDoesNotWaitForTheReadBack) {
  const LoopMount fs("ext4", "-E nodiscard");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  WriteContent(fs.Path("source"), std::string(64 * kMiB, 'x'));
  std::optional<Opener> opener;
  const auto result =
      SyncFile(fs.Path("source"), fs.Path("copy"),
               {.verify = true, .max_bytes_per_second = 16 * kMiB}, [&](const SyncProgress& now) {
                 // The last word before all is read back, which takes 4 s.
                 if (now.done_bytes < now.total_bytes || opener) return;
                 usleep(1'200'000);  // the last window's own wait
                 opener.emplace(fs.Path("copy"));
               });
  ASSERT_TRUE(opener.has_value());
  EXPECT_LT(opener->Seconds(), 2.0);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->interrupted);
  EXPECT_TRUE(IsUnfinished(fs.Path("copy")));
}

TEST(SyncCareTest, AnUnfinishedCopyIsNoSource) {
  const LoopMount fs("ext4", "-E nodiscard");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  WriteContent(fs.Path("source"), "half new");
  WriteContent(fs.Path("copy"), "good");
  {
    const UniqueFd fd(open(fs.Path("source").c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_TRUE(SetUnfinished(fd.get()));
  }
  EXPECT_THAT(SyncFile(fs.Path("source"), fs.Path("copy")).status().message(),
              HasSubstr("has not finished"));
  EXPECT_EQ(ReadContent(fs.Path("copy")), "good");
}

// Only a part is compared, and all of it verified.
TEST(SyncCareTest, VerifyReadsAllThatOnlyLeavesOut) {
  const LoopMount fs("ext4", "-E nodiscard");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  std::string content = HalfZeroContent(40 * kMiB);
  WriteContent(fs.Path("copy"), content);
  content.replace(8192, 4096, std::string(4096, 'n'));
  WriteContent(fs.Path("source"), content);
  const std::vector<Range> only = {{8192, 12288}};
  for (const bool verify : {true, false}) {
    const SyncOptions options = {.verify = verify};
    Syncer syncer(options, Clock());
    const auto plan = syncer.Plan(fs.Path("source"), fs.Path("copy"));
    ASSERT_TRUE(plan.ok()) << plan.status();
    if (plan->unchanged) continue;
    const auto source = OpenFileSource(fs.Path("source"), plan->source_identity);
    ASSERT_TRUE(source.ok()) << source.status();
    const auto result =
        syncer.SyncFrom(**source, plan->destination, &only, [](const SyncProgress&) {}, {});
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->written_bytes, 4096U);
    EXPECT_TRUE(ReadContent(fs.Path("copy")) == content);
    EXPECT_EQ(result->copy_mtime_ns, MtimeNs(fs.Path("copy")));
  }
}

// Where in the file `block`, of 4 KiB, is; -1 when it is not.
off_t FindBlock(int fd, const std::string& block) {
  constexpr off_t kStep = 4096;
  std::string found(block.size(), '\0');
  for (off_t at = 0; (at = lseek(fd, at, SEEK_DATA)) >= 0; at += kStep) {
    at -= at % kStep;
    if (pread(fd, found.data(), found.size(), at) == static_cast<ssize_t>(found.size()) &&
        found == block) {
      return at;
    }
  }
  return -1;
}

// The disk of the copy has something else than what was written to it.
TEST(SyncCareTest, VerifyFindsWhatTheDiskDidNotKeep) {
  for (const char* type : {"ext4", "xfs"}) {
    const LoopMount fs(type, std::string(type) == "ext4" ? "-E nodiscard" : "-K");
    const LoopMount other("ext4", "-E nodiscard");
    ASSERT_TRUE(fs.ok() && other.ok()) << fs.why_not() << other.why_not();
    std::string content = HalfZeroContent(24 * kMiB);
    std::string block;
    while (block.size() < 4096) absl::StrAppend(&block, "nobody writes this ", block.size());
    block.resize(4096);
    content.replace(8 * kMiB, block.size(), block);
    WriteContent(other.Path("source"), content);
    bool flipped = false;
    const auto flip = [&](const SyncProgress& now) {
      if (now.done_bytes < now.total_bytes || flipped) return;
      const UniqueFd disk(open(fs.backing().c_str(), O_RDWR | O_CLOEXEC));
      const off_t at = FindBlock(disk.get(), block);
      ASSERT_GE(at, 0) << "all is written, around the cache";
      ASSERT_EQ(pwrite(disk.get(), "SOME", 4, at), 4);
      flipped = true;
    };
    const auto result = SyncFile(other.Path("source"), fs.Path("copy"), {.verify = true}, flip);
    EXPECT_TRUE(flipped);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kDataLoss) << type << result.status();
    EXPECT_THAT(result.status().message(), HasSubstr("does not read back"));
    EXPECT_TRUE(IsUnfinished(fs.Path("copy"))) << type;
    EXPECT_NE(MtimeNs(fs.Path("copy")), MtimeNs(other.Path("source")));
    // The next run looks at all of it, and finds what differs.
    const auto next = SyncFile(other.Path("source"), fs.Path("copy"), {.verify = true});
    ASSERT_TRUE(next.ok()) << next.status();
    EXPECT_EQ(next->written_bytes, 4096U);
    EXPECT_TRUE(ReadContent(fs.Path("copy")) == content);
    EXPECT_FALSE(IsUnfinished(fs.Path("copy")));
  }
}

TEST(SyncCareTest, ADryRunOverAShorterCopyOfAnySize) {
  const LoopMount fs("ext4", "-E nodiscard");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  WriteContent(fs.Path("source"), std::string(20000, 'x'));
  for (const size_t size : {size_t{1}, size_t{4095}, size_t{4096}, size_t{5000}, size_t{19999}}) {
    for (const bool cached : {true, false}) {
      WriteContent(fs.Path("copy"), std::string(size, 'x'));
      if (!cached) {
        const UniqueFd fd(open(fs.Path("copy").c_str(), O_RDONLY | O_CLOEXEC));
        posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED);
      }
      const auto result = MeasureFile(fs.Path("source"), fs.Path("copy"));
      ASSERT_TRUE(result.ok()) << size << ": " << result.status();
      EXPECT_EQ(result->different_bytes, 20000 - size / 4096 * 4096);
    }
  }
}

// The next write within the same second would not be seen by the quick check.
TEST(SyncCareTest, ATimeWithoutAFractionMayBeACoarseOne) {
  const LoopMount fs("ext4", "-E nodiscard -I 128");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  WriteContent(fs.Path("source"), "content");
  const auto result = SyncFile(fs.Path("source"), fs.Path("copy"));
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(MtimeNs(fs.Path("source")) % kSecond, 0) << "inodes of 128 bytes have no fraction";
  WriteContent(fs.Path("source"), "CONTENT");
  ASSERT_TRUE(SyncFile(fs.Path("source"), fs.Path("copy")).ok());
  EXPECT_EQ(ReadContent(fs.Path("copy")), "CONTENT");
}

TEST(SyncCareTest, ADeviceThatIsWrittenMeanwhile) {
  const LoopMount fs("ext4", "-E nodiscard", "", kGiB);
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  WriteContent(fs.Path("disk"), std::string(32 * kMiB, 'x'));
  const std::string disk(absl::StripSuffix(
      Shell(absl::StrCat("losetup --show --find ", fs.Path("disk"))).output, "\n"));
  ASSERT_THAT(disk, HasSubstr("/dev/loop"));
  const auto check = [&](bool write) {
    bool written = false;
    const auto writer = [&](const SyncProgress&) {
      if (written || !write) return;
      written = true;
      const UniqueFd fd(open(disk.c_str(), O_WRONLY | O_CLOEXEC));
      EXPECT_EQ(pwrite(fd.get(), "guest", 5, 0), 5);
      EXPECT_EQ(fsync(fd.get()), 0);
    };
    const auto result =
        SyncFile(disk, fs.Path("copy"), {.max_bytes_per_second = 64 * kMiB}, writer);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->source_changed, write);
    EXPECT_EQ(IsUnfinished(fs.Path("copy")), write);
  };
  check(true);
  check(false);
  EXPECT_TRUE(ReadContent(fs.Path("copy")) == ReadContent(fs.Path("disk")));
  Shell("losetup --detach " + disk);
}

// A checkpoint is noted on what the run has written, not on what somebody wrote since.
TEST(SyncCareTest, NoCheckpointIsNotedOnACopyThatWasWrittenSince) {
  const LoopMount fs("ext4", "-E nodiscard");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  WriteContent(fs.Path("copy"), "content");
  const int64_t before = MtimeNs(fs.Path("copy"));
  ASSERT_TRUE(NoteCheckpoint(fs.Path("copy"), "mine", before).ok());
  EXPECT_EQ(NotedCheckpoint(fs.Path("copy")), "mine");
  usleep(20000);
  WriteContent(fs.Path("copy"), "CONTENT");
  EXPECT_EQ(NotedCheckpoint(fs.Path("copy")), "");
  EXPECT_FALSE(NoteCheckpoint(fs.Path("copy"), "mine", before).ok());
  EXPECT_EQ(NotedCheckpoint(fs.Path("copy")), "");
}

}  // namespace
}  // namespace virt_reclaim::sync
