#include "host/commands/punch_files.h"

#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/escape.h"
#include "base/io.h"
#include "base/status.h"
#include "host/sync/unfinished_mark.h"

namespace virt_reclaim {
namespace {

// What stands in the way of a file is a reason; what went wrong with it is an error.
void SetOutcome(const absl::Status& status, Outcome& outcome) {
  const std::string message = Printable(status.message());
  if (status.ok()) {
    outcome.kind = OutcomeKind::kDone;
  } else if (absl::IsAborted(status)) {
    outcome.kind = OutcomeKind::kSkipped;
    outcome.reasons.push_back({Reason::kImageInUse, message});
  } else if (absl::IsUnimplemented(status)) {
    outcome.kind = OutcomeKind::kSkipped;
    outcome.reasons.push_back({Reason::kStorageCannotPunch, message});
  } else if (absl::IsFailedPrecondition(status)) {
    outcome.kind = OutcomeKind::kSkipped;
    outcome.reasons.push_back({Reason::kImageRefused, message});
  } else if (absl::IsCancelled(status)) {
    outcome.kind = OutcomeKind::kCancelled;
  } else {
    outcome.kind = OutcomeKind::kFailed;
    outcome.error = status;
  }
}

absl::Status PunchInto(punch::Puncher& puncher, PunchMode mode,
                       const punch::ProgressCallback& progress, const std::stop_token& stop,
                       PunchedFile& file) {
  VR_ASSIGN_OR_RETURN(const punch::PunchPlan plan, puncher.Plan(file.path));
  file.way = plan.way;
  file.size = plan.size_bytes;
  file.skipped = plan.read.skipped;
  VR_ASSIGN_OR_RETURN(file.result, mode == PunchMode::kMeasure
                                       ? puncher.Measure(plan, progress, stop)
                                       : puncher.Punch(plan, progress, stop));
  return absl::OkStatus();
}

}  // namespace

void AddRemarks(PunchedFile& file) {
  std::vector<Blocker>& reasons = file.outcome.reasons;
  if (file.result.interrupted) {
    file.outcome.kind = OutcomeKind::kSkipped;
    reasons.push_back({Reason::kImageInUse, "somebody opened it meanwhile: only a part was done"});
  }
  if (file.result.cancelled) file.outcome.kind = OutcomeKind::kCancelled;
  if (file.result.shared_bytes > 0)
    reasons.push_back({Reason::kSharedExtents, FormatByteSize(file.result.shared_bytes)});
  if (file.skipped.unwritten_bytes > 0)
    reasons.push_back({Reason::kPreallocated, FormatByteSize(file.skipped.unwritten_bytes)});
  if (file.skipped.compressed_bytes > 0)
    reasons.push_back({Reason::kCompressedExtents, FormatByteSize(file.skipped.compressed_bytes)});
  if (const uint64_t bytes = file.skipped.compressed_cluster_bytes; bytes > 0)
    reasons.push_back({Reason::kCompressedClusters, FormatByteSize(bytes)});
  if (!file.result.release.ok())
    reasons.push_back({Reason::kExtentsHeld, Printable(file.result.release.message())});
}

PunchTotal TotalOf(const std::vector<PunchedFile>& files) {
  PunchTotal total;
  bool punched = false;
  bool freed_known = false;
  for (const PunchedFile& file : files) {
    ++total.files;
    total.read += file.result.read_bytes;
    total.zero += file.result.zero_bytes;
    total.punched += file.result.punched_bytes;
    total.freed += file.result.freed_bytes.value_or(0);
    if (file.result.punched_bytes == 0) continue;
    punched = true;
    freed_known = freed_known || file.result.freed_bytes.has_value();
  }
  total.freed_known = freed_known || !punched;
  return total;
}

void MarkNothingFreed(std::vector<PunchedFile>& files) {
  const PunchTotal total = TotalOf(files);
  const bool nothing = total.punched > 0 && total.freed == 0;
  for (PunchedFile& file : files) {
    file.outcome.nothing_freed =
        nothing && file.result.punched_bytes > 0 && file.result.freed_bytes == uint64_t{0};
  }
}

absl::StatusOr<std::vector<PunchAction>> FindPunchActions(const PunchFilesOptions& options,
                                                          const std::stop_token& stop) {
  std::vector<PunchAction> actions;
  const absl::flat_hash_set<absl::string_view> named(options.paths.begin(), options.paths.end());
  const auto add = [&](const std::string& path, const absl::Status& error) {
    PunchAction& action = actions.emplace_back();
    action.path = path;
    action.error = error;
    action.asked_for = named.contains(path);
    struct stat status;
    if (error.ok() && stat(path.c_str(), &status) == 0) action.allocation = AllocatedBytes(status);
  };
  VR_RETURN_IF_ERROR(punch::FindFiles(
      options.paths, options.find, stop,
      [&](const std::string& path) { add(path, absl::OkStatus()); }, add));
  return actions;
}

std::vector<PunchedFile> PunchFiles(const PunchFilesOptions& options,
                                    const std::vector<PunchAction>& actions, PunchMode mode,
                                    const punch::SteadyClock& clock,
                                    const std::function<void(const PunchFilesProgress&)>& progress,
                                    const std::stop_token& stop) {
  // A disk that does not know priorities is no reason not to work.
  if (options.idle) static_cast<void>(punch::UseIdleIoPriority());
  punch::Puncher puncher(options.engine, clock);
  PunchFilesProgress now;
  now.files = actions.size();
  for (const PunchAction& action : actions) now.allocation += action.allocation;
  std::vector<PunchedFile> files;
  uint64_t before = 0;
  for (const PunchAction& action : actions) {
    PunchedFile& file = files.emplace_back();
    file.path = action.path;
    file.outcome.asked_for = action.asked_for;
    ++now.file;
    now.path = action.path;
    now.done = before;
    if (progress) progress(now);
    const auto step = [&](const punch::PunchProgress& made) {
      now.done = before + std::min(action.allocation, made.done_bytes);
      if (progress) progress(now);
    };
    absl::Status status = action.error;
    if (stop.stop_requested()) status = absl::CancelledError("interrupted");
    if (status.ok()) status = PunchInto(puncher, mode, step, stop, file);
    SetOutcome(status, file.outcome);
    if (status.ok()) AddRemarks(file);
    if (status.ok() && sync::IsUnfinished(file.path))
      file.outcome.reasons.push_back({Reason::kUnfinishedCopy, "sync it again"});
    before += action.allocation;
  }
  if (mode == PunchMode::kPunch) MarkNothingFreed(files);
  return files;
}

}  // namespace virt_reclaim
