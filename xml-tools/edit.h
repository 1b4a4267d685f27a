// An edit of a document as data, made twice by two ways that must agree: on the bytes (splices,
// from the end) and on the tree. The spliced text is parsed again, and only when its tree equals
// the edited tree it is handed out. Pure. Any thread. Internal to xml-tools.
#ifndef VIRT_RECLAIM_XML_TOOLS_EDIT_H_
#define VIRT_RECLAIM_XML_TOOLS_EDIT_H_

#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "xml-tools/document.h"

namespace virt_reclaim::xml {

// Adds the attribute behind the last one, or changes its value between the quotes.
struct SetAttribute {
  NodeId element = kNoNode;
  std::string name, value;
};

// A new empty element before everything else in `parent`, on a line of its own when its neighbours
// have that, indented as they are.
struct InsertFirst {
  NodeId parent = kNoNode;
  std::string name;
  std::vector<std::pair<std::string, std::string>> attributes;
};

struct NewElement {
  std::string name;
  std::vector<std::pair<std::string, std::string>> attributes;
  std::vector<NewElement> children;
};

// A new element right behind the end of `sibling`, indented as that is. Several behind one sibling
// come in the order of their edits.
struct InsertAfter {
  NodeId sibling = kNoNode;
  NewElement element;
};

// The attribute and the blanks before it.
struct RemoveAttribute {
  NodeId element = kNoNode;
  std::string name;
};

// The element with all that is in it, and its line when it begins one.
struct RemoveElement {
  NodeId element = kNoNode;
};

using Edit = std::variant<SetAttribute, InsertFirst, InsertAfter, RemoveAttribute, RemoveElement>;

// The edited text. Internal: the proof failed, or two edits overlap.
absl::StatusOr<std::string> ApplyEdits(const Document& document, const std::vector<Edit>& edits);

// Every name, attribute, text, comment and instruction of the tree in one string; equal strings
// mean equal trees.
std::string Flatten(const Document& document, const std::vector<Edit>& edits);

}  // namespace virt_reclaim::xml

#endif  // VIRT_RECLAIM_XML_TOOLS_EDIT_H_
