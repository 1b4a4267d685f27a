#include "guest-agent/fitrim.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <optional>
#include <thread>

#include "absl/cleanup/cleanup.h"
#include "base/status.h"
#include "base/unique_fd.h"

namespace virt_reclaim::agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// One message on the child's socket (SOCK_SEQPACKET keeps them whole). At most one range ahead of
// the reader's buffer: the socket's buffer bounds them, and the child waits in send.
struct Report {
  uint64_t position = 0;
  uint64_t trimmed = 0;
  uint32_t chunks = 0;
  int32_t error = 0;
  uint32_t last = 0;  // nothing follows
};

constexpr int kDeviceFd = 0;  // the child's only two descriptors
constexpr int kSocketFd = 1;

// ---- In the child: async-signal-safe calls only, no allocation.

// Without the agent's other descriptors: an agent killed during a long FITRIM would otherwise keep
// its port open.
void KeepTwoDescriptors(int device, int socket) {
  const int high_device = fcntl(device, F_DUPFD, 10);
  const int high_socket = fcntl(socket, F_DUPFD, 10);
  if (high_device < 0 || high_socket < 0) _exit(1);
  if (dup2(high_device, kDeviceFd) < 0 || dup2(high_socket, kSocketFd) < 0) _exit(1);
  if (syscall(SYS_close_range, 2U, ~0U, 0U) == 0) return;
  for (int fd = 2; fd < 1024; ++fd) close(fd);  // Linux before 5.9
}

// Waits for `pause`; true when the parent wants no more (it shut the socket down, or died).
bool StopRequested(milliseconds pause) {
  pollfd socket = {.fd = kSocketFd, .events = POLLIN, .revents = 0};
  return poll(&socket, 1, static_cast<int>(pause.count())) != 0;
}

constexpr uint64_t kNoPressure = UINT64_MAX;  // not known

uint64_t ReadPressure(const char* file) {
  const int fd = open(file, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return kNoPressure;
  char text[256];
  const ssize_t n = read(fd, text, sizeof text);
  close(fd);
  return n > 0 ? ParsePressure(text, static_cast<size_t>(n)).value_or(kNoPressure) : kNoPressure;
}

// Between two ranges; true when the parent wants no more.
bool Rest(const FitrimOptions& options, std::chrono::nanoseconds took, uint64_t bytes) {
  const bool watch = WorthWatching(options.pace, took);
  milliseconds pause = PauseAfter(options.pace, took, bytes);
  if (watch) pause = std::max(pause, kLeastWatch);
  const auto limit = steady_clock::now() + MostBackOff(pause);
  while (true) {
    const auto begin = steady_clock::now();
    const uint64_t before = watch ? ReadPressure(options.pressure_file) : kNoPressure;
    if (StopRequested(pause)) return true;
    if (before == kNoPressure || steady_clock::now() >= limit) return false;
    const uint64_t after = ReadPressure(options.pressure_file);
    if (after == kNoPressure || after < before) return false;
    if (!IsPressed(after - before, steady_clock::now() - begin)) return false;
  }
}

[[noreturn]] void TrimInChild(const RangePlan& plan, const FitrimOptions& options,
                              FitrimCall call) {
  Report report;
  TrimRange range = plan.At(plan.First());
  while (true) {
    uint64_t length = range.length;
    const auto begin = steady_clock::now();
    report.error = call(kDeviceFd, range.start, length, options.minimum_bytes);
    const auto took = steady_clock::now() - begin;
    const std::optional<uint64_t> next = plan.After(range);
    ++report.chunks;
    if (report.error == 0) {
      report.trimmed += length;
      report.position = range.start + range.length;
    }
    report.last = report.error != 0 || !next ? 1 : 0;
    if (send(kSocketFd, &report, sizeof report, MSG_NOSIGNAL) < 0 || report.last != 0) _exit(0);
    if (Rest(options, took, length)) _exit(0);
    range = plan.At(*next);
  }
}

// ---- In the parent.

// Waits for `child` to be gone. One in uninterruptible sleep on a dead disk does not even die of
// SIGKILL: it is left to a thread of its own, so that nobody waits for it and no zombie stays.
void Reap(pid_t child, milliseconds patience) {
  const auto deadline = steady_clock::now() + patience;
  while (true) {
    const pid_t waited = waitpid(child, nullptr, WNOHANG);
    if (waited == child || (waited < 0 && errno != EINTR)) return;
    if (steady_clock::now() >= deadline) break;
    std::this_thread::sleep_for(milliseconds(1));
  }
  std::thread([child] {
    while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
    }
  }).detach();
}

}  // namespace

int KernelFitrim(int fd, uint64_t start, uint64_t& length, uint64_t minimum) {
  fstrim_range range = {.start = start, .len = length, .minlen = minimum};
  if (ioctl(fd, FITRIM, &range) != 0) return errno;
  length = range.len;
  return 0;
}

absl::StatusOr<FitrimOutcome> RunFitrim(
    int fd, const RangePlan& plan, const FitrimOptions& options,
    const std::function<void(const FitrimProgress&)>& on_progress, const std::stop_token& stop,
    FitrimCall call) {
  FitrimOutcome outcome;
  if (stop.stop_requested()) {
    outcome.cancelled = true;
    return outcome;
  }
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return ErrnoStatus(errno, "socketpair");
  UniqueFd parent_end(ends[0]);
  UniqueFd child_end(ends[1]);
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake.valid()) return ErrnoStatus(errno, "eventfd");

  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) return ErrnoStatus(errno, "fork");
  if (child == 0) {
    // SIGINT of a terminal stays blocked (StopSignal blocked it): the parent decides when to kill.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);  // it died before the prctl
    KeepTwoDescriptors(fd, child_end.get());
    TrimInChild(plan, options, call);
  }
  child_end.Reset();
  bool finished = false;
  auto reap = absl::MakeCleanup([&] {
    if (!finished) kill(child, SIGKILL);
    Reap(child, milliseconds(250));
  });

  const std::stop_callback wake_up(stop, [&wake] {
    const uint64_t one = 1;
    static_cast<void>(!write(wake.get(), &one, sizeof one));
  });
  std::optional<steady_clock::time_point> kill_at;
  while (true) {
    int timeout = -1;
    if (kill_at) {
      const auto left = std::chrono::ceil<milliseconds>(*kill_at - steady_clock::now());
      if (left <= milliseconds(0)) break;
      timeout = static_cast<int>(left.count());
    }
    pollfd fds[] = {{.fd = parent_end.get(), .events = POLLIN, .revents = 0},
                    {.fd = kill_at ? -1 : wake.get(), .events = POLLIN, .revents = 0}};
    if (poll(fds, 2, timeout) < 0 && errno != EINTR) return ErrnoStatus(errno, "poll");
    if (stop.stop_requested() && !kill_at) {
      kill_at = steady_clock::now() + kStopGrace;
      shutdown(parent_end.get(), SHUT_WR);
    }
    if ((fds[0].revents & (POLLIN | POLLHUP)) == 0) continue;
    Report report;
    const ssize_t n = recv(parent_end.get(), &report, sizeof report, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n != ssize_t{sizeof report}) {  // 0: the child has gone
      finished = true;
      if (!stop.stop_requested())
        return absl::InternalError("the trim process ended before its last range");
      break;
    }
    outcome.progress = {report.position, report.trimmed, report.chunks};
    outcome.error_number = report.error;
    if (report.error == 0) on_progress(outcome.progress);
    if (report.last != 0) {
      finished = true;
      return outcome;
    }
  }
  outcome.cancelled = true;
  return outcome;
}

}  // namespace virt_reclaim::agent
