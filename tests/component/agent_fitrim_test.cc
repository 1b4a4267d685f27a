// The trim's child process: reports, pauses, stops, is killed, and leaves nothing behind.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <iterator>
#include <string>
#include <thread>

#include "base/byte_size.h"
#include "base/unique_fd.h"
#include "guest-agent/fitrim.h"

namespace virt_reclaim::agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using ::testing::ElementsAre;

const RangePlan kFourChunks({128 * kMiB, 0, 4 * kGiB, false}, 0);

// Stand-ins for the ioctl. They run in the forked child: system calls only.
int Instant(int /*fd*/, uint64_t /*start*/, uint64_t& length, uint64_t minimum) {
  length = 1000 + minimum;
  return 0;
}
int ThirdFails(int /*fd*/, uint64_t start, uint64_t& length, uint64_t /*minimum*/) {
  length = 7;
  return start >= 2 * kGiB ? EIO : 0;
}
int Slow(int /*fd*/, uint64_t /*start*/, uint64_t& length, uint64_t /*minimum*/) {
  poll(nullptr, 0, 150);
  length = 1;
  return 0;
}
int Endless(int /*fd*/, uint64_t /*start*/, uint64_t& /*length*/, uint64_t /*minimum*/) {
  while (true) pause();
}
int Dies(int /*fd*/, uint64_t /*start*/, uint64_t& /*length*/, uint64_t /*minimum*/) { _exit(0); }
int CountsDescriptors(int fd, uint64_t /*start*/, uint64_t& length, uint64_t /*minimum*/) {
  length = 0;
  for (int i = 0; i < 1024; ++i) length += fcntl(i, F_GETFD) >= 0 ? 1 : 0;
  return fcntl(fd, F_GETFD) < 0 ? EBADF : 0;
}

struct FitrimTest : ::testing::Test {
  ~FitrimTest() override {
    EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1) << "a child process was left";
    EXPECT_EQ(errno, ECHILD);
  }
  absl::StatusOr<FitrimOutcome> Run(FitrimCall call, const FitrimOptions& options = {}) {
    return RunFitrim(
        root.get(), kFourChunks, options,
        [this](const FitrimProgress& progress) { positions.push_back(progress.position_bytes); },
        stop.get_token(), call);
  }
  void StopAfter(milliseconds time) {
    stopper = std::jthread([this, time] {
      std::this_thread::sleep_for(time);
      stop.request_stop();
    });
  }

  UniqueFd root{open("/", O_RDONLY | O_CLOEXEC)};
  std::stop_source stop;
  std::jthread stopper;
  std::vector<uint64_t> positions;
};

TEST_F(FitrimTest, ReportsEachRangeAndTheSum) {
  const auto outcome = Run(Instant, {.minimum_bytes = 24, .pace = {}});
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->progress.trimmed_bytes, 4 * 1024U);
  EXPECT_EQ(outcome->progress.chunks, 4U);
  EXPECT_EQ(outcome->error_number, 0);
  EXPECT_FALSE(outcome->cancelled);
  EXPECT_THAT(positions, ElementsAre(kGiB, 2 * kGiB, 3 * kGiB, ~uint64_t{0}));
}

TEST_F(FitrimTest, StopsAtTheFirstError) {
  const auto outcome = Run(ThirdFails);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->error_number, EIO);
  EXPECT_EQ(outcome->progress.trimmed_bytes, 14U);
  EXPECT_EQ(outcome->progress.chunks, 3U);
}

TEST_F(FitrimTest, PausesBetweenRanges) {
  const auto begin = steady_clock::now();
  ASSERT_TRUE(Run(Instant, {.pace = {.pause = milliseconds(50)}}).ok());
  EXPECT_GE(steady_clock::now() - begin, milliseconds(150));  // three pauses, none after the last
}

TEST_F(FitrimTest, RestsInProportionToTheRange) {
  const auto begin = steady_clock::now();
  ASSERT_TRUE(Run(Slow, {.pace = {.pause_percent = 100}}).ok());
  EXPECT_GE(steady_clock::now() - begin, milliseconds(4 * 150 + 3 * 150));
}

// As /proc/pressure/io, with somebody who waits all the time until `calm` is set.
class Pressure {
 public:
  explicit Pressure(std::atomic<bool>& calm) : calm_(calm) {
    Write();
    writer_ = std::jthread([this](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        std::this_thread::sleep_for(milliseconds(1));
        if (!calm_) Write();
      }
    });
  }
  const char* path() const { return path_.c_str(); }

 private:
  void Write() {
    const auto now = std::chrono::duration_cast<std::chrono::microseconds>(
        steady_clock::now().time_since_epoch());
    char text[64];
    const int n = snprintf(text, sizeof text, "some total=%018llu\n",
                           static_cast<unsigned long long>(now.count()));
    EXPECT_EQ(pwrite(fd_.get(), text, static_cast<size_t>(n), 0), n);
  }

  std::atomic<bool>& calm_;
  const std::string path_ = testing::TempDir() + "/pressure-" + std::to_string(getpid());
  UniqueFd fd_{open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
  std::jthread writer_;
};

TEST_F(FitrimTest, BacksOffWhileOthersWaitAndGoesOnByItself) {
  std::atomic<bool> calm = false;
  const Pressure pressure(calm);
  stopper = std::jthread([&] {
    std::this_thread::sleep_for(milliseconds(700));
    calm = true;
  });
  const auto begin = steady_clock::now();
  const auto outcome = Run(Slow, {.pace = {.back_off = true}, .pressure_file = pressure.path()});
  const auto took = steady_clock::now() - begin;
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->progress.chunks, 4U);
  EXPECT_GE(took, milliseconds(700 + 3 * 150));  // it waited until the others did not
  EXPECT_LT(took, milliseconds(5000));
}

TEST_F(FitrimTest, WithoutPressureInformationItGoesOn) {
  const auto begin = steady_clock::now();
  ASSERT_TRUE(Run(Slow, {.pace = {.back_off = true}, .pressure_file = "/nonexistent"}).ok());
  EXPECT_LT(steady_clock::now() - begin, milliseconds(2000));
}

TEST_F(FitrimTest, StopEndsAPauseAtOnce) {
  StopAfter(milliseconds(50));
  const auto begin = steady_clock::now();
  const auto outcome = Run(Instant, {.pace = {.pause = milliseconds(60000)}});
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_TRUE(outcome->cancelled);
  EXPECT_EQ(outcome->progress.chunks, 1U);
  EXPECT_LT(steady_clock::now() - begin, milliseconds(600));
}

TEST_F(FitrimTest, StopLetsTheRangeUnderWayEnd) {
  StopAfter(milliseconds(50));
  const auto outcome = Run(Slow);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_TRUE(outcome->cancelled);
  EXPECT_EQ(outcome->progress.chunks, 1U);
  EXPECT_EQ(outcome->progress.trimmed_bytes, 1U);
}

TEST_F(FitrimTest, ARangeThatDoesNotEndIsKilledWithinASecond) {
  StopAfter(milliseconds(20));
  const auto begin = steady_clock::now();
  const auto outcome = Run(Endless);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_TRUE(outcome->cancelled);
  EXPECT_LT(steady_clock::now() - begin, milliseconds(1020));
}

TEST_F(FitrimTest, StopBeforeTheStart) {
  stop.request_stop();
  EXPECT_TRUE(Run(Endless)->cancelled);
}

TEST_F(FitrimTest, ChildThatDiesIsAnError) {
  EXPECT_EQ(Run(Dies).status().code(), absl::StatusCode::kInternal);
}

// An agent's port must not stay open in a trim that outlives it.
TEST_F(FitrimTest, ChildHasTwoDescriptorsOnly) {
  const auto outcome = Run(CountsDescriptors);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->error_number, 0);
  EXPECT_EQ(outcome->progress.trimmed_bytes, 4 * 2U);
}

// From here on this process, and what it forks, is on a Linux before 5.9.
bool ForgetCloseRange() {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_close_range, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {.len = std::size(code), .filter = code};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0 &&
         syscall(SYS_close_range, 2000U, 2000U, 0U) != 0 && errno == ENOSYS;
}

TEST_F(FitrimTest, ChildHasTwoDescriptorsOnlyWithoutCloseRange) {
  const UniqueFd others[] = {UniqueFd(fcntl(root.get(), F_DUPFD_CLOEXEC, 200)),
                             UniqueFd(fcntl(root.get(), F_DUPFD_CLOEXEC, 900))};
  for (const UniqueFd& other : others) ASSERT_TRUE(other.valid());
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (!ForgetCloseRange()) _exit(2);
    const auto outcome = Run(CountsDescriptors);
    _exit(outcome.ok() && outcome->progress.trimmed_bytes == 4 * 2U ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0) << "2: the filter, 1: other descriptors in the child";
}

TEST_F(FitrimTest, ChildDiesWithItsParent) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const pid_t agent = fork();
  ASSERT_GE(agent, 0);
  if (agent == 0) {
    // The trim's child holds the pipe as what it trims; its end is the pipe's end.
    static_cast<void>(RunFitrim(
        ends[1], kFourChunks, {}, [](const FitrimProgress&) {}, {}, Endless));
    _exit(0);
  }
  close(ends[1]);
  std::this_thread::sleep_for(milliseconds(100));
  pollfd end = {.fd = ends[0], .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&end, 1, 0), 0);
  kill(agent, SIGKILL);
  waitpid(agent, nullptr, 0);
  EXPECT_EQ(poll(&end, 1, 2000), 1);
  EXPECT_NE(end.revents & POLLHUP, 0);
  close(ends[0]);
}

TEST_F(FitrimTest, KernelCallOnWhatCannotBeTrimmed) {
  const UniqueFd proc(open("/proc", O_RDONLY | O_CLOEXEC));
  uint64_t length = ~uint64_t{0};
  EXPECT_EQ(KernelFitrim(proc.get(), 0, length, 0), ENOTTY);
}

TEST_F(FitrimTest, ManyRunsLeaveNoDescriptors) {
  const auto count = [] {
    int n = 0;
    for (int i = 0; i < 1024; ++i) n += fcntl(i, F_GETFD) >= 0 ? 1 : 0;
    return n;
  };
  const int before = count();
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(Run(Instant).ok());
  EXPECT_EQ(count(), before);
}

}  // namespace
}  // namespace virt_reclaim::agent
