#include "host/model/reason.h"

#include <array>
#include <cstddef>

namespace virt_reclaim {
namespace {

constexpr std::array kReasons = std::to_array<ReasonText>({
    {Reason::kNotRunning, "not-running", "the domain is not running"},
    {Reason::kPaused, "paused", "the domain is paused"},
    {Reason::kJobActive, "job-active",
     "libvirt is busy with the domain (backup, save, dump or migration)"},
    {Reason::kBlockJob, "block-job", "a block job runs on a disk of the domain"},
    {Reason::kFrozen, "frozen", "the guest's filesystems are frozen"},
    {Reason::kNoPort, "no-port", "the domain has no channel for the agent"},
    {Reason::kNoController, "no-controller",
     "the domain has no virtio-serial controller, and one cannot be hot-plugged: it needs a power "
     "cycle"},
    {Reason::kAgentNotConnected, "agent-not-connected",
     "no agent has opened the channel in the guest"},
    {Reason::kAgentSilent, "agent-silent", "the agent did not answer in time"},
    {Reason::kAgentFailed, "agent-failed", "the call to the agent failed"},
    {Reason::kBusy, "busy", "another program is using the domain's channel"},
    {Reason::kTransient, "transient", "the domain has no persistent definition to change"},
    {Reason::kManagedSave, "managed-save",
     "the domain has a managed save image, which would bring the old machine back"},
    {Reason::kManaged, "managed", "another manager writes the domain's XML anew at each start"},
    {Reason::kNoDisks, "no-disks", "the domain has no disks"},
    {Reason::kDiscardIgnored, "discard-ignored", "the disk's driver has no discard='unmap'"},
    {Reason::kMachineTooOld, "machine-too-old",
     "virtio-blk passes discards only from machine type 4.0 on"},
    {Reason::kMachineUnknown, "machine-unknown",
     "it is not known whether this machine type passes discards"},
    {Reason::kBusDropsDiscard, "bus-drops-discard", "this kind of disk drops discards"},
    {Reason::kGuestNotSupported, "guest-not-supported",
     "the guest's kernel says that the disk takes no discards"},
    {Reason::kDmCrypt, "dm-crypt", "dm-crypt in the guest drops discards (no allow-discards)"},
    {Reason::kGuestLayer, "guest-layer", "a device-mapper or md layer in the guest drops discards"},
    {Reason::kFilesystemNotSupported, "filesystem-not-supported",
     "the guest's filesystem cannot be trimmed"},
    {Reason::kReadOnly, "read-only", "the disk is read-only"},
    {Reason::kNotADisk, "not-a-disk",
     "the device is no disk (cdrom, floppy or a passed-through LUN)"},
    {Reason::kNoMedium, "no-medium", "the disk has no image"},
    {Reason::kNoLocalImage, "no-local-image",
     "the image is not a local file, so libvirt's word is all there is"},
    {Reason::kImageMissing, "image-missing", "the image does not exist"},
    {Reason::kImageUnreadable, "image-unreadable", "the image cannot be examined"},
    {Reason::kBlockDevice, "block-device",
     "the image is a block device, whose allocation the host does not tell"},
    {Reason::kRewriteRefused, "rewrite-refused", "the XML cannot be edited safely"},
    {Reason::kNothingReclaimable, "nothing-reclaimable", "there was nothing left to give back"},
    {Reason::kUnexplained, "unexplained",
     "trimmed, but the host got nothing back and no reason is known"},
    {Reason::kPowerCyclePending, "power-cycle-pending",
     "the definition is changed already; shut the domain down and start it"},
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
     "a filesystem of the guest is mounted with nodiscard: only trims give its space back"},
    {Reason::kCheckpoints, "checkpoints",
     "it has checkpoints: what is trimmed counts as changed for the next incremental backup"},
    {Reason::kDefinitionPending, "definition-pending",
     "the running domain works under another definition than the saved one"},
    {Reason::kThickImage, "thick-image",
     "the image occupies all of its capacity, as a preallocated one does: trims would thin it"},
    {Reason::kStorageCannotPunch, "storage-cannot-punch",
     "the host's storage cannot punch holes, so that nothing would come free"},
    {Reason::kInternalSnapshots, "internal-snapshots",
     "the image has internal snapshots, which keep what the guest frees"},
    {Reason::kOverlay, "overlay",
     "the image is an overlay: what lies in the images below it stays there"},
    {Reason::kLargeClusters, "large-clusters",
     "the image's clusters are large, and only whole ones come free"},
    {Reason::kQcow2OnBlockDevice, "qcow2-on-block-device",
     "the image is qcow2 on a block device: its end may move up as freed clusters are used anew"},
    {Reason::kImageInUse, "image-in-use", "somebody uses the image"},
    {Reason::kImageRefused, "image-refused", "the image is left alone"},
    {Reason::kSharedExtents, "shared-extents",
     "shared with a snapshot or a copy: nothing comes free until that is punched, too"},
    {Reason::kPreallocated, "preallocated", "preallocated and never written: left as it is"},
    {Reason::kCompressedExtents, "compressed-extents",
     "compressed by the filesystem: a hole there would free nothing"},
    {Reason::kFormatNotSupported, "format-not-supported",
     "images of this format give nothing back"},
    {Reason::kExternalData, "external-data", "the image keeps the guest's data in another file"},
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
    {Reason::kBelowThreshold, "below-threshold", "less would come free than was asked for"},
    {Reason::kToolMissing, "tool-missing", "a program that is needed for it is not installed"},
    {Reason::kDiscardNotProved, "discard-not-proved",
     "a marker was written, deleted and trimmed in the guest, and the host did not get it back"},
});

constexpr bool InEnumOrder() {
  for (size_t i = 0; i < kReasons.size(); ++i) {
    if (static_cast<size_t>(kReasons[i].reason) != i) return false;
  }
  return kReasons.size() == static_cast<size_t>(Reason::kDiscardNotProved) + 1;
}
static_assert(InEnumOrder());

}  // namespace

std::span<const ReasonText> AllReasons() { return kReasons; }
absl::string_view Code(Reason reason) { return kReasons[static_cast<size_t>(reason)].code; }
absl::string_view Sentence(Reason reason) { return kReasons[static_cast<size_t>(reason)].sentence; }

}  // namespace virt_reclaim
