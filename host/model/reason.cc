#include "host/model/reason.h"

#include <array>
#include <cstddef>

namespace virt_reclaim {
namespace {

constexpr std::array kReasons = std::to_array<ReasonText>({
    {Reason::kNotRunning, "not-running", "the domain is not running", InChain::kUnknown},
    {Reason::kPaused, "paused", "the domain is paused", InChain::kUnknown},
    {Reason::kJobActive, "job-active",
     "libvirt is busy with the domain (backup, save, dump or migration)"},
    {Reason::kBlockJob, "block-job", "a block job runs on a disk of the domain"},
    {Reason::kFrozen, "frozen", "the guest's filesystems are frozen"},
    {Reason::kNoPort, "no-port", "the domain has no channel for the agent", InChain::kUnknown},
    {Reason::kNoController, "no-controller",
     "the domain has no virtio-serial controller, and one cannot be hot-plugged: it needs a power "
     "cycle",
     InChain::kUnknown},
    {Reason::kAgentNotConnected, "agent-not-connected",
     "no agent has opened the channel in the guest", InChain::kUnknown},
    {Reason::kAgentSilent, "agent-silent", "the agent did not answer in time", InChain::kUnknown},
    {Reason::kAgentFailed, "agent-failed", "the call to the agent failed", InChain::kUnknown},
    {Reason::kBusy, "busy", "another program is using the domain's channel", InChain::kUnknown},
    {Reason::kTransient, "transient", "the domain has no persistent definition to change"},
    {Reason::kManagedSave, "managed-save",
     "the domain has a managed save image, which would bring the old machine back"},
    {Reason::kManaged, "managed", "another manager writes the domain's XML anew at each start"},
    {Reason::kNoDisks, "no-disks", "the domain has no disks"},
    {Reason::kDiscardIgnored, "discard-ignored", "the disk's driver has no discard='unmap'",
     InChain::kCulprit},
    {Reason::kMachineTooOld, "machine-too-old",
     "virtio-blk passes discards only from machine type 4.0 on", InChain::kCulprit},
    {Reason::kMachineUnknown, "machine-unknown",
     "it is not known whether this machine type passes discards", InChain::kUnknown},
    {Reason::kBusDropsDiscard, "bus-drops-discard", "this kind of disk drops discards",
     InChain::kCulprit},
    {Reason::kGuestNotSupported, "guest-not-supported",
     "the guest's kernel says that the disk takes no discards", InChain::kCulprit},
    {Reason::kDmCrypt, "dm-crypt", "dm-crypt in the guest drops discards (no allow-discards)",
     InChain::kCulprit},
    {Reason::kGuestLayer, "guest-layer", "a device-mapper or md layer in the guest drops discards",
     InChain::kCulprit},
    {Reason::kFilesystemNotSupported, "filesystem-not-supported",
     "the guest's filesystem cannot be trimmed", InChain::kCulprit},
    {Reason::kLoopDevice, "loop-device",
     "the filesystem lies in a file of the guest: that file's filesystem must be trimmed, too",
     InChain::kCulprit},
    {Reason::kImageFormat, "image-format", "QEMU drops discards of images of this format",
     InChain::kCulprit},
    {Reason::kExternalDataFile, "external-data-file",
     "the image keeps the guest's data in a file of its own", InChain::kRemark},
    {Reason::kDeviceDiscardOff, "device-discard-off",
     "QEMU's device takes no discards, though its machine type would let it", InChain::kCulprit},
    {Reason::kReadOnly, "read-only", "the disk is read-only", InChain::kCulprit},
    {Reason::kNotADisk, "not-a-disk",
     "the device is no disk (cdrom, floppy or a passed-through LUN)", InChain::kCulprit},
    {Reason::kNoMedium, "no-medium", "the disk has no image", InChain::kUnknown},
    {Reason::kNoLocalImage, "no-local-image",
     "the image is not a local file, so libvirt's word is all there is", InChain::kUnknown},
    {Reason::kImageMissing, "image-missing", "the image does not exist", InChain::kUnknown},
    {Reason::kImageUnreadable, "image-unreadable", "the image cannot be examined",
     InChain::kUnknown},
    {Reason::kBlockDevice, "block-device",
     "the image is a block device, whose allocation the host does not tell", InChain::kRemark},
    {Reason::kRewriteRefused, "rewrite-refused", "the XML cannot be edited safely"},
    {Reason::kNothingReclaimable, "nothing-reclaimable", "there was nothing left to give back"},
    {Reason::kUnexplained, "unexplained",
     "trimmed, but the host got nothing back and no reason is known"},
    {Reason::kPowerCyclePending, "power-cycle-pending",
     "the definition is changed already; shut the domain down and start it", InChain::kCulprit},
    {Reason::kRunning, "running",
     "the domain is running, and only those that are off were asked for"},
    {Reason::kNotMigrated, "not-migrated", "it has no migration to go on with or to undo"},
    {Reason::kTooManyFailures, "too-many-failures", "not begun: too many others have failed"},
    {Reason::kOutsideWindow, "outside-window", "not begun: the time window is closed"},
    {Reason::kChangedSincePlan, "changed-since-plan", "it is not as it was when it was planned"},
    {Reason::kMemorySnapshot, "memory-snapshot",
     "reverting to a snapshot with memory brings the old definition back"},
    {Reason::kMachineNotOnHost, "machine-not-on-host", "this host does not have the machine type"},
    {Reason::kGuestUnknown, "guest-unknown",
     "what the guest must have for this change is not known"},
    {Reason::kInitramfsLacks, "initramfs-lacks-driver",
     "the guest would not find its disks when it boots: a driver is missing in its initramfs"},
    {Reason::kGuestNamesDisk, "guest-names-disk",
     "the guest names a disk in a way that ends with its bus"},
    {Reason::kGuestTooOld, "guest-too-old",
     "virtio-blk passes discards only from kernel 5.0 of the guest on"},
    {Reason::kFstrimTimer, "fstrim-timer",
     "the guest trims by a timer of its own, too (fstrim.timer)"},
    {Reason::kMountedNodiscard, "mounted-nodiscard",
     "a filesystem of the guest is mounted with nodiscard: only trims give its space back",
     InChain::kRemark},
    {Reason::kLvmIssueDiscards, "lvm-issue-discards",
     "the guest's LVM: its setting issue_discards is about removed volumes only, trims pass"},
    {Reason::kCheckpoints, "checkpoints",
     "it has checkpoints: what is trimmed counts as changed for the next incremental backup",
     InChain::kRemark},
    {Reason::kDefinitionPending, "definition-pending",
     "the running domain works under another definition than the saved one", InChain::kRemark},
    {Reason::kMachineDeprecated, "machine-deprecated",
     "the host's QEMU has the machine type, and says that a later one will not"},
    {Reason::kThickImage, "thick-image",
     "the image occupies all of its capacity, as a preallocated one does: trims would thin it",
     InChain::kRemark},
    {Reason::kStorageCannotPunch, "storage-cannot-punch",
     "the host's storage cannot punch holes, so that nothing would come free", InChain::kCulprit},
    {Reason::kInternalSnapshots, "internal-snapshots",
     "the image has internal snapshots, which keep what the guest frees", InChain::kCulprit},
    {Reason::kOverlay, "overlay",
     "the image is an overlay: what lies in the images below it stays there", InChain::kCulprit},
    {Reason::kLargeClusters, "large-clusters",
     "the image's clusters, or its thin pool's chunks, are large, and only whole ones come free",
     InChain::kRemark},
    {Reason::kQcow2OnBlockDevice, "qcow2-on-block-device",
     "the image is qcow2 on a block device: its end may move up as freed clusters are used anew",
     InChain::kRemark},
    {Reason::kImageInUse, "image-in-use", "somebody uses the image"},
    {Reason::kImageRefused, "image-refused", "the image is left alone"},
    {Reason::kSharedExtents, "shared-extents",
     "shared with a snapshot or a copy: nothing comes free until that is punched, too"},
    {Reason::kPreallocated, "preallocated", "preallocated and never written: left as it is"},
    {Reason::kCompressedExtents, "compressed-extents",
     "compressed by the filesystem: a hole there would free nothing"},
    {Reason::kUnfinishedCopy, "unfinished-copy",
     "a copy that sync has not finished: neither the old content nor the new"},
    {Reason::kSourceChanged, "source-changed",
     "the source was written meanwhile, or somebody wants to: the copy is not finished"},
    {Reason::kNotAtomic, "not-atomic", "the copy cannot be replaced in one step here"},
    {Reason::kCompressedClusters, "compressed-clusters",
     "compressed in the qcow2 image: not read, since no block of it is zero"},
    {Reason::kUnknownFeatures, "unknown-features",
     "the image has features that are not known, so nothing is written to it"},
    {Reason::kEncryptedImage, "encrypted-image", "the image is encrypted"},
    {Reason::kImageNeedsCheck, "image-needs-check",
     "the image is marked as dirty or corrupt: 'qemu-img check' says more"},
    {Reason::kPersistentBitmaps, "persistent-bitmaps",
     "the image has persistent bitmaps, and a crash meanwhile would end the chain of incremental "
     "backups"},
    {Reason::kImageBacksOthers, "image-backs-others", "other images stand on this one"},
    {Reason::kShareable, "shareable", "several domains may write to the disk at once"},
    {Reason::kFilesystemRefused, "filesystem-refused",
     "what is free in a filesystem cannot be trusted, so it is left alone"},
    {Reason::kLeaksRepaired, "leaks-repaired",
     "clusters that a run before this one lost when it was killed are the image's again"},
    {Reason::kToolMissing, "tool-missing", "a program that is needed for it is not installed"},
    {Reason::kExtentsHeld, "extents-held",
     "given back, and held by btrfs, which frees only whole extents"},
    {Reason::kDiscardNotProved, "discard-not-proved",
     "a marker was written, deleted and trimmed in the guest, and the host did not get it back",
     InChain::kCulprit},
    {Reason::kNotVerified, "not-verified",
     "no agent answers, nor did one before, so nobody knows whether the guest came back as it was"},
    {Reason::kQemuAgentTrimsAll, "qemu-agent-trims-all",
     "qemu-guest-agent trims every filesystem of a guest, not only those that were named"},
    {Reason::kBelowThreshold, "below-threshold", "less could come back than was asked for"},
    {Reason::kStorageStopped, "storage-stopped",
     "not begun, or stopped: a trim on the same storage met an I/O error"},
    {Reason::kTimeOver, "time-over", "the time for all trims is over"},
    {Reason::kTrimRemembered, "trim-remembered",
     "ext4 remembers that it trimmed this before, and does not hand it down again until it is "
     "mounted anew"},
    {Reason::kGuestWrote, "guest-wrote",
     "the guest wrote so much meanwhile that what came free cannot be told"},
    {Reason::kIoError, "io-error",
     "a disk of the domain met an I/O error on the host during the trim"},
    {Reason::kStorageFull, "storage-full",
     "the storage is nearly full, and the trim itself takes up more of it"},
    {Reason::kPolicyExcludes, "policy-excludes", "the policy leaves it out"},
    {Reason::kNoRoom, "no-room", "its storage is still full, and would pause it again at once"},
    {Reason::kStorageBusy, "storage-busy",
     "not begun: another virt-reclaim trims on the same storage"},
    {Reason::kNoQemuAgent, "no-qemu-agent",
     "no qemu-guest-agent answers in the guest, so that nothing can be put into it while it runs"},
    {Reason::kCommandsBlocked, "commands-blocked",
     "qemu-guest-agent in the guest may not write files or start programs for the host"},
    {Reason::kGuestNotLinux, "guest-not-linux", "the guest is no Linux that the agent is for"},
    {Reason::kAgentPackaged, "agent-packaged",
     "the guest has the agent from a package of its own, which its package manager upgrades"},
    {Reason::kMigrationUnfinished, "migration-unfinished",
     "a migration of it is not finished, and would take another change of its definition for "
     "somebody else's"},
    {Reason::kNoSystemd, "no-systemd",
     "no systemd runs in the guest: the agent is there, and its own init must start it"},
});

constexpr bool InEnumOrder() {
  for (size_t i = 0; i < kReasons.size(); ++i) {
    if (static_cast<size_t>(kReasons[i].reason) != i) return false;
  }
  return kReasons.size() == static_cast<size_t>(Reason::kNoSystemd) + 1;
}
static_assert(InEnumOrder());

}  // namespace

absl::string_view Name(InChain in_chain) {
  switch (in_chain) {
    case InChain::kNever:
      return "never";
    case InChain::kCulprit:
      return "culprit";
    case InChain::kUnknown:
      return "unknown";
    case InChain::kRemark:
      return "remark";
  }
  return "never";
}

std::span<const ReasonText> AllReasons() { return kReasons; }
absl::string_view Code(Reason reason) { return kReasons[static_cast<size_t>(reason)].code; }
InChain InChainOf(Reason reason) { return kReasons[static_cast<size_t>(reason)].in_chain; }
absl::string_view Sentence(Reason reason) { return kReasons[static_cast<size_t>(reason)].sentence; }

}  // namespace virt_reclaim
