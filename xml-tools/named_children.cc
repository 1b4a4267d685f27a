#include "xml-tools/named_children.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "base/escape.h"

namespace virt_reclaim::xml {

NamedChildren ChildrenOf(const Document& document, NodeId element, KeyOf key_of) {
  NamedChildren children;
  std::map<std::string, int> count;
  for (NodeId id = document.node(element).first_child; id != kNoNode; id = document.node(id).next) {
    const Node& node = document.node(id);
    if (node.kind != NodeKind::kElement) continue;
    std::string name = Printable(node.name);
    if (const std::optional<std::string> key = key_of(document, id))
      absl::StrAppend(&name, "[", Printable(*key), "]");
    const int number = ++count[name];
    if (number > 1) absl::StrAppend(&name, "[", number, "]");
    children.emplace_back(std::move(name), id);
  }
  return children;
}

std::string Join(const std::string& path, absl::string_view name) {
  return path.empty() ? std::string(name) : absl::StrCat(path, "/", name);
}

std::string JoinAttribute(const std::string& path, absl::string_view name) {
  return Join(path, absl::StrCat("@", Printable(name)));
}

}  // namespace virt_reclaim::xml
