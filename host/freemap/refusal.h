// Why a filesystem's free space is left alone. Readers return absl::Status; its code is the kind,
// its message the sentence. Pure; any thread.
#ifndef VIRT_RECLAIM_HOST_FREEMAP_REFUSAL_H_
#define VIRT_RECLAIM_HOST_FREEMAP_REFUSAL_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim::freemap {

// The numbers are part of the worker's protocol.
enum class Refusal : uint8_t {
  kNone = 0,
  kUnknown = 1,       // a type or feature no reader of ours knows; another engine may
  kDirtyJournal = 2,  // clean but for a journal that wants to be replayed
  kState = 3,         // mounted, hibernated, errors noted, resized half-way: its owner must act
  kDamaged = 4,       // a checksum, a bound or two structures disagree
  kTooLarge = 5,      // beyond what the worker takes on
  kUnreadable = 6,    // the image itself could not be read
  kUnchecked = 7,     // strict mode, and this format has no checksums on its map
  kNotAsked = 8,      // swap, when it was not asked for
};
inline constexpr Refusal kLastRefusal = Refusal::kNotAsked;

inline absl::Status UnknownError(absl::string_view why) { return absl::UnimplementedError(why); }
inline absl::Status DirtyJournalError(absl::string_view why) { return absl::UnavailableError(why); }
inline absl::Status StateError(absl::string_view why) { return absl::FailedPreconditionError(why); }
inline absl::Status DamagedError(absl::string_view why) { return absl::DataLossError(why); }
inline absl::Status TooLargeError(absl::string_view why) {
  return absl::ResourceExhaustedError(why);
}
inline absl::Status UncheckedError(absl::string_view why) {
  return absl::PermissionDeniedError(why);
}
inline absl::Status NotAskedError(absl::string_view why) { return absl::CancelledError(why); }

Refusal RefusalOf(const absl::Status& status);

// In the sentence of whatever is refused because a system sleeps on one of the disks: by this word
// the guest's other disks are judged.
inline constexpr char kHibernated[] = "hibernated";

// "dirty-journal": for reports and tests.
const char* RefusalName(Refusal refusal);

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_REFUSAL_H_
