#include "base/subprocess.h"

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

namespace virt_reclaim {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kStep{100};    // how late a stop is noticed
constexpr milliseconds kDying{2000};  // of one that was killed; it closes its files
constexpr milliseconds kDyingStep{1};
constexpr size_t kMaxErrorsBytes = 4096;
constexpr int kExecFailed = 127;  // as a shell says it

// In the child, forked from a process with threads: system calls only.
[[noreturn]] void Exec(char* const* arguments, char* const* environment, int null, int output,
                       int errors, pid_t parent) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(kExecFailed);
  RestoreSignalsInChild();
  if (dup2(null, 0) < 0 || dup2(output, 1) < 0 || dup2(errors, 2) < 0) _exit(kExecFailed);
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

void KeepEnd(std::string& text, const char* bytes, size_t size) {
  text.append(bytes, size);
  if (text.size() > kMaxErrorsBytes) text.erase(0, text.size() - kMaxErrorsBytes);
}

// What is left of the time; an error when it is over, or somebody wants a stop.
absl::StatusOr<milliseconds> TimeLeft(const CommandLimits& limits,
                                      steady_clock::time_point deadline) {
  if (limits.stop.stop_requested()) return absl::CancelledError("stopped");
  const auto left = std::chrono::ceil<milliseconds>(deadline - steady_clock::now());
  if (left <= milliseconds(0)) return absl::DeadlineExceededError("took too long");
  return left;
}

// Reads until everyone has closed the pipes. `errors` is -1 when there is one pipe for both.
absl::Status ReadOutput(int output, int errors, const CommandLimits& limits,
                        steady_clock::time_point deadline, CommandResult& result) {
  pollfd entries[2] = {{.fd = output, .events = POLLIN, .revents = 0},
                       {.fd = errors, .events = POLLIN, .revents = 0}};
  while (entries[0].fd >= 0 || entries[1].fd >= 0) {
    VR_ASSIGN_OR_RETURN(const milliseconds left, TimeLeft(limits, deadline));
    const int ready = poll(entries, 2, static_cast<int>(std::min(left, kStep).count()));
    if (ready < 0 && errno != EINTR) return ErrnoStatus(errno, "poll");
    if (ready <= 0) continue;
    for (pollfd& entry : entries) {
      if (entry.fd < 0 || entry.revents == 0) continue;
      char buffer[16384];
      const ssize_t n = read(entry.fd, buffer, sizeof buffer);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return ErrnoStatus(errno, "read");
      if (n == 0) {
        entry.fd = -1;  // poll passes over it
      } else if (&entry == &entries[1]) {
        KeepEnd(result.errors, buffer, static_cast<size_t>(n));
      } else {
        Keep(result, buffer, static_cast<size_t>(n), limits);
      }
    }
    if (limits.fail_when_full && result.truncated) {
      return absl::ResourceExhaustedError("it prints more than it may");
    }
  }
  return absl::OkStatus();
}

// Ends the group of `child`, which must be reaped by nobody else.
void EndGroup(pid_t child, milliseconds grace) {
  for (const auto end = steady_clock::now() + grace; steady_clock::now() < end;) {
    // More than once: a child of it that was not there for the first one may go on.
    kill(-child, SIGTERM);
    std::this_thread::sleep_for(kStep);
    siginfo_t info = {};
    // Not reaped yet: its id, which is the group's, must stay ours for the kill below.
    const bool ended =
        waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
        info.si_pid == child;
    if (ended) break;
  }
  kill(-child, SIGKILL);
  // Until it is gone it may still make the file that the caller is about to remove.
  for (const auto end = steady_clock::now() + kDying; steady_clock::now() < end;) {
    if (waitpid(child, nullptr, WNOHANG) != 0) return;
    std::this_thread::sleep_for(kDyingStep);
  }
  std::thread([child] {  // one that sleeps on a dead disk dies of nothing
    while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
    }
  })
      .detach();
}

struct Pipe {
  UniqueFd read_end, write_end;
};

absl::StatusOr<Pipe> MakePipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus(errno, "pipe");
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

}  // namespace

absl::StatusOr<CommandResult> RunCommand(const std::vector<std::string>& arguments,
                                         const CommandLimits& limits) {
  std::vector<std::string> words = arguments;
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::vector<std::string> variables = limits.environment;
  variables.push_back("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
  variables.push_back("LC_ALL=C");
  std::vector<char*> environment;
  for (std::string& variable : variables) environment.push_back(variable.data());
  environment.push_back(nullptr);

  VR_ASSIGN_OR_RETURN(Pipe output, MakePipe());
  Pipe errors;
  if (limits.separate_errors) {
    VR_ASSIGN_OR_RETURN(errors, MakePipe());
  }
  UniqueFd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!null.valid()) return ErrnoStatus(errno, "open '/dev/null'");

  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) return ErrnoStatus(errno, "fork");
  if (child == 0) {
    const UniqueFd& stderr_end = limits.separate_errors ? errors.write_end : output.write_end;
    Exec(argv.data(), environment.data(), null.get(), output.write_end.get(), stderr_end.get(),
         parent);
  }
  setpgid(child, child);  // whoever comes first
  output.write_end.Reset();
  errors.write_end.Reset();

  CommandResult result;
  const auto deadline = steady_clock::now() + limits.deadline;
  absl::Status read_status =
      ReadOutput(output.read_end.get(), errors.read_end.get(), limits, deadline, result);
  int status = 0;
  // It may have closed its output and go on.
  while (read_status.ok() && waitpid(child, &status, WNOHANG) == 0) {
    read_status = TimeLeft(limits, deadline).status();
    std::this_thread::sleep_for(milliseconds(1));
  }
  if (!read_status.ok()) {
    EndGroup(child, limits.grace);
    return Annotate(read_status, absl::StrCat("run '", arguments[0], "'"));
  }
  if (WIFEXITED(status)) result.exit_status = WEXITSTATUS(status);
  return result;
}

}  // namespace virt_reclaim
