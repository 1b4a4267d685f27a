// virt-reclaim: the host program. Puts the real services together and hands them to RunProgram.
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/io.h"
#include "base/journal.h"
#include "base/standard_fds.h"
#include "base/status.h"
#include "base/stop_signal.h"
#include "host/cli/backup_watcher.h"
#include "host/cli/program.h"
#include "host/cli/run_directory.h"
#include "host/cli/virt_sparsify_program.h"

namespace virt_reclaim {
namespace {

constexpr absl::string_view kVirtSparsify = "virt-sparsify";

// Where a helper program is; a variable stands in for it in tests.
std::string ProgramPath(const char* variable, const char* installed) {
  const char* path = getenv(variable);
  return path == nullptr ? installed : path;
}

// libvirt's definitions on this machine: who has them has domains, whether its daemon answers or
// not.
bool HasDefinitions() {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/etc/libvirt/qemu", error)) {
    if (entry.path().extension() == ".xml") return true;
  }
  return false;
}

absl::StatusOr<std::unique_ptr<Hypervisor>> Connect(const CommandLine& line,
                                                    const std::stop_token& stop) {
  if (line.no_libvirt) return NewNoHypervisor();
  ConnectOptions options = {.uri = line.connect, .debug = line.debug};
  options.may_ask = isatty(STDIN_FILENO) == 1;
  auto hypervisor = ConnectLibvirt(options, stop);
  const bool only_files =
      line.verb == Verb::kSparsify && !line.all_off &&
      std::all_of(line.domains.begin(), line.domains.end(),
                  [](const std::string& target) { return target.find('/') != std::string::npos; });
  if (!hypervisor.ok() && only_files && line.connect.empty() && !stop.stop_requested()) {
    if (!HasDefinitions()) return NewNoHypervisor();
    return Annotate(hypervisor.status(),
                    absl::StrCat("libvirt must say whether a domain uses the image (or ",
                                 line.drop_in ? absl::StrCat("set ", kNoLibvirtVariable, "=1")
                                              : "write --no-libvirt",
                                 ")"));
  }
  return hypervisor;
}

void FillIn(const CommandLine& line, sparsify::SparsifyOptions& options) {
  options.worker.program = ProgramPath("VIRT_RECLAIM_FREEMAP", VIRT_RECLAIM_FREEMAP_PROGRAM);
  options.tools = {ProgramPath("VIRT_RECLAIM_QSD", "/usr/bin/qemu-storage-daemon"),
                   line.run_directory};
}

absl::Status WithRealServices(const CommandLine& given,
                              const std::function<void(const Services&)>& use,
                              const std::stop_token& stopped) {
  VR_ASSIGN_OR_RETURN(const RunDirectory run_directory, RunDirectory::Choose(given.run_directory));
  CommandLine line = given;
  line.run_directory = run_directory.path();
  std::optional<BackupWatcher> watcher;
  if (line.verb == Verb::kSync && !line.dry_run && !line.clean) watcher.emplace(line);
  VR_ASSIGN_OR_RETURN(const auto hypervisor, Connect(line, stopped));
  const auto images = NewImageStore();
  const auto offline_guest =
      NewOfflineGuest(ProgramPath("VIRT_RECLAIM_GUESTFS", VIRT_RECLAIM_GUESTFS_PROGRAM));
  const auto sparsify = [&line](const auto& disks, sparsify::Mode mode,
                                sparsify::SparsifyOptions options, const auto& check,
                                const auto& progress, const auto& stop) {
    FillIn(line, options);
    return sparsify::Sparsify(disks, mode, options, check, progress, stop);
  };
  const auto zero_free = [&line](sparsify::Overlay& overlay, sparsify::SparsifyOptions options,
                                 const auto& progress, const auto& stop) {
    FillIn(line, options);
    return overlay.ZeroFree(options, progress, stop);
  };
  use(Services{*hypervisor, *images, ConnectGuestAgent, line.run_directory, line.state_directory,
               absl::Now, absl::SleepFor, offline_guest.get(), sparsify, zero_free, [&watcher] {
                 if (watcher) watcher->Leave();
               }});
  return absl::OkStatus();
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

// What is said to the journal with fields is not said to it a second time as text.
void WriteToJournal(ProgramResult& result) {
  if (result.journal.empty() || !IsJournal(STDERR_FILENO)) return;
  Journal journal("virt-reclaim");
  for (const JournalEntry& entry : result.journal) {
    if (!journal.Send(entry)) return;
  }
  journal.Settle();
  result.err.clear();
  if (result.journal_says_out && IsJournal(STDOUT_FILENO)) result.out.clear();
}

// Behind the verb virt-sparsify, or of a program that is called so; empty: neither.
std::optional<std::vector<std::string>> VirtSparsifyArguments(int argc, char** argv) {
  const absl::string_view name = argc > 0 ? argv[0] : "";
  if (name.substr(name.rfind('/') + 1) == kVirtSparsify)
    return std::vector<std::string>(argv + 1, argv + argc);
  if (argc > 1 && absl::string_view(argv[1]) == kVirtSparsify)
    return std::vector<std::string>(argv + 2, argv + argc);
  return std::nullopt;
}

int Main(int argc, char** argv) {
  KeepStandardFds();
  setenv("GRPC_VERBOSITY", "NONE",
         0);  // a hostile guest could fill the terminal with gRPC's own log
  const StopSignal stop_signal;
  const WithServices with_services = [&](const CommandLine& line, const auto& use) {
    return WithRealServices(line, use, stop_signal.token());
  };
  if (const auto arguments = VirtSparsifyArguments(argc, argv)) {
    VirtSparsifyStreams streams;
    streams.out = [](absl::string_view text) { WriteAll(STDOUT_FILENO, text); };
    streams.err = [](absl::string_view text) { WriteAll(STDERR_FILENO, text); };
    streams.terminated = [&] { return stop_signal.received() == SIGTERM; };
    if (isatty(STDIN_FILENO) == 1) {
      streams.wait_for_return = [&](absl::string_view text) {
        AskOnTerminal(std::string(text), stop_signal.token());
      };
    }
    return RunVirtSparsify(*arguments, with_services, streams, stop_signal.token());
  }
  ProgramResult result;
  {
    ProgressLine progress(STDERR_FILENO);
    Confirm confirm;
    if (isatty(STDIN_FILENO) == 1 && isatty(STDERR_FILENO) == 1) {
      confirm = [&](const std::string& question) {
        return AskOnTerminal(question, stop_signal.token());
      };
    }
    result =
        RunProgram({argv + 1, argv + argc}, with_services, progress, stop_signal.token(), confirm);
  }
  WriteToJournal(result);
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
