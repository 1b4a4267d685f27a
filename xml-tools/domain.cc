#include "xml-tools/domain.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "xml-tools/document.h"
#include "xml-tools/domain_reader.h"

namespace virt_reclaim::xml {
namespace {

struct RootName {
  absl::string_view root, meaning;
};
constexpr RootName kOtherRoots[] = {
    {"domainsnapshot", "the XML of a snapshot, which embeds the domain twice"},
    {"domainbackup", "the XML of a backup job"},
    {"domaincheckpoint", "the XML of a checkpoint"},
    {"domstatus", "libvirt's own status file of a running domain"},
    {"domainCapabilities", "the answer of domcapabilities"},
    {"network", "the XML of a network"},
    {"pool", "the XML of a storage pool"},
    {"volume", "the XML of a storage volume"},
};

// libvirt writes "0x1f" in PCI addresses and "31" elsewhere, and reads both everywhere.
std::optional<uint32_t> Number(absl::string_view text) {
  uint32_t value = 0;
  const bool hex = absl::StartsWithIgnoreCase(text, "0x");
  const bool ok = hex ? absl::SimpleHexAtoi(text, &value) : absl::SimpleAtoi(text, &value);
  return ok ? std::optional<uint32_t>(value) : std::nullopt;
}

class Reader {
 public:
  explicit Reader(const Document& document) : document_(document) {}
  Domain Read() const;

 private:
  std::string Get(NodeId element, absl::string_view attribute) const {
    return document_.Value(element, attribute);
  }
  std::string GetOr(NodeId element, absl::string_view attribute, absl::string_view otherwise) const;
  bool Has(NodeId parent, absl::string_view child) const {
    return document_.Child(parent, child) != kNoNode;
  }
  std::optional<uint32_t> AddressPart(NodeId address, absl::string_view name) const;
  std::optional<PciAddress> Pci(NodeId owner) const;
  std::optional<DriveAddress> Drive(NodeId owner) const;
  std::string PathOf(absl::string_view type, NodeId source) const;
  Disk ReadDisk(NodeId disk) const;
  std::vector<ImageSource> ReadBacking(NodeId disk) const;
  std::vector<std::string> ReadMetadata() const;
  std::string ReadPolicyRun() const;
  void ReadSystem(Domain& domain) const;

  const Document& document_;
};

std::string Reader::GetOr(NodeId element, absl::string_view attribute,
                          absl::string_view otherwise) const {
  const Attribute* const found = document_.FindAttribute(element, attribute);
  return found == nullptr ? std::string(otherwise) : found->value;
}

// Absent parts are 0; a part that is no number makes the address unknown.
std::optional<uint32_t> Reader::AddressPart(NodeId address, absl::string_view name) const {
  return Number(GetOr(address, name, "0"));
}

std::optional<PciAddress> Reader::Pci(NodeId owner) const {
  const NodeId address = document_.Child(owner, "address");
  if (Get(address, "type") != "pci") return std::nullopt;
  const auto domain = AddressPart(address, "domain"), bus = AddressPart(address, "bus");
  const auto slot = AddressPart(address, "slot"), function = AddressPart(address, "function");
  if (!domain || !bus || !slot || !function) return std::nullopt;
  return PciAddress{*domain, *bus, *slot, *function};
}

std::optional<DriveAddress> Reader::Drive(NodeId owner) const {
  const NodeId address = document_.Child(owner, "address");
  if (Get(address, "type") != "drive") return std::nullopt;
  const auto controller = AddressPart(address, "controller"), bus = AddressPart(address, "bus");
  const auto target = AddressPart(address, "target"), unit = AddressPart(address, "unit");
  if (!controller || !bus || !target || !unit) return std::nullopt;
  return DriveAddress{*controller, *bus, *target, *unit};
}

std::string Reader::PathOf(absl::string_view type, NodeId source) const {
  if (source == kNoNode) return "";
  if (type == "file") return Get(source, "file");
  if (type == "block" || type == "vhostvdpa") return Get(source, "dev");
  if (type == "dir") return Get(source, "dir");
  if (type == "network") return absl::StrCat(Get(source, "protocol"), ":", Get(source, "name"));
  if (type == "volume") return absl::StrCat(Get(source, "pool"), "/", Get(source, "volume"));
  if (type == "vhostuser") return Get(source, "path");
  return "";
}

// Each <backingStore> holds the next one; an empty one ends the chain. Depth is bounded by
// kMaxDepth of tags.h.
std::vector<ImageSource> Reader::ReadBacking(NodeId disk) const {
  std::vector<ImageSource> chain;
  for (NodeId layer = document_.Child(disk, "backingStore"); layer != kNoNode;
       layer = document_.Child(layer, "backingStore")) {
    const NodeId source = document_.Child(layer, "source");
    if (source == kNoNode) break;
    ImageSource image;
    image.type = GetOr(layer, "type", "file");
    image.format = Get(document_.Child(layer, "format"), "type");
    image.path = PathOf(image.type, source);
    chain.push_back(std::move(image));
  }
  return chain;
}

Disk Reader::ReadDisk(NodeId node) const {
  Disk disk;
  const NodeId target = document_.Child(node, "target"), driver = document_.Child(node, "driver");
  disk.target = Get(target, "dev");
  disk.bus = Get(target, "bus");
  disk.device = GetOr(node, "device", "disk");
  disk.source.type = GetOr(node, "type", "file");
  disk.source.format = Get(driver, "type");
  disk.source.path = PathOf(disk.source.type, document_.Child(node, "source"));
  disk.backing = ReadBacking(node);
  disk.driver_name = Get(driver, "name");
  disk.discard = Get(driver, "discard");
  disk.detect_zeroes = Get(driver, "detect_zeroes");
  disk.discard_no_unref = Get(driver, "discard_no_unref");
  disk.cache = Get(driver, "cache");
  disk.io = Get(driver, "io");
  disk.read_only = Has(node, "readonly");
  disk.shareable = Has(node, "shareable");
  disk.transient = Has(node, "transient");
  disk.has_mirror = Has(node, "mirror");
  disk.serial = document_.TextOf(document_.Child(node, "serial"));
  disk.wwn = document_.TextOf(document_.Child(node, "wwn"));
  disk.alias = Get(document_.Child(node, "alias"), "name");
  disk.pci = Pci(node);
  disk.drive = Drive(node);
  return disk;
}

std::vector<std::string> Reader::ReadMetadata() const {
  std::vector<std::string> namespaces;
  const NodeId metadata = document_.Child(document_.root(), "metadata");
  if (metadata == kNoNode) return namespaces;
  for (NodeId id = document_.node(metadata).first_child; id != kNoNode;
       id = document_.node(id).next) {
    const std::string& uri = document_.node(id).namespace_uri;
    if (!uri.empty() && std::find(namespaces.begin(), namespaces.end(), uri) == namespaces.end())
      namespaces.push_back(uri);
  }
  return namespaces;
}

std::string Reader::ReadPolicyRun() const {
  const NodeId metadata = document_.Child(document_.root(), "metadata");
  if (metadata == kNoNode) return "";
  for (NodeId id = document_.node(metadata).first_child; id != kNoNode;
       id = document_.node(id).next) {
    const Node& node = document_.node(id);
    const std::string local = node.name.substr(node.name.find(':') + 1);  // without its prefix
    if (node.namespace_uri == kPolicyNamespace && local == "policy") return GetOr(id, "run", "?");
  }
  return "";
}

void Reader::ReadSystem(Domain& domain) const {
  for (const NodeId sysinfo : document_.Children(document_.root(), "sysinfo")) {
    for (const NodeId entry : document_.Children(document_.Child(sysinfo, "system"), "entry")) {
      const std::string name = Get(entry, "name");
      if (name == "manufacturer") domain.system_manufacturer = document_.TextOf(entry);
      if (name == "product") domain.system_product = document_.TextOf(entry);
    }
  }
}

Domain Reader::Read() const {
  Domain domain;
  const NodeId root = document_.root();
  const NodeId type = OsTypeNode(document_);
  domain.type = Get(root, "type");
  domain.name = document_.TextOf(document_.Child(root, "name"));
  domain.uuid = document_.TextOf(document_.Child(root, "uuid"));
  domain.arch = Get(type, "arch");
  domain.machine = Get(type, "machine");
  domain.boots_host_kernel = !document_.Children(document_.Child(root, "os"), "kernel").empty();
  for (const NodeId disk : DiskNodes(document_)) domain.disks.push_back(ReadDisk(disk));
  for (const NodeId devices : document_.Children(root, "devices")) {
    for (const NodeId node : document_.Children(devices, "controller")) {
      const std::optional<uint32_t> index = AddressPart(node, "index");
      domain.controllers.push_back(
          {Get(node, "type"), Get(node, "model"), index.value_or(0), Pci(node)});
    }
    for (const NodeId node : document_.Children(devices, "hostdev")) {
      if (const std::optional<DriveAddress> drive = Drive(node))
        domain.scsi_hostdevs.push_back(*drive);
    }
    for (const NodeId node : document_.Children(devices, "channel")) {
      const NodeId target = document_.Child(node, "target");
      Channel channel{Get(target, "name"), Get(target, "state"), ""};
      if (Get(node, "type") == "unix")
        channel.socket = Get(document_.Child(node, "source"), "path");
      domain.channels.push_back(std::move(channel));
    }
  }
  domain.metadata_namespaces = ReadMetadata();
  domain.policy_run = ReadPolicyRun();
  ReadSystem(domain);
  return domain;
}

}  // namespace

absl::Status CheckIsDomain(const Document& document) {
  const Node& root = document.node(document.root());
  if (document.IsElement(document.root(), "domain")) return absl::OkStatus();
  if (!root.namespace_uri.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the root element is '", Printable(root.name), "' of namespace '",
                     Printable(root.namespace_uri), "', not libvirt's 'domain'"));
  }
  for (const RootName& other : kOtherRoots) {
    if (root.name == other.root) {
      return absl::InvalidArgumentError(absl::StrCat("the root element is '", other.root,
                                                     "': ", other.meaning, ", not a domain"));
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("the root element is '", Printable(root.name), "', not 'domain'"));
}

std::vector<NodeId> DiskNodes(const Document& document) {
  std::vector<NodeId> disks;
  for (const NodeId devices : document.Children(document.root(), "devices")) {
    const std::vector<NodeId> found = document.Children(devices, "disk");
    disks.insert(disks.end(), found.begin(), found.end());
  }
  return disks;
}

NodeId OsTypeNode(const Document& document) {
  return document.Child(document.Child(document.root(), "os"), "type");
}

Domain ReadDomain(const Document& document) { return Reader(document).Read(); }

absl::StatusOr<Domain> ParseDomain(absl::string_view text) {
  VR_ASSIGN_OR_RETURN(const Document document, ParseDocument(text));
  VR_RETURN_IF_ERROR(CheckIsDomain(document));
  return ReadDomain(document);
}

}  // namespace virt_reclaim::xml
