// Who wants an image while punch works on it gets it, a moment later, and what was done stays.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "tests/component/punch_fixtures.h"

namespace virt_reclaim::punch {
namespace {

using std::chrono::steady_clock;

constexpr uint64_t kRate = 60 * kMiB;

struct Fight {
  absl::StatusOr<PunchResult> result;
  int child_status = -1;  // of the one who came, as of wait(2)
};

// Punches `path`, slowly; after the first window `come` is run by another process, whose exit
// status it returns.
Fight PunchWhile(const std::string& path, const std::function<int()>& come) {
  pid_t child = -1;
  const auto start = [&](const PunchProgress&) {
    if (child >= 0) return;
    child = fork();
    if (child == 0) _exit(come());
    usleep(200000);  // until it waits in open(2)
  };
  Fight fight = {.result = PunchFile(path, {.max_bytes_per_second = kRate}, start)};
  waitpid(child, &fight.child_status, 0);
  return fight;
}

struct InterruptedTest : ::testing::Test {
  InterruptedTest() : fs("ext4", "-E nodiscard") {}

  void SetUp() override {
    ASSERT_TRUE(fs.ok()) << fs.why_not();
    WriteContent(path(), content);
    const auto all = MeasureFile(path());
    ASSERT_TRUE(all.ok()) << all.status();
    zero_bytes = all->zero_bytes;
  }
  std::string path() const { return fs.Path("image"); }

  void ExpectPartial(const Fight& fight) const {
    ASSERT_TRUE(fight.result.ok()) << fight.result.status();
    EXPECT_TRUE(fight.result->interrupted);
    EXPECT_FALSE(fight.result->cancelled);
    EXPECT_GT(fight.result->punched_bytes, 0U);
    EXPECT_LT(fight.result->punched_bytes, zero_bytes);
  }
  // The next run ends the job.
  void ExpectTheRestIsPunchedNext(const std::string& wanted) const {
    const auto result = PunchFile(path());
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_FALSE(result->interrupted);
    EXPECT_GT(result->punched_bytes, 0U);
    EXPECT_TRUE(ReadContent(path()) == wanted);
  }

  LoopMount fs;
  std::string content = HalfZeroContent(96 * kMiB);
  uint64_t zero_bytes = 0;
};

TEST_F(InterruptedTest, WhoOpensTheImageDoesNotWaitForTheRest) {
  const int64_t mtime = MtimeNs(path());
  const Fight fight = PunchWhile(path(), [&] {
    const auto begin = steady_clock::now();
    const int fd = open(path().c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 1;
    return steady_clock::now() - begin < std::chrono::seconds(5) ? 0 : 2;
  });
  EXPECT_EQ(fight.child_status, 0);
  ExpectPartial(fight);
  EXPECT_TRUE(ReadContent(path()) == content);
  EXPECT_EQ(MtimeNs(path()), mtime);
  ExpectTheRestIsPunchedNext(content);
}

// With QEMU's own locks, which must not meet ours.
TEST_F(InterruptedTest, AQemuThatStartsWritesAndLosesNothing) {
  if (Shell("command -v qemu-io").status != 0) GTEST_SKIP() << "needs qemu-io";
  // Over zeroes and data, in what is punched already and in what is not.
  const std::string block(64 * kKiB, 'Z');
  const std::string words = absl::StrCat(
      "exec qemu-io -f raw -c 'write -P 0x5a 1M 64k' -c 'write -P 0x5a 90M 64k' ", path());
  const Fight fight = PunchWhile(path(), [&] { return Shell(words).status; });
  EXPECT_EQ(fight.child_status, 0);
  ExpectPartial(fight);
  for (const uint64_t at : {kMiB, 90 * kMiB}) content.replace(at, block.size(), block);
  EXPECT_TRUE(ReadContent(path()) == content);
  ExpectTheRestIsPunchedNext(content);
}

}  // namespace
}  // namespace virt_reclaim::punch
