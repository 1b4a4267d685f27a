// virt-reclaim: the host program. Puts the real services together and hands them to RunProgram.
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/standard_fds.h"
#include "base/status.h"
#include "base/stop_signal.h"
#include "host/cli/backup_watcher.h"
#include "host/cli/program.h"

namespace virt_reclaim {
namespace {

absl::Status WithRealServices(const CommandLine& line,
                              const std::function<void(const Services&)>& use) {
  std::optional<BackupWatcher> watcher;
  if (line.verb == Verb::kSync && !line.dry_run && !line.clean) watcher.emplace(line);
  VR_ASSIGN_OR_RETURN(const auto hypervisor, ConnectLibvirt(line.connect, line.debug));
  const auto images = NewImageStore();
  const char* reader = getenv("VIRT_RECLAIM_GUESTFS");
  const auto offline_guest =
      NewOfflineGuest(reader == nullptr ? VIRT_RECLAIM_GUESTFS_PROGRAM : reader);
  use(Services{*hypervisor, *images, ConnectGuestAgent, line.run_directory, line.state_directory,
               absl::Now, absl::SleepFor, offline_guest.get()});
  return absl::OkStatus();
}

bool WriteAll(int fd, const std::string& text) {
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    done += static_cast<size_t>(n);
  }
  return true;
}

// Anything but "y" or "yes" is no, also the end of the input and Ctrl-C.
bool AskOnTerminal(const std::string& question, const std::stop_token& stop) {
  constexpr int kStepMilliseconds = 250;
  WriteAll(STDERR_FILENO, question);
  std::string answer;
  while (!stop.stop_requested() && answer.find('\n') == std::string::npos) {
    pollfd entry = {.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    if (poll(&entry, 1, kStepMilliseconds) <= 0) continue;
    char buffer[64];
    const ssize_t n = read(STDIN_FILENO, buffer, sizeof buffer);
    if (n <= 0) break;
    answer.append(buffer, static_cast<size_t>(n));
  }
  return answer == "y\n" || answer == "yes\n";
}

int Main(int argc, char** argv) {
  KeepStandardFds();
  setenv("GRPC_VERBOSITY", "NONE",
         0);  // a hostile guest could fill the terminal with gRPC's own log
  const StopSignal stop_signal;
  ProgramResult result;
  {
    ProgressLine progress(STDERR_FILENO);
    Confirm confirm;
    if (isatty(STDIN_FILENO) == 1 && isatty(STDERR_FILENO) == 1) {
      confirm = [&](const std::string& question) {
        return AskOnTerminal(question, stop_signal.token());
      };
    }
    result = RunProgram({argv + 1, argv + argc}, WithRealServices, progress, stop_signal.token(),
                        confirm);
  }
  const bool written = WriteAll(STDOUT_FILENO, result.out);
  const int why = errno;
  WriteAll(STDERR_FILENO, result.err);
  if (!written) {
    const auto status = ErrnoStatus(why, "write to standard output");
    // Who closed a pipe early has seen enough.
    if (why != EPIPE)
      WriteAll(STDERR_FILENO, absl::StrCat("virt-reclaim: ", status.message(), "\n"));
    if (result.status == ExitStatus::kDone) result.status = ExitStatus::kError;
  }
  return static_cast<int>(result.status);
}

}  // namespace
}  // namespace virt_reclaim

int main(int argc, char** argv) {
  try {
    const int status = virt_reclaim::Main(argc, argv);
    // libvirt's event loop runs on a detached thread; static destructors must not pull things away
    // from under it.
    fflush(nullptr);
    _exit(status);
  } catch (const std::exception& error) {
    fprintf(stderr, "virt-reclaim: internal error: %s\n", error.what());
    _exit(1);
  }
}
