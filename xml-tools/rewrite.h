// The minimal edit of a domain XML that lets discards reach the host. Every byte outside the edit
// stays as it was; a second run changes nothing; the edit is proved (re-parsed, and the tree
// differs exactly by the plan) before it is returned. Pure. Any thread.
#ifndef VIRT_RECLAIM_XML_TOOLS_REWRITE_H_
#define VIRT_RECLAIM_XML_TOOLS_REWRITE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "xml-tools/domain.h"

namespace virt_reclaim::xml {

enum class MachinePolicy {
  kKeep,
  kAuto,    // raise it only as far as a disk needs (virtio-blk: 4.0), in the same family
  kLatest,  // the newest of the same family, see known_machines
  kNamed,   // RewriteOptions::machine_name, when it is a newer one of the same family
};

enum class DiscardPolicy {
  kUnmap,   // wherever it works
  kIgnore,  // where it is 'unmap' now
  kKeep,
};

enum class DetectZeroesPolicy { kKeep, kOff, kOn, kUnmap };

enum class BusPolicy {
  kKeep,
  kAuto,        // virtio-scsi for a virtio disk whose discards nothing else can help
  kVirtioScsi,  // for every disk that is not on bus scsi
};

enum class ChannelPolicy {
  kKeep,
  kAdd,  // the port of the guest's agent and its controller
};

struct RewriteOptions {
  MachinePolicy machine = MachinePolicy::kAuto;
  std::vector<std::string> targets;        // only these disks; empty: all
  std::vector<std::string> excluded = {};  // never these, whatever `targets` says
  std::string machine_name = {};           // of MachinePolicy::kNamed
  // What the host has; empty: not known. Then kLatest takes the alias ("q35") that libvirt replaces
  // by the host's newest when the domain is defined, and refuses a distribution's own types.
  std::vector<std::string> known_machines = {};
  DiscardPolicy discard = DiscardPolicy::kUnmap;
  DetectZeroesPolicy detect_zeroes = DetectZeroesPolicy::kKeep;
  BusPolicy bus = BusPolicy::kKeep;
  ChannelPolicy channel = ChannelPolicy::kKeep;
};

// One change, as data, of a disk by the target it had before: "disk 'vda': discard: (not set) ->
// unmap".
struct Change {
  std::string target;  // of the disk; empty for the domain (machine)
  std::string what;    // "discard", "detect_zeroes", "machine", "bus", "target", "controller",
                       // "channel"
  std::string before;  // empty: not set
  std::string after;
  std::string reason;  // why, a sentence without full stop
};

// A disk (or the domain) that is left as it is, with a reason code of docs/reason-codes.md.
struct Refusal {
  std::string target;  // empty: the domain
  std::string reason;  // "read-only", "cdrom", "lun-passthrough", "bus-drops-discard",
                       // "machine-unknown", ...
  std::string detail;  // a sentence
};

struct Rewritten {
  std::string text;  // equal to the input, byte for byte, when `changes` is empty
  std::vector<Change> changes;
  std::vector<Refusal> refusals;
  std::vector<Refusal>
      warnings;  // of disks that are edited all the same: "source-may-drop", "shareable", ...
};

// As ParseDomain, and FailedPrecondition for a domain that is not qemu's or kvm's, Unimplemented
// for XML the edit cannot be made in safely (two <driver> elements, ...), NotFound for a target in
// the options that no disk has, Internal when the proof failed: nothing is returned then.
absl::StatusOr<Rewritten> Rewrite(absl::string_view text, const RewriteOptions& options);

// Whether discards of a disk on this bus, with this machine type, reach QEMU's block layer; the
// table is measured, see docs/discard-support.md.
enum class DiscardPath {
  kPasses,
  kMachineTooOld,  // virtio-blk before 4.0
  kBusDrops,       // usb-storage, sd, am53c974, fdc
  kUnknown,
};
DiscardPath DiscardPathOf(const Domain& domain, const Disk& disk);

// Unified diff (3 lines of context) of two texts, as diff -u prints it; empty when they are equal.
std::string UnifiedDiff(absl::string_view before, absl::string_view after,
                        absl::string_view before_name, absl::string_view after_name);

}  // namespace virt_reclaim::xml

#endif  // VIRT_RECLAIM_XML_TOOLS_REWRITE_H_
