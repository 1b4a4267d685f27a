#include "xml-tools/windows.h"

#include <tuple>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/escape.h"

namespace virt_reclaim::xml {
namespace {

// http://libosinfo.org/xmlns/libvirt/domain/1.0; virt-manager and virt-install write it.
constexpr absl::string_view kLibosinfo = "http://libosinfo.org/xmlns/libvirt/domain/";
constexpr absl::string_view kMicrosoft = "http://microsoft.com/";
// "unknown/generic": whoever chose it has said nothing.
constexpr absl::string_view kNoSystem = "http://libosinfo.org/";

// <libosinfo:os id='...'/> inside <libosinfo:libosinfo>.
std::string OsId(const Document& document, NodeId parent) {
  for (NodeId id = document.node(parent).first_child; id != kNoNode; id = document.node(id).next) {
    const Node& node = document.node(id);
    if (node.kind != NodeKind::kElement || !absl::StartsWith(node.namespace_uri, kLibosinfo))
      continue;
    if (const std::string os = document.Value(id, "id"); !os.empty()) return os;
    if (const std::string os = OsId(document, id); !os.empty()) return os;
  }
  return "";
}

// vda before vdz before vdaa.
bool NameLess(const std::string& a, const std::string& b) {
  return std::tuple(a.size(), absl::string_view(a)) < std::tuple(b.size(), absl::string_view(b));
}

}  // namespace

std::string SignOfWindows(const Document& document) {
  const NodeId metadata = document.Child(document.root(), "metadata");
  if (metadata != kNoNode) {
    const std::string os = OsId(document, metadata);
    if (absl::StartsWith(os, kMicrosoft)) return absl::StrCat("its metadata say ", Printable(os));
    if (!os.empty() && !absl::StartsWith(os, kNoSystem)) return "";
  }
  const NodeId features = document.Child(document.root(), "features");
  return document.Child(features, "hyperv") != kNoNode ? "it has Hyper-V features" : "";
}

bool MayBoot(const Document& document, const Domain& domain, const std::vector<NodeId>& nodes,
             size_t disk) {
  const auto has_order = [&](NodeId node) { return document.Child(node, "boot") != kNoNode; };
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (domain.disks[i].device == "disk" && has_order(nodes[i])) return has_order(nodes[disk]);
  }
  bool first_by_place = true, first_by_name = true;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const Disk& other = domain.disks[i];
    if (i == disk || other.device != "disk" || other.bus != domain.disks[disk].bus) continue;
    first_by_place = first_by_place && disk < i;
    first_by_name = first_by_name && NameLess(domain.disks[disk].target, other.target);
  }
  return first_by_place || first_by_name;
}

}  // namespace virt_reclaim::xml
