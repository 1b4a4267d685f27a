// Reason codes: why something cannot be done, or was not. Each has a stable code (for --json,
// scripts and the section of docs/reason-codes.md and the man page of the same name) and one
// sentence. Codes are only ever added. The table in reason.cc is the only one: `explain --codes`
// prints it, the table of docs/reason-codes.md is checked against it (tests/lint/check_docs.py),
// and the tests of explain go through it.
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
  kLoopDevice,
  kImageFormat,
  kExternalDataFile,
  kDeviceDiscardOff,
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
  kLvmIssueDiscards,
  kCheckpoints,
  kDefinitionPending,
  kMachineDeprecated,
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
  kUnfinishedCopy,
  kSourceChanged,
  kNotAtomic,
  kCompressedClusters,
  // ... by sparsify.
  kUnknownFeatures,
  kEncryptedImage,
  kImageNeedsCheck,
  kPersistentBitmaps,
  kImageBacksOthers,
  kShareable,
  kFilesystemRefused,
  kLeaksRepaired,
  kToolMissing,
  kExtentsHeld,
  // After its power cycle.
  kDiscardNotProved,
  kNotVerified,
  // A trim that is not begun, or cut short.
  kQemuAgentTrimsAll,
  kBelowThreshold,
  kStorageStopped,
  kTimeOver,
  // After a trim.
  kTrimRemembered,
  kGuestWrote,
  // What ends a trim by itself.
  kIoError,
  kStorageFull,
  // What 'run' passes over.
  kPolicyExcludes,
  kNoRoom,
  // A trim that is not begun.
  kStorageBusy,
  // An agent that is not installed.
  kNoQemuAgent,
  kCommandsBlocked,
  kGuestNotLinux,
  kAgentPackaged,
  kMigrationUnfinished,
  kNoSystemd,
};

// What a reason says of a layer of the discard chain (discard_chain.h).
enum class InChain {
  kNever,    // it is about something else
  kCulprit,  // why the layer drops discards, or lets only a part through
  kUnknown,  // why the layer is not known
  kRemark,   // what to know of the layer, though nothing is wrong with it
};
absl::string_view Name(InChain in_chain);  // "culprit"

struct ReasonText {
  Reason reason;
  absl::string_view code;      // "discard-ignored"
  absl::string_view sentence;  // lower case, no full stop
  InChain in_chain = InChain::kNever;
};

// Every reason, in the order of the enum.
std::span<const ReasonText> AllReasons();
absl::string_view Code(Reason reason);
absl::string_view Sentence(Reason reason);
InChain InChainOf(Reason reason);

// One reason found, with what it was found on.
struct Blocker {
  Reason reason;
  std::string detail;  // e.g. the machine type; may be empty; already printable
  bool operator==(const Blocker&) const = default;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_REASON_H_
