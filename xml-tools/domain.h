// What virt-reclaim reads out of a libvirt domain XML (https://libvirt.org/formatdomain.html), as
// plain facts. Pure: text in, values out; needs no libvirt. Any thread.
#ifndef VIRT_RECLAIM_XML_TOOLS_DOMAIN_H_
#define VIRT_RECLAIM_XML_TOOLS_DOMAIN_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim::xml {

inline constexpr size_t kMaxXmlBytes =
    size_t{1} << 20;  // libvirt's own largest test domain has 1.4 % of that

// Of what a domain's metadata say to virt-reclaim:
//   virsh metadata DOMAIN --config --uri urn:virt-reclaim:policy:1 --key vr --set "<policy
//   run='no'/>"
inline constexpr char kPolicyNamespace[] = "urn:virt-reclaim:policy:1";

struct PciAddress {
  uint32_t domain = 0, bus = 0, slot = 0, function = 0;
  bool operator==(const PciAddress&) const = default;
};

struct DriveAddress {
  uint32_t controller = 0, bus = 0, target = 0, unit = 0;
  bool operator==(const DriveAddress&) const = default;
};

// One image: the disk's own, or a layer of its backing chain (only the live XML of a running domain
// has those).
struct ImageSource {
  std::string type;    // file, block, network, volume, nvme, dir, vhostuser, ...
  std::string format;  // driver/@type of the layer: raw, qcow2, ...; empty when not said
  std::string path;    // file, block: the path; network: "protocol:name"; volume: "pool/volume";
                       // empty: no medium
};

struct Disk {
  std::string target;  // target/@dev
  std::string bus;     // target/@bus; empty when not said
  std::string device;  // disk, cdrom, floppy, lun; "disk" when not said
  ImageSource source;
  std::vector<ImageSource> backing;  // from the top down, without the image itself
  std::string driver_name;           // qemu
  std::string discard;               // driver/@discard; empty when not said, which means ignore
  std::string detect_zeroes;
  std::string discard_no_unref;  // driver/@discard_no_unref; empty when not said, which means off
  std::string cache, io;
  bool read_only = false;
  bool shareable = false;
  bool transient = false;
  bool has_mirror = false;  // a block job is under way
  std::string serial, wwn, alias;
  std::optional<PciAddress> pci;      // address type='pci'
  std::optional<DriveAddress> drive;  // address type='drive'
};

struct Controller {
  std::string type;   // scsi, virtio-serial, pci, ...
  std::string model;  // virtio-scsi, pcie-root-port, ...; empty when not said
  uint32_t index = 0;
  std::optional<PciAddress> pci;
};

struct Channel {
  std::string name;   // target/@name
  std::string state;  // target/@state of the live XML: connected, disconnected; empty when not said
  std::string socket;  // source/@path when type='unix'
};

struct Domain {
  std::string type;  // kvm, qemu, test, ...
  std::string name;
  std::string uuid;
  std::string arch;                // os/type/@arch
  std::string machine;             // os/type/@machine; empty when not said
  bool boots_host_kernel = false;  // os/kernel: the boot loader on the disks is not asked
  std::vector<Disk> disks;
  std::vector<Controller> controllers;
  std::vector<Channel> channels;
  std::vector<DriveAddress> scsi_hostdevs;       // addresses of <hostdev>s on SCSI controllers
  std::vector<std::string> metadata_namespaces;  // namespace URIs of metadata's children
  // Entries of sysinfo's <system>: what the guest's SMBIOS says it is; empty when not said.
  std::string system_manufacturer, system_product;
  // Attribute run of metadata's <policy> in kPolicyNamespace: whether 'virt-reclaim run' may work
  // on it. "?" when that has no such attribute; empty: there is none.
  std::string policy_run;
};

// InvalidArgument: not well-formed, a document type declaration, larger than kMaxXmlBytes, too
// deep, an encoding that is no superset of ASCII, or another root than <domain>.
absl::StatusOr<Domain> ParseDomain(absl::string_view text);

}  // namespace virt_reclaim::xml

#endif  // VIRT_RECLAIM_XML_TOOLS_DOMAIN_H_
