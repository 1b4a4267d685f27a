#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {

Refusal RefusalOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return Refusal::kNone;
    case absl::StatusCode::kUnimplemented:
      return Refusal::kUnknown;
    case absl::StatusCode::kUnavailable:
      return Refusal::kDirtyJournal;
    case absl::StatusCode::kFailedPrecondition:
      return Refusal::kState;
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kOutOfRange:  // it points past its own end
      return Refusal::kDamaged;
    case absl::StatusCode::kResourceExhausted:
      return Refusal::kTooLarge;
    case absl::StatusCode::kPermissionDenied:
      return Refusal::kUnchecked;
    case absl::StatusCode::kCancelled:
      return Refusal::kNotAsked;
    default:
      return Refusal::kUnreadable;
  }
}

const char* RefusalName(Refusal refusal) {
  switch (refusal) {
    case Refusal::kNone:
      return "none";
    case Refusal::kUnknown:
      return "unknown";
    case Refusal::kDirtyJournal:
      return "dirty-journal";
    case Refusal::kState:
      return "state";
    case Refusal::kDamaged:
      return "damaged";
    case Refusal::kTooLarge:
      return "too-large";
    case Refusal::kUnreadable:
      return "unreadable";
    case Refusal::kUnchecked:
      return "unchecked";
    case Refusal::kNotAsked:
      return "not-asked";
  }
  return "?";
}

}  // namespace virt_reclaim::freemap
