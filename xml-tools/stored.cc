#include "xml-tools/stored.h"

#include <map>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "xml-tools/document.h"
#include "xml-tools/named_children.h"

namespace virt_reclaim::xml {
namespace {

bool IsNamespaceDeclaration(absl::string_view attribute) {
  return attribute == "xmlns" || absl::StartsWith(attribute, "xmlns:");
}

// As libvirt sorts them: disks by target, controllers by type and index.
std::optional<std::string> KeyOfStored(const Document& document, NodeId element) {
  const std::string& kind = document.node(element).name;
  if (kind == "disk") {
    const NodeId target = document.Child(element, "target");
    if (target != kNoNode) return document.Value(target, "dev");
  }
  if (kind == "controller")
    return absl::StrCat(document.Value(element, "type"), " ", document.Value(element, "index"));
  return std::nullopt;
}

class StoredComparison {
 public:
  StoredComparison(const Document& given, const Document& stored)
      : given_(given), stored_(stored) {}
  // Depth is bounded by kMaxDepth of tags.h.
  std::string Compare(NodeId given, NodeId stored, const std::string& path) const;

 private:
  using Attributes = std::map<std::string, std::string>;
  static Attributes AttributesOf(const Document& document, NodeId element);
  std::string CompareAttributes(NodeId given, NodeId stored, const std::string& path) const;
  std::string CompareChildren(NodeId given, NodeId stored, const std::string& path) const;
  bool IsAddedByLibvirt(NodeId stored) const;
  bool IsAddedByLibvirt(NodeId element, absl::string_view attribute, absl::string_view value) const;

  const Document& given_;
  const Document& stored_;
};

StoredComparison::Attributes StoredComparison::AttributesOf(const Document& document,
                                                            NodeId element) {
  Attributes all;
  const Node& node = document.node(element);
  for (uint32_t i = 0; i < node.attributes; ++i) {
    const Attribute& attribute = document.attribute(node, i);
    if (!IsNamespaceDeclaration(attribute.name)) all[attribute.name] = attribute.value;
  }
  return all;
}

bool StoredComparison::IsAddedByLibvirt(NodeId stored) const {
  const Node& node = stored_.node(stored);
  const NodeId above = node.parent;
  const auto is_devices = [&](NodeId id) {
    return stored_.IsElement(id, "devices") && stored_.node(id).parent == stored_.root();
  };
  if (node.name == "controller") {
    const std::string type = stored_.Value(stored, "type");
    return is_devices(above) && (type == "pci" || type == "virtio-serial");
  }
  return node.name == "address" && is_devices(stored_.node(above).parent);
}

bool StoredComparison::IsAddedByLibvirt(NodeId element, absl::string_view attribute,
                                        absl::string_view value) const {
  const Node& node = stored_.node(element);
  if (attribute == "multifunction") return node.name == "address" && value == "on";
  return attribute == "type" && value == "raw" && node.name == "driver" &&
         stored_.IsElement(node.parent, "disk");
}

std::string StoredComparison::CompareAttributes(NodeId given, NodeId stored,
                                                const std::string& path) const {
  const Attributes wanted = AttributesOf(given_, given), found = AttributesOf(stored_, stored);
  for (const auto& [name, value] : wanted) {
    const auto same = found.find(name);
    if (same == found.end() || same->second != value) return JoinAttribute(path, name);
  }
  for (const auto& [name, value] : found) {
    if (!wanted.contains(name) && !IsAddedByLibvirt(stored, name, value))
      return JoinAttribute(path, name);
  }
  return "";
}

std::string StoredComparison::CompareChildren(NodeId given, NodeId stored,
                                              const std::string& path) const {
  const NamedChildren wanted = ChildrenOf(given_, given, KeyOfStored);
  const NamedChildren found = ChildrenOf(stored_, stored, KeyOfStored);
  std::map<std::string, NodeId> left(found.begin(), found.end());
  for (const auto& [name, id] : wanted) {
    const auto same = left.find(name);
    if (same == left.end()) return Join(path, name);
    const std::string difference = Compare(id, same->second, Join(path, name));
    if (!difference.empty()) return difference;
    left.erase(same);
  }
  for (const auto& [name, id] : found) {
    if (left.contains(name) && !IsAddedByLibvirt(id)) return Join(path, name);
  }
  return "";
}

std::string StoredComparison::Compare(NodeId given, NodeId stored, const std::string& path) const {
  if (given_.node(given).namespace_uri != stored_.node(stored).namespace_uri) return path;
  std::string difference = CompareAttributes(given, stored, path);
  if (difference.empty()) difference = CompareChildren(given, stored, path);
  if (!difference.empty()) return difference;
  return given_.TextOf(given) == stored_.TextOf(stored) ? "" : Join(path, "text()");
}

}  // namespace

absl::StatusOr<std::string> FirstDifference(absl::string_view given, absl::string_view stored) {
  VR_ASSIGN_OR_RETURN(const Document wanted, ParseDocument(given));
  VR_ASSIGN_OR_RETURN(const Document found, ParseDocument(stored));
  if (wanted.node(wanted.root()).name != found.node(found.root()).name) return "/";
  return StoredComparison(wanted, found).Compare(wanted.root(), found.root(), "");
}

}  // namespace virt_reclaim::xml
