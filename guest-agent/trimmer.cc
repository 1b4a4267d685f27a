#include "guest-agent/trimmer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/unique_fd.h"
#include "base/utf8.h"

namespace virt_reclaim::agent {
namespace {

using std::chrono::steady_clock;

// Less than this is no chunk of any filesystem's (the smallest block group: 8 MiB at 1 KiB blocks;
// a block: 512 bytes).
constexpr uint64_t kMinChunkBytes = 4096;

// What stands whatever the kernel would say: there is nothing to open, or it would mean writing
// below a read-only mount.
bool IsFinal(Obstacle obstacle) {
  return obstacle == Obstacle::kReadOnly || obstacle == Obstacle::kNoDevice ||
         obstacle == Obstacle::kNetwork || obstacle == Obstacle::kAutofs;
}

// A path as mountinfo would write it: without '/' at its end.
std::string Normalized(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

// The host knows names as the contract escapes them.
bool IsMountedAt(const Filesystem& filesystem, const std::string& name) {
  const auto& points = filesystem.mount_points;
  return std::any_of(points.begin(), points.end(), [&](const std::string& point) {
    return point == name || Utf8(point) == name;
  });
}

TrimFinished TrimOne(const TrimTarget& target, const TrimOptions& options, TrimObserver& observer,
                     uint32_t index, const std::stop_token& stop, FitrimCall call) {
  TrimFinished finished;
  finished.verdict = target.filesystem.verdict;
  if (WillBeSkipped(target)) {
    finished.result = TrimResult::kSkipped;
    return finished;
  }
  const auto fail = [&](int error_number) {
    finished.result = TrimResult::kFailed;
    finished.error_number = error_number;
    finished.verdict = ExplainTrimError(target.filesystem, error_number);
    return finished;
  };
  UniqueFd fd(
      open(target.mount_point.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW));
  if (!fd.valid()) return fail(errno);
  struct stat status = {};
  if (fstat(fd.get(), &status) != 0) return fail(errno);
  // Mounted over or unmounted since the table was read: another filesystem must not be trimmed in
  // its name. Subvolumes of a btrfs have numbers of their own.
  if (target.filesystem.type != "btrfs" && status.st_dev != target.filesystem.device)
    return fail(ESTALE);

  const RangePlan plan(ReadGeometry(target.filesystem, fd.get()), options.chunk_bytes,
                       target.start_bytes);
  const auto outcome = RunFitrim(
      fd.get(), plan, {options.minimum_bytes, options.pace},
      [&](const FitrimProgress& progress) { observer.OnProgress(target, index, progress); }, stop,
      call);
  if (!outcome.ok()) return fail(ECHILD);
  finished.progress = outcome->progress;
  if (outcome->error_number != 0) return fail(outcome->error_number);
  if (outcome->cancelled) finished.result = TrimResult::kCancelled;
  return finished;
}

}  // namespace

absl::StatusOr<std::vector<TrimTarget>> ChooseTargets(
    const FilesystemList& list, const std::vector<std::string>& mount_points) {
  std::vector<TrimTarget> targets;
  if (mount_points.empty()) {
    for (const Filesystem& filesystem : list.filesystems) {
      if (filesystem.verdict.obstacle == Obstacle::kNoDevice) continue;
      targets.push_back({filesystem, filesystem.mount_points.front(), false});
    }
    return targets;
  }
  std::set<const Filesystem*> chosen;
  for (const std::string& name : mount_points) {
    const std::string wanted = Normalized(name);
    const auto found =
        std::find_if(list.filesystems.begin(), list.filesystems.end(),
                     [&](const Filesystem& filesystem) { return IsMountedAt(filesystem, wanted); });
    if (found == list.filesystems.end()) {
      return absl::NotFoundError(absl::StrCat("'", Printable(name), "' is not a mount point"));
    }
    if (chosen.insert(&*found).second)
      targets.push_back({*found, found->mount_points.front(), true});
  }
  return targets;
}

void BeginAt(const TrimPosition& start, std::vector<TrimTarget>& targets) {
  const auto found = std::find_if(targets.begin(), targets.end(), [&](const TrimTarget& target) {
    return IsMountedAt(target.filesystem, start.mount_point);
  });
  if (found == targets.end() || (start.after && found + 1 == targets.end())) return;
  if (!start.after) found->start_bytes = start.offset_bytes;
  targets.erase(targets.begin(), start.after ? found + 1 : found);
}

bool WillBeSkipped(const TrimTarget& target) {
  const Obstacle obstacle = target.filesystem.verdict.obstacle;
  if (target.named) return IsFinal(obstacle);
  return obstacle != Obstacle::kNone && obstacle != Obstacle::kPartial;
}

absl::Status CheckTrimOptions(const TrimOptions& options) {
  const Pace& pace = options.pace;
  if (pace.pause < std::chrono::milliseconds(0) || pace.pause > kMaxPause) {
    return absl::InvalidArgumentError("the pause must be between 0 and 60 seconds");
  }
  if (pace.pause_percent > kMaxPausePercent) {
    return absl::InvalidArgumentError(
        absl::StrCat("the pause must be at most ", kMaxPausePercent, " percent"));
  }
  if (options.chunk_bytes != 0 && options.chunk_bytes < kMinChunkBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a chunk must have at least ", kMinChunkBytes, " bytes"));
  }
  return absl::OkStatus();
}

TrimTotals TrimAll(const std::vector<TrimTarget>& targets, const TrimOptions& options,
                   TrimObserver& observer, const std::stop_token& stop, FitrimCall call) {
  TrimTotals totals;
  const auto start = steady_clock::now();
  const auto count = static_cast<uint32_t>(targets.size());
  bool io_error = false;
  for (uint32_t index = 0; index < count && !stop.stop_requested(); ++index) {
    const TrimTarget& target = targets[index];
    const auto begin = steady_clock::now();
    if (!WillBeSkipped(target) && !io_error) observer.OnStarted(target, index, count);
    TrimFinished finished;
    if (io_error && !WillBeSkipped(target)) {
      finished.result = TrimResult::kCancelled;
      finished.verdict = target.filesystem.verdict;
      observer.OnFinished(target, index, finished);
      continue;
    }
    finished = TrimOne(target, options, observer, index, stop, call);
    io_error |= finished.error_number == EIO;
    finished.elapsed = steady_clock::now() - begin;
    switch (finished.result) {
      case TrimResult::kDone:
        ++totals.done;
        break;
      case TrimResult::kSkipped:
        ++totals.skipped;
        break;
      case TrimResult::kFailed:
        ++totals.failed;
        break;
      case TrimResult::kCancelled:
        totals.cancelled = true;
        break;
    }
    observer.OnFinished(target, index, finished);
    // A stop after the last one came too late to matter.
    if (stop.stop_requested() && index + 1 < count) totals.cancelled = true;
  }
  if (stop.stop_requested() && totals.done + totals.skipped + totals.failed == 0)
    totals.cancelled = true;
  totals.elapsed = steady_clock::now() - start;
  return totals;
}

Verdict ExplainTrimError(const Filesystem& filesystem, int error_number) {
  switch (error_number) {
    case ENOTTY:
      return {Obstacle::kTypeNotSupported, ""};
    case EROFS:
      return {Obstacle::kReadOnly, ""};
    case EOPNOTSUPP: {
      Verdict chain = JudgeChain(filesystem.chain);
      if (chain.obstacle != Obstacle::kNone && chain.obstacle != Obstacle::kLoop) return chain;
      // The kernel knows better than sysfs; the top device is the one that refused.
      return {Obstacle::kDiskNotSupported,
              filesystem.chain.devices.empty() ? "" : filesystem.chain.devices.front().name};
    }
    default:
      return {filesystem.verdict.obstacle, filesystem.verdict.device};
  }
}

}  // namespace virt_reclaim::agent
