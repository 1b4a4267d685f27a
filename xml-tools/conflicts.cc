#include "xml-tools/conflicts.h"

#include "absl/strings/match.h"

namespace virt_reclaim::xml {
namespace {

constexpr absl::string_view kQemuNamespace = "http://libvirt.org/schemas/domain/qemu/1.0";

// Switches that define drives, devices' properties or the machine, whatever follows them.
constexpr absl::string_view kSwitches[] = {"-drive",  "-M",        "-machine", "-set",
                                           "--drive", "--machine", "--set"};
constexpr absl::string_view kWords[] = {"discard", "virtio-blk", "device.", "virtio-disk"};
// How libvirt names disks by itself; in the XML of a domain that is off these are not written down.
constexpr absl::string_view kAutomaticAliases[] = {"virtio-disk", "scsi", "ide", "sata",
                                                   "usb-disk"};

bool IsAutomaticAlias(absl::string_view alias) {
  for (const absl::string_view prefix : kAutomaticAliases) {
    if (absl::StartsWith(alias, prefix)) return true;
  }
  return false;
}

class Finder {
 public:
  Finder(const Document& document, const Domain& domain) : document_(document), domain_(domain) {}

  QemuConflicts Run() {
    for (NodeId id = document_.node(document_.root()).first_child; id != kNoNode;
         id = document_.node(id).next) {
      if (document_.node(id).namespace_uri == kQemuNamespace) Look(id);
    }
    return found_;
  }

 private:
  void Look(NodeId id) {
    const Node& node = document_.node(id);
    if (node.kind != NodeKind::kElement) return;
    const std::string alias = document_.Value(id, "alias");
    if (!alias.empty()) return Override(alias);  // <qemu:device alias='...'>: only that device
    for (uint32_t i = 0; i < node.attributes; ++i) Argument(document_.attribute(node, i).value);
    for (NodeId child = node.first_child; child != kNoNode; child = document_.node(child).next)
      Look(child);
  }

  void Override(const std::string& alias) {
    for (const Disk& disk : domain_.disks) {
      if (disk.alias == alias) {
        found_.of_alias.insert(alias);
        return;
      }
    }
    if (IsAutomaticAlias(alias) && found_.of_domain.empty()) found_.of_domain = alias;
  }

  void Argument(const std::string& argument) {
    bool hit = false;
    for (const absl::string_view name : kSwitches) hit = hit || argument == name;
    for (const absl::string_view word : kWords) hit = hit || absl::StrContains(argument, word);
    if (hit && found_.of_domain.empty()) found_.of_domain = argument;
    for (const Disk& disk : domain_.disks) {
      if (!disk.alias.empty() && absl::StrContains(argument, disk.alias))
        found_.of_alias.insert(disk.alias);
    }
  }

  const Document& document_;
  const Domain& domain_;
  QemuConflicts found_;
};

}  // namespace

QemuConflicts FindQemuConflicts(const Document& document, const Domain& domain) {
  return Finder(document, domain).Run();
}

}  // namespace virt_reclaim::xml
