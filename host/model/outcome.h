// What became of one action, and what exit status a run with these outcomes has. Pure.
#ifndef VIRT_RECLAIM_HOST_MODEL_OUTCOME_H_
#define VIRT_RECLAIM_HOST_MODEL_OUTCOME_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "host/model/reason.h"

namespace virt_reclaim {

// The exit statuses of every verb (docs/exit-status.md).
enum class ExitStatus {
  kDone = 0,
  kError = 1,
  kUsage = 2,
  kSomeFailed = 3,
  kNothingFreed = 4,  // done, but the host got nothing back
  kRefused = 5,       // refused or busy
  kInterrupted = 130,
};

enum class OutcomeKind { kDone, kSkipped, kFailed, kCancelled };
absl::string_view Name(OutcomeKind kind);

struct Outcome {
  OutcomeKind kind = OutcomeKind::kDone;
  absl::Status error;            // kFailed: why
  std::vector<Blocker> reasons;  // kSkipped: why; else remarks
  bool asked_for = false;        // the user named this domain, so that skipping it is a refusal
  bool partly = false;           // kFailed: in the middle, so that it is not as it was
  bool trouble = false;  // an I/O error, or the domain was paused: its storage is to be left alone
  bool nothing_freed = false;  // done, but the host should have got something and did not
};

// Failed wholly: 1; some failed, or one partly or in trouble, or some of those asked for refused:
// 3; all asked for refused: 5; nothing freed: 4.
ExitStatus ExitStatusOf(std::span<const Outcome> outcomes);

// Of a run that could not begin: busy and refused are 5, a bad argument is 2, cancelled 130, the
// rest 1.
ExitStatus ExitStatusOf(const absl::Status& status);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_OUTCOME_H_
