#include "guest-agent/cli.h"

#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/io.h"
#include "base/stop_signal.h"
#include "guest-agent/daemon.h"
#include "guest-agent/guest_calls.h"
#include "guest-agent/preflight.h"

namespace virt_reclaim::agent {
namespace {

void Warn(absl::string_view message) {
  const std::string line = absl::StrCat("virt-reclaim-agent: ", Printable(message), "\n");
  fputs(line.c_str(), stderr);
}

// `message` is printable already: it was put together from printable parts.
void WarnPrintable(absl::string_view message) {
  const std::string line = absl::StrCat("virt-reclaim-agent: ", message, "\n");
  fputs(line.c_str(), stderr);
}

// False when stdout is gone (a full disk, a closed pipe): then nothing was really said.
bool Print(absl::string_view text) {
  return fwrite(text.data(), 1, text.size(), stdout) == text.size() && fflush(stdout) == 0;
}

int PrintOrFail(absl::string_view text, int status) {
  if (Print(text)) return status;
  Warn("cannot write to standard output");
  return kExitError;
}

int List(const CommandLine& line) {
  const auto list = ReadFilesystems(RealProbes());
  if (!list.ok()) {
    Warn(list.status().message());
    return kExitError;
  }
  if (list->truncated) Warn("too many mounts: some are left out");
  return PrintOrFail(line.json ? ListJson(*list, line.all) : ListTable(*list, line.all), kExitDone);
}

// Prints each filesystem as it is done.
class CliObserver final : public TrimObserver {
 public:
  explicit CliObserver(const CommandLine& line) : line_(line) {}

  void OnStarted(const TrimTarget& /*target*/, uint32_t /*index*/, uint32_t /*count*/) override {}
  void OnProgress(const TrimTarget& /*target*/, uint32_t /*index*/,
                  const FitrimProgress& /*progress*/) override {}
  void OnFinished(const TrimTarget& target, uint32_t /*index*/,
                  const TrimFinished& finished) override {
    lines_.push_back({target, finished});
    if (const std::string warning = TrimWarning(lines_.back()); !warning.empty())
      WarnPrintable(warning);
    if (finished.result == TrimResult::kDone && !line_.json) {
      printed_ = Print(TrimSentence(lines_.back(), line_.dry_run)) && printed_;
    }
  }

  const std::vector<TrimLine>& lines() const { return lines_; }
  bool printed() const { return printed_; }

 private:
  const CommandLine& line_;
  std::vector<TrimLine> lines_;
  bool printed_ = true;
};

// What TrimAll would do, without doing it.
TrimTotals Rehearse(const std::vector<TrimTarget>& targets, TrimObserver& observer) {
  TrimTotals totals;
  for (uint32_t index = 0; index < targets.size(); ++index) {
    TrimFinished finished;
    finished.verdict = targets[index].filesystem.verdict;
    if (WillBeSkipped(targets[index])) finished.result = TrimResult::kSkipped;
    ++(finished.result == TrimResult::kSkipped ? totals.skipped : totals.done);
    observer.OnFinished(targets[index], index, finished);
  }
  return totals;
}

int Trim(CommandLine line) {
  const StopSignal stop;
  auto list = ReadFilesystems(RealProbes());
  if (!list.ok()) {
    Warn(list.status().message());
    return kExitError;
  }
  for (std::string& point : line.mount_points) {
    // As fstrim: a relative path or a symbolic link to a mount point will do.
    if (std::string real = RealPath(point); !real.empty()) point = std::move(real);
  }
  const auto targets = ChooseTargets(*list, line.mount_points);
  if (!targets.ok()) {
    WarnPrintable(targets.status().message());
    return kExitError;
  }
  CliObserver observer(line);
  const TrimTotals totals = line.dry_run ? Rehearse(*targets, observer)
                                         : TrimAll(*targets, line.trim, observer, stop.token());
  const int status = TrimExitStatus(observer.lines(), totals);
  if (line.json) return PrintOrFail(TrimJson(observer.lines(), totals, line.dry_run), status);
  if (observer.printed()) return status;
  Warn("cannot write to standard output");
  return kExitError;
}

int ShowPreflight(const CommandLine& line) {
  const auto preflight = ReadPreflight(RealPreflightSources());
  if (!preflight.ok()) {
    Warn(preflight.status().message());
    return kExitError;
  }
  if (preflight->truncated) Warn("more than can be looked at: some is left out");
  return PrintOrFail(line.json ? PreflightJson(*preflight) : PreflightText(*preflight), kExitDone);
}

// One call of the daemon's, on the socket that systemd made stdin and stdout of.
int Worker() {
  const StopSignal stop;
  const absl::Status status = ServeWorker(0, 1, DirectCalls(RealPreflightSources()), stop.token());
  if (status.ok()) return kExitDone;
  Warn(status.message());
  return kExitError;
}

int Daemon(const CommandLine& line) {
  const StopSignal stop;
  return RunDaemon({line.port}, stop.token());
}

}  // namespace

int RunProgram(std::span<const char* const> arguments) {
  auto line = ParseCommandLine(arguments);
  if (!line.ok()) {
    WarnPrintable(line.status().message());
    return kExitUsage;
  }
  switch (line->command) {
    case Command::kHelp:
      return PrintOrFail(kHelpText, kExitDone);
    case Command::kVersion:
      return PrintOrFail("virt-reclaim-agent " VIRT_RECLAIM_VERSION "\n", kExitDone);
    case Command::kList:
      return List(*line);
    case Command::kTrim:
      return Trim(*std::move(line));
    case Command::kPreflight:
      return ShowPreflight(*line);
    case Command::kWorker:
      return Worker();
    case Command::kCleanUp:
      DirectCalls(RealPreflightSources()).clean_up();
      return kExitDone;
    case Command::kDaemon:
      return Daemon(*line);
  }
  return kExitUsage;
}

}  // namespace virt_reclaim::agent
