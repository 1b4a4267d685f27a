#include "guest-agent/subprocess.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <thread>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/stop_signal.h"
#include "base/unique_fd.h"

namespace virt_reclaim::agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kStep{100};  // how late a stop is noticed
constexpr int kExecFailed = 127;    // as a shell says it

// In the child, forked from a process with threads: system calls only.
[[noreturn]] void Exec(char* const* arguments, char* const* environment, int null, int output,
                       pid_t parent) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(kExecFailed);
  RestoreSignalsInChild();
  if (dup2(null, 0) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0) _exit(kExecFailed);
  if (syscall(SYS_close_range, 3U, ~0U, 0U) != 0) {
    for (int fd = 3; fd < 1024; ++fd) close(fd);  // Linux before 5.9
  }
  if (chdir("/") != 0) _exit(kExecFailed);
  execve(arguments[0], arguments, environment);
  _exit(kExecFailed);
}

void Keep(CommandResult& result, const char* bytes, size_t size, const CommandLimits& limits) {
  if (!limits.keep_end) {
    const size_t room = limits.max_output_bytes - result.output.size();
    result.output.append(bytes, std::min(size, room));
    result.truncated = result.truncated || size > room;
    return;
  }
  result.output.append(bytes, size);
  if (result.output.size() <= limits.max_output_bytes) return;
  result.output.erase(0, result.output.size() - limits.max_output_bytes);
  result.truncated = true;
}

// Reads until everyone has closed the pipe.
absl::Status ReadOutput(int fd, const CommandLimits& limits, steady_clock::time_point deadline,
                        CommandResult& result) {
  while (true) {
    if (limits.stop.stop_requested()) return absl::CancelledError("stopped");
    const auto left = std::chrono::ceil<milliseconds>(deadline - steady_clock::now());
    if (left <= milliseconds(0)) return absl::DeadlineExceededError("took too long");
    pollfd entry = {.fd = fd, .events = POLLIN, .revents = 0};
    const int ready = poll(&entry, 1, static_cast<int>(std::min(left, kStep).count()));
    if (ready < 0 && errno != EINTR) return ErrnoStatus(errno, "poll");
    if (ready <= 0) continue;
    char buffer[16384];
    const ssize_t n = read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "read");
    if (n == 0) return absl::OkStatus();
    Keep(result, buffer, static_cast<size_t>(n), limits);
  }
}

}  // namespace

absl::StatusOr<CommandResult> RunCommand(const std::vector<std::string>& arguments,
                                         const CommandLimits& limits) {
  std::vector<std::string> words = arguments;
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::string path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  std::string locale = "LC_ALL=C";
  char* const environment[] = {path.data(), locale.data(), nullptr};

  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus(errno, "pipe");
  UniqueFd output(ends[0]);
  UniqueFd input(ends[1]);
  UniqueFd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!null.valid()) return ErrnoStatus(errno, "open '/dev/null'");

  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) return ErrnoStatus(errno, "fork");
  if (child == 0) Exec(argv.data(), environment, null.get(), input.get(), parent);
  setpgid(child, child);  // whoever comes first
  input.Reset();

  CommandResult result;
  const auto deadline = steady_clock::now() + limits.deadline;
  absl::Status read_status = ReadOutput(output.get(), limits, deadline, result);
  int status = 0;
  // It may have closed its output and go on.
  while (read_status.ok() && waitpid(child, &status, WNOHANG) == 0) {
    if (steady_clock::now() >= deadline) {
      read_status = absl::DeadlineExceededError("took too long");
    } else if (limits.stop.stop_requested()) {
      read_status = absl::CancelledError("stopped");
    }
    std::this_thread::sleep_for(milliseconds(1));
  }
  if (!read_status.ok()) {
    kill(-child, SIGKILL);
    std::thread([child] {  // one that sleeps on a dead disk dies of nothing
      while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
      }
    })
        .detach();
    return Annotate(read_status, absl::StrCat("run '", arguments[0], "'"));
  }
  if (WIFEXITED(status)) result.exit_status = WEXITSTATUS(status);
  return result;
}

}  // namespace virt_reclaim::agent
