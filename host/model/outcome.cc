#include "host/model/outcome.h"

#include <algorithm>

#include "host/model/facts.h"

namespace virt_reclaim {

absl::string_view Name(OutcomeKind kind) {
  switch (kind) {
    case OutcomeKind::kDone:
      return "done";
    case OutcomeKind::kSkipped:
      return "skipped";
    case OutcomeKind::kFailed:
      return "failed";
    case OutcomeKind::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

absl::string_view Name(DomainState state) {
  switch (state) {
    case DomainState::kRunning:
      return "running";
    case DomainState::kPaused:
      return "paused";
    case DomainState::kShuttingDown:
      return "shutting-down";
    case DomainState::kShutOff:
      return "shut-off";
    case DomainState::kCrashed:
      return "crashed";
    case DomainState::kSuspended:
      return "suspended";
    case DomainState::kUnknown:
      return "unknown";
  }
  return "unknown";
}

ExitStatus ExitStatusOf(std::span<const Outcome> outcomes) {
  const auto count = [&](auto predicate) {
    return std::count_if(outcomes.begin(), outcomes.end(), predicate);
  };
  if (count([](const Outcome& o) { return o.kind == OutcomeKind::kCancelled; }) > 0)
    return ExitStatus::kInterrupted;
  const auto failed = count([](const Outcome& o) { return o.kind == OutcomeKind::kFailed; });
  const auto done = count([](const Outcome& o) { return o.kind == OutcomeKind::kDone; });
  const auto refused =
      count([](const Outcome& o) { return o.kind == OutcomeKind::kSkipped && o.asked_for; });
  const auto partly = count([](const Outcome& o) { return o.partly || o.trouble; });
  if (failed > 0) {
    return done > 0 || refused > 0 || partly > 0 ? ExitStatus::kSomeFailed : ExitStatus::kError;
  }
  if (refused > 0) return done > 0 ? ExitStatus::kSomeFailed : ExitStatus::kRefused;
  if (count([](const Outcome& o) { return o.nothing_freed; }) > 0) return ExitStatus::kNothingFreed;
  return ExitStatus::kDone;
}

ExitStatus ExitStatusOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return ExitStatus::kDone;
    case absl::StatusCode::kInvalidArgument:
      return ExitStatus::kUsage;
    case absl::StatusCode::kAborted:  // busy
    case absl::StatusCode::kFailedPrecondition:
      return ExitStatus::kRefused;
    case absl::StatusCode::kCancelled:
      return ExitStatus::kInterrupted;
    default:
      return ExitStatus::kError;
  }
}

}  // namespace virt_reclaim
