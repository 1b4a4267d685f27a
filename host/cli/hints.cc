#include "host/cli/hints.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "base/escape.h"
#include "host/model/facts.h"

namespace virt_reclaim {
namespace {

std::string Program(absl::string_view program, const HintContext& context,
                    absl::string_view arguments) {
  const std::string connect =
      context.connect.empty() ? "" : absl::StrCat(" --connect ", ShellQuote(context.connect));
  // Else a name that begins with a dash would be an option.
  const bool dashed = absl::StartsWith(context.domain, "-");
  return absl::StrCat("'", program, connect, " ", arguments, dashed ? " -- " : " ",
                      ShellQuote(context.domain), "'");
}

}  // namespace

std::string ShellQuote(absl::string_view word) {
  const auto is_plain = [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
           absl::string_view("-_./:=@%+,").find(c) != absl::string_view::npos;
  };
  bool plain = !word.empty();
  for (const char c : word) plain = plain && is_plain(c);
  return plain
             ? std::string(word)
             : absl::StrCat("\"",
                            absl::StrReplaceAll(
                                word, {{"\\", "\\\\"}, {"\"", "\\\""}, {"$", "\\$"}, {"`", "\\`"}}),
                            "\"");
}

std::string NobodyThere(absl::string_view uri) {
  std::string lines = absl::StrCat("there is no domain on '", Printable(uri), "'\n");
  // Where libvirt sends who is not root.
  if (absl::EndsWith(uri, ":///session"))
    absl::StrAppend(&lines, "hint: those of the whole machine: --connect ",
                    absl::StripSuffix(uri, "session"), "system\n");
  return lines;
}

std::optional<std::string> HintFor(Reason reason, const HintContext& context) {
  switch (reason) {
    case Reason::kDiscardIgnored:
    case Reason::kMachineTooOld:
      return absl::StrCat(Program("virt-reclaim", context, "migrate plan --diff"),
                          " shows the change that lets discards through");
    case Reason::kPowerCyclePending:
      return absl::StrCat("shut it down and start it: ", Program("virsh", context, "shutdown"),
                          ", then ", Program("virsh", context, "start"));
    case Reason::kNoDisks:
      return absl::StrCat("it has nothing to give; what it has: ",
                          Program("virsh", context, "domblklist"));
    case Reason::kImageMissing:
      return absl::StrCat(Program("virsh", context, "domblklist"),
                          " names its images: put the missing one back in its place, or change the "
                          "definition");
    case Reason::kNoLocalImage:
      return "a trim helps all the same; what it frees, the storage's own tools tell, or "
             "virt-reclaim on the machine where the image is a file";
    case Reason::kNotRunning:
      return absl::StrCat("start it: ", Program("virsh", context, "start"));
    case Reason::kPaused:
      return absl::StrCat("let it run: ", Program("virsh", context, "resume"));
    case Reason::kAgentNotConnected:
      return "install virt-reclaim-agent in the guest ('apt install virt-reclaim-agent' or 'dnf "
             "install virt-reclaim-agent', and it starts), or start it there, see "
             "virt-reclaim-agent(8)";
    case Reason::kGuestUnknown:
      return "start it, with an agent in it, or install virt-reclaim-guestfs for one that is off, "
             "and plan again; where the bus stays and its kernel is known to be 5.0 or newer: "
             "--assume";
    case Reason::kCommandsBlocked:
      return "in the guest, take them out of qemu-guest-agent's block list (BLOCK_RPCS or "
             "FILTER_RPC_ARGS in /etc/sysconfig/qemu-ga, block-rpcs in /etc/qemu/qemu-ga.conf) and "
             "restart it, or do the steps by hand";
    case Reason::kAgentPackaged:
      return "in the guest: 'apt install virt-reclaim-agent' or 'dnf upgrade virt-reclaim-agent'";
    case Reason::kMigrationUnfinished:
      return absl::StrCat(Program("virt-reclaim", context, "migrate status"),
                          " shows where it stands; ",
                          Program("virt-reclaim", context, "migrate apply"), " goes on with it");
    case Reason::kNoPort:
    case Reason::kNoController:
      return absl::StrCat(
          Program("virt-reclaim", context, "agent install"),
          " adds the channel, and the agent where qemu-guest-agent lets it; by hand: "
          "virt-reclaim(1), AGENT CHANNEL");
    default:
      return std::nullopt;
  }
}

std::optional<std::string> HintForTrim(const Blocker& blocker, const HintContext& context) {
  const bool off =
      blocker.reason == Reason::kNotRunning && (blocker.detail == Name(DomainState::kShutOff) ||
                                                blocker.detail == Name(DomainState::kCrashed));
  if (!off) return HintFor(blocker.reason, context);
  return absl::StrCat("it is off: ", Program("virt-reclaim", context, "sparsify"),
                      " gives back what is free in its images");
}

std::optional<std::string> FixFor(const Blocker& blocker, const HintContext& context,
                                  const std::string& target) {
  const std::string disk = ShellQuote(target);
  switch (blocker.reason) {
    case Reason::kBusDropsDiscard:
      return absl::StrCat(Program("virt-reclaim", context, "migrate plan --bus=virtio-scsi --diff"),
                          " shows the move to a bus that passes them");
    case Reason::kMachineUnknown:
    case Reason::kUnexplained:
      return absl::StrCat(Program("virt-reclaim", context, "explain --probe"), " finds it out");
    case Reason::kGuestNotSupported:
      return absl::StrCat(
          "give the guest a kernel of at least 5.0, which virtio-blk needs for discards; ",
          Program("virt-reclaim", context, "explain --ask-qemu"),
          " tells whether QEMU has switched them off");
    case Reason::kDeviceDiscardOff:
      return "look for 'discard=off' or a 'discard_granularity' of 0 that the definition hands to "
             "QEMU "
             "(<qemu:override>, <qemu:commandline>), and take it out";
    case Reason::kDmCrypt:
      return absl::StrCat("in the guest: 'cryptsetup refresh --allow-discards --persistent ",
                          ShellQuote(blocker.detail),
                          "'; it shows to whoever reads the image which blocks are unused");
    case Reason::kGuestLayer:
      return "in the guest: of an LVM thin pool 'lvchange --discards passdown VG/POOL' (from "
             "'ignore' "
             "only while it is inactive); of a RAID look at every leg";
    case Reason::kLoopDevice:
      return "in the guest, trim that filesystem with fstrim, then the one that its file lies in";
    case Reason::kImageFormat:
      return "while the domain is off, convert the image to qcow2 or raw with 'qemu-img convert', "
             "and "
             "change the definition";
    case Reason::kStorageCannotPunch:
      return "move the image to storage that can give space back: ext4, XFS, btrfs, NFS 4.2, thin "
             "LVM";
    case Reason::kInternalSnapshots:
      return absl::StrCat("delete those that nobody needs; ",
                          Program("virsh", context, "snapshot-list"), " shows them");
    case Reason::kOverlay:
      return absl::StrCat(
          "where the images below are no longer needed: ",
          Program("virsh", context, absl::StrCat("blockcommit --active --pivot --path ", disk)));
    case Reason::kReadOnly:
      if (!absl::StartsWith(blocker.detail, "/"))
        return "where the guest may write to it, take <readonly/> out of the disk's definition";
      return absl::StrCat("in the guest: 'mount -o remount,rw ", ShellQuote(blocker.detail),
                          "', then trim; what is never written has nothing new to give");
    case Reason::kNotADisk:
      return "a cdrom or floppy has nothing to give; a LUN that is passed through gives space back "
             "as "
             "device='disk' in place of 'lun'";
    case Reason::kFilesystemNotSupported:
      return absl::StrCat("while the domain is off, ",
                          Program("virt-reclaim", context, "sparsify --dry-run"),
                          " tells whether that filesystem can be read from outside");
    case Reason::kDiscardNotProved:
      return "look below the image, and for arguments that the domain hands straight to QEMU";
    default:
      return HintFor(blocker.reason, context);
  }
}

std::optional<std::string> HintForConnection(const absl::Status& status,
                                             const std::string& connect) {
  if (absl::IsPermissionDenied(status))
    return "run it as root, or as a user whom libvirt lets in (often the group 'libvirt')";
  if (absl::IsDeadlineExceeded(status))
    return "what listens there does not answer: is libvirt's daemon stopped, or the way to it cut?";
  if (absl::IsUnavailable(status)) {
    return connect.empty()
               ? "is libvirt's daemon running (libvirtd, or virtqemud)? Another hypervisor: "
                 "--connect URI, for example qemu+ssh://host/system"
               : "a URI looks like qemu:///system or qemu+ssh://host/system, and a libvirt daemon "
                 "must run there";
  }
  return std::nullopt;
}

}  // namespace virt_reclaim
