// Places in a definition, for those who compare two of them (stored.h, pending.h): each element by
// a name that is its own among its siblings, and paths of such names. Names only, since values may
// be secrets; all of them printable. Pure. Any thread.
#ifndef VIRT_RECLAIM_XML_TOOLS_NAMED_CHILDREN_H_
#define VIRT_RECLAIM_XML_TOOLS_NAMED_CHILDREN_H_

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "xml-tools/document.h"

namespace virt_reclaim::xml {

// In the order of the document.
using NamedChildren = std::vector<std::pair<std::string, NodeId>>;

// What tells an element from others of its kind, as it is in the document: the target of a disk.
// nullopt: nothing but their order.
using KeyOf = std::optional<std::string> (*)(const Document& document, NodeId element);

// The elements directly below `element`: "disk[vda]" with a key, "os" without; the second and later
// ones of one name with their number, "hostdev[2]".
NamedChildren ChildrenOf(const Document& document, NodeId element, KeyOf key_of);

// "devices", "disk[vda]" -> "devices/disk[vda]"; `path` is empty at the root.
std::string Join(const std::string& path, absl::string_view name);
// "devices/disk[vda]", "type" -> "devices/disk[vda]/@type". `name` as it is in the document.
std::string JoinAttribute(const std::string& path, absl::string_view name);

}  // namespace virt_reclaim::xml

#endif  // VIRT_RECLAIM_XML_TOOLS_NAMED_CHILDREN_H_
