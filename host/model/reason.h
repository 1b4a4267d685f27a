// Reason codes: why something cannot be done, or was not. Each has a stable code (for --json,
// scripts and the section of docs/reason-codes.md and the man page of the same name) and one
// sentence. Codes are only ever added.
#ifndef VIRT_RECLAIM_HOST_MODEL_REASON_H_
#define VIRT_RECLAIM_HOST_MODEL_REASON_H_

#include <compare>
#include <span>
#include <string>

#include "absl/strings/string_view.h"

namespace virt_reclaim {

enum class Reason {
  // A domain that cannot be worked on now.
  kNotRunning,
  kPaused,
  kJobActive,
  kBlockJob,
  kFrozen,
  kNoPort,
  kNoController,
  kAgentNotConnected,
  kAgentSilent,
  kAgentFailed,
  kBusy,
  kTransient,
  kManagedSave,
  kManaged,
  kNoDisks,
  // Where on its way a discard is lost.
  kDiscardIgnored,
  kMachineTooOld,
  kMachineUnknown,
  kBusDropsDiscard,
  kGuestNotSupported,
  kDmCrypt,
  kGuestLayer,
  kFilesystemNotSupported,
  // A disk that has nothing to give, or nothing that can be measured.
  kReadOnly,
  kNotADisk,
  kNoMedium,
  kNoLocalImage,
  kImageMissing,
  kImageUnreadable,
  kBlockDevice,
  kRewriteRefused,
  // After a trim.
  kNothingReclaimable,
  kUnexplained,
  kPowerCyclePending,
  // A migration that is not begun.
  kRunning,
  kNotMigrated,
  kTooManyFailures,
  kOutsideWindow,
  kChangedSincePlan,
  // What a migration's preflight finds.
  kMemorySnapshot,
  kMachineNotOnHost,
  kGuestUnknown,
  kInitramfsLacks,
  kGuestNamesDisk,
  kGuestTooOld,
  kFstrimTimer,
  kMountedNodiscard,
  kCheckpoints,
  kDefinitionPending,
  // ... and on what a disk's image stands.
  kThickImage,
  kStorageCannotPunch,
  kInternalSnapshots,
  kOverlay,
  kLargeClusters,
  kQcow2OnBlockDevice,
  // An image that is worked on by the host.
  kImageInUse,
  kImageRefused,
  kSharedExtents,
  kPreallocated,
  kCompressedExtents,
  // ... by sparsify.
  kFormatNotSupported,
  kExternalData,
  kEncryptedImage,
  kImageNeedsCheck,
  kPersistentBitmaps,
  kImageBacksOthers,
  kShareable,
  kFilesystemRefused,
  kBelowThreshold,
  kToolMissing,
  // After its power cycle.
  kDiscardNotProved,
};

struct ReasonText {
  Reason reason;
  absl::string_view code;      // "discard-ignored"
  absl::string_view sentence;  // lower case, no full stop
};

// Every reason, in the order of the enum.
std::span<const ReasonText> AllReasons();
absl::string_view Code(Reason reason);
absl::string_view Sentence(Reason reason);

// One reason found, with what it was found on.
struct Blocker {
  Reason reason;
  std::string detail;  // e.g. the machine type; may be empty; already printable
  bool operator==(const Blocker&) const = default;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_REASON_H_
