#include "xml-tools/judge.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "xml-tools/machine_types.h"
#include "xml-tools/targets.h"

namespace virt_reclaim::xml {
namespace {

// Protocols whose QEMU drivers do not pass discards on, or only with help of the server. From their
// documentation, not measured.
constexpr absl::string_view kDoubtfulProtocols[] = {"ssh", "nfs",  "http", "https",
                                                    "ftp", "ftps", "tftp"};

std::optional<Refusal> RefusalOfDevice(const Disk& disk) {
  if (disk.device == "disk") return std::nullopt;
  if (disk.device == "cdrom") return Refuse(disk, "cdrom", "a CD-ROM has nothing to discard");
  if (disk.device == "floppy") return Refuse(disk, "floppy", "a floppy drive passes no discards");
  if (disk.device == "lun") {
    return Refuse(disk, "lun-passthrough",
                  "the guest talks SCSI to the host's own device, libvirt's discard setting has no "
                  "part in it");
  }
  return Refuse(disk, "device-unknown",
                absl::StrCat("device ", Quoted(disk.device), " is not known"));
}

std::optional<Refusal> RefusalOfSource(const Document& document, NodeId node, const Disk& disk) {
  const std::string& type = disk.source.type;
  if (type == "vhostuser" || type == "vhostvdpa") {
    return Refuse(disk, "vhostuser",
                  absl::StrCat("libvirt refuses discard for type ", Quoted(type),
                               ": another process serves the disk"));
  }
  if (type == "dir")
    return Refuse(disk, "no-source", "a directory shown as a FAT disk has no image");
  if (document.Child(node, "source") == kNoNode)
    return Refuse(disk, "no-source", "the disk has no source");
  return std::nullopt;
}

}  // namespace

Refusal Refuse(const Disk& disk, absl::string_view reason, std::string detail) {
  return {disk.target, std::string(reason), std::move(detail)};
}

std::optional<Refusal> RefusalOfKind(const Document& document, NodeId node, const Disk& disk,
                                     const QemuConflicts& conflicts) {
  if (std::optional<Refusal> refusal = RefusalOfDevice(disk)) return refusal;
  if (std::optional<Refusal> refusal = RefusalOfSource(document, node, disk)) return refusal;
  if (disk.read_only)
    return Refuse(disk, "read-only",
                  "the guest may not write to the disk, so it cannot discard either");
  if (disk.transient)
    return Refuse(disk, "transient-disk",
                  "what the guest writes goes to an overlay that is thrown away");
  if (disk.has_mirror) return Refuse(disk, "block-job", "a block job works on the disk");
  if (!disk.alias.empty() && conflicts.of_alias.count(disk.alias) != 0) {
    return Refuse(
        disk, "qemu-commandline-conflict",
        absl::StrCat("the domain hands QEMU settings of its own for device ", Quoted(disk.alias)));
  }
  if (!disk.discard.empty() && disk.discard != "unmap" && disk.discard != "ignore") {
    return Refuse(
        disk, "discard-unknown",
        absl::StrCat("discard=", Quoted(disk.discard), " is neither 'unmap' nor 'ignore'"));
  }
  return std::nullopt;
}

std::optional<Refusal> RefusalOfPath(const Domain& domain, const Disk& disk,
                                     const RewriteOptions& options) {
  const MachineType machine = ParseMachineType(domain.machine);
  switch (DiscardPathOf(domain, disk)) {
    case DiscardPath::kPasses:
      return std::nullopt;
    case DiscardPath::kBusDrops:
      return Refuse(disk, "bus-drops-discard",
                    absl::StrCat(disk.bus == "scsi" ? "the model of its SCSI controller"
                                                    : absl::StrCat("bus ", Quoted(disk.bus)),
                                 " drops discards; virtio, SATA, IDE and virtio-scsi pass them"));
    case DiscardPath::kMachineTooOld:
      if (options.machine == MachinePolicy::kAuto &&
          RaisedForVirtioBlk(machine, options.known_machines)) {
        return std::nullopt;
      }
      if (machine.kind == MachineKind::kDownstream) {
        return Refuse(
            disk, "machine-too-old",
            absl::StrCat("virtio-blk passes discards from ",
                         machine.vendor == "rhel" ? "pc-q35-rhel8.1.0" : "Ubuntu's 'eoan'",
                         " on, this is ", Quoted(domain.machine)));
      }
      return Refuse(
          disk, "machine-too-old",
          absl::StrCat("virtio-blk passes discards from machine type version 4.0 on, this is ",
                       Quoted(domain.machine)));
    case DiscardPath::kUnknown:
      break;
  }
  if (machine.kind == MachineKind::kDownstream && disk.bus == "virtio") {
    return Refuse(
        disk, "machine-unknown",
        absl::StrCat(
            Quoted(domain.machine),
            " is a distribution's own machine type, of which is not known whether virtio-blk "
            "passes discards; it helps to choose the newest '",
            machine.family, "' machine type of that distribution by hand"));
  }
  if (disk.bus == "scsi")
    return std::nullopt;  // a controller that was not measured: harmless, and a warning says so
  if (disk.bus == "virtio" || disk.bus.empty()) {
    return Refuse(
        disk, "machine-unknown",
        absl::StrCat("it is not known whether virtio-blk passes discards with machine type ",
                     Quoted(domain.machine)));
  }
  return Refuse(disk, "bus-unknown",
                absl::StrCat("it is not known whether bus ", Quoted(disk.bus), " passes discards"));
}

std::vector<Refusal> WarningsOf(const Document& document, NodeId node, const Domain& domain,
                                const Disk& disk) {
  std::vector<Refusal> warnings;
  if (disk.source.type == "network") {
    const std::string protocol = document.Value(document.Child(node, "source"), "protocol");
    if (std::find(std::begin(kDoubtfulProtocols), std::end(kDoubtfulProtocols), protocol) !=
        std::end(kDoubtfulProtocols)) {
      warnings.push_back(
          Refuse(disk, "source-may-drop",
                 absl::StrCat("QEMU may not pass discards on over ", Quoted(protocol))));
    }
  }
  if (disk.shareable) {
    warnings.push_back(
        Refuse(disk, "shareable",
               "other guests may use the same image: a discard of one is a discard for all"));
  }
  if (BusOf(disk) == "scsi" && DiscardPathOf(domain, disk) == DiscardPath::kUnknown) {
    warnings.push_back(Refuse(disk, "controller-unmeasured",
                              "whether this SCSI controller passes discards was never measured"));
  }
  return warnings;
}

}  // namespace virt_reclaim::xml
