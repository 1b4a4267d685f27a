// An XML document as a flat tree whose elements know their exact bytes in the text. The meaning
// comes from libxml2 (SAX2, in memory, no network, no entities); the offsets come from tags.h and
// are checked against libxml2's. Comments, instructions and text are kept too, since an edit is
// proved by comparing whole trees. Pure. Any thread.
#ifndef VIRT_RECLAIM_XML_TOOLS_DOCUMENT_H_
#define VIRT_RECLAIM_XML_TOOLS_DOCUMENT_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim::xml {

using NodeId = uint32_t;
inline constexpr NodeId kNoNode = UINT32_MAX;

struct Attribute {
  std::string name;   // as written, with its prefix
  std::string value;  // decoded
  bool plain = true;  // in no namespace and no namespace declaration
  size_t name_begin = 0;
  size_t value_begin = 0, value_end = 0;  // between the quotes
  char quote = '"';
};

enum class NodeKind : uint8_t { kDocument, kElement, kText, kCdata, kComment, kInstruction };

struct Node {
  NodeKind kind = NodeKind::kDocument;
  bool plain = false;         // an element in no namespace
  bool self_closing = false;  // <x/>
  NodeId parent = kNoNode, first_child = kNoNode, last_child = kNoNode, next = kNoNode;
  std::string name;           // element: as written, with its prefix; instruction: its target
  std::string namespace_uri;  // of an element; empty: none
  std::string text;           // of text, CDATA, comment, instruction
  size_t begin = 0, end = 0;  // the start tag: of '<', behind '>'
  size_t insert_at = 0;       // where another attribute goes
  size_t close_end = 0;       // of an element: behind its end tag
  uint32_t first_attribute = 0, attributes = 0;
};

class Document {
 public:
  // The document above its root element: comments beside the root are its children.
  static constexpr NodeId kTop = 0;

  absl::string_view text() const { return text_; }
  const Node& node(NodeId id) const { return nodes_[id]; }
  size_t size() const { return nodes_.size(); }
  NodeId root() const { return root_; }
  const Attribute& attribute(const Node& node, uint32_t i) const {
    return attributes_[node.first_attribute + i];
  }

  // Elements without a namespace are the only ones these see.
  bool IsElement(NodeId id, absl::string_view name) const;
  NodeId Child(NodeId parent, absl::string_view name) const;  // the first one, or kNoNode
  std::vector<NodeId> Children(NodeId parent, absl::string_view name) const;

  const Attribute* FindAttribute(NodeId element, absl::string_view name) const;  // nullptr: none
  std::string Value(NodeId element, absl::string_view name) const;  // empty also when there is none
  std::string TextOf(
      NodeId element) const;  // of its text and CDATA children, blanks at both ends cut

 private:
  friend class DocumentBuilder;
  std::string text_;
  std::vector<Node> nodes_;
  std::vector<Attribute> attributes_;
  NodeId root_ = kNoNode;
};

// InvalidArgument with the line: not well-formed, a document type declaration, more than
// kMaxXmlBytes (domain.h) or another bound of tags.h, an encoding that is no superset of ASCII.
// Internal when libxml2 and tags.h see different tags.
absl::StatusOr<Document> ParseDocument(absl::string_view text);

}  // namespace virt_reclaim::xml

#endif  // VIRT_RECLAIM_XML_TOOLS_DOCUMENT_H_
