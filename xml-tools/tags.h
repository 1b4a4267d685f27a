// Where each start tag of an XML text lies, byte by byte: the tag, every attribute in it, its
// quotes. libxml2 tells what a document means but keeps no offsets of attributes; an edit that
// leaves all other bytes alone needs those. This reader knows just enough XML for that (comments,
// CDATA, instructions, tags) and sets the bounds that keep the parser behind it cheap; document.cc
// lets libxml2 judge the same bytes and believes only what both agree on. Pure. Any thread.
#ifndef VIRT_RECLAIM_XML_TOOLS_TAGS_H_
#define VIRT_RECLAIM_XML_TOOLS_TAGS_H_

#include <cstddef>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim::xml {

// No domain XML comes near these; without them a small text can cost libxml2 seconds (it compares
// each attribute of a tag with each other) or the tree a hundred times the text's size.
inline constexpr size_t kMaxDepth = 200;
inline constexpr size_t kMaxNodes = 50'000;
inline constexpr size_t kMaxAttributes = 200;  // of one tag

struct RawAttribute {
  absl::string_view name;   // as written, with its prefix
  absl::string_view value;  // as written, between the quotes
  size_t value_begin = 0;   // offset of `value` in the text
  char quote = '"';
};

struct RawTag {
  size_t begin = 0;  // of '<'
  size_t end = 0;    // behind '>'
  size_t close_end =
      0;  // behind the '>' of its end tag; `end` when it is empty, 0 when there is none
  size_t insert_at = 0;  // behind the last attribute (or the name): where another attribute goes
  bool self_closing = false;
  absl::string_view name;
  size_t first_attribute = 0, attributes = 0;  // in RawTags::attributes
};

// All start tags in document order. When the text is not well-formed: those before the first fault,
// without an error: naming the fault is the parser's work.
struct RawTags {
  std::vector<RawTag> tags;
  std::vector<RawAttribute> attributes;
  std::optional<size_t> fault;  // offset of what is not whole
};

// InvalidArgument for a document type declaration, for what breaks a bound, and for what would cost
// a parser time by the square of the size before it complains (two hyphens in a comment, '<' in a
// value or the XML declaration). The views point into `text`.
absl::StatusOr<RawTags> FindTags(absl::string_view text);

// White space of XML.
inline bool IsBlank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

// 1-based line of `offset`.
size_t LineOf(absl::string_view text, size_t offset);

}  // namespace virt_reclaim::xml

#endif  // VIRT_RECLAIM_XML_TOOLS_TAGS_H_
