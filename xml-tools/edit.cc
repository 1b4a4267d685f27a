#include "xml-tools/edit.h"

#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status.h"
#include "xml-tools/tags.h"

namespace virt_reclaim::xml {
namespace {

struct Splice {
  size_t begin = 0, end = 0;  // of what goes
  std::string text;           // what comes
};

std::string Escaped(absl::string_view value, char quote) {
  const absl::string_view quote_reference = quote == '"' ? "&quot;" : "&apos;";
  return absl::StrReplaceAll(value, {{"&", "&amp;"},
                                     {"<", "&lt;"},
                                     {"\t", "&#9;"},
                                     {"\n", "&#10;"},
                                     {"\r", "&#13;"},
                                     {absl::string_view(&quote, 1), quote_reference}});
}

std::string WrittenAttribute(absl::string_view name, absl::string_view value, char quote) {
  const std::string q(1, quote);
  return absl::StrCat(" ", name, "=", q, Escaped(value, quote), q);
}

// The quotes of the element's last attribute; libvirt's own when it has none.
char QuoteOf(const Document& document, NodeId element) {
  const Node& node = document.node(element);
  return node.attributes == 0 ? '\'' : document.attribute(node, node.attributes - 1).quote;
}

// What stands between the parent's start tag and its first child, when that is nothing but blanks:
// its last line, so that an empty line is not doubled.
absl::string_view Indentation(const Document& document, NodeId parent) {
  const absl::string_view rest = document.text().substr(document.node(parent).end);
  const size_t length = rest.find_first_not_of(" \t\r\n");
  if (length == absl::string_view::npos || rest[length] != '<') return "";
  const absl::string_view blanks = rest.substr(0, length);
  size_t line = blanks.find_last_of("\r\n");
  if (line == absl::string_view::npos) return blanks;
  if (line > 0 && blanks[line] == '\n' && blanks[line - 1] == '\r') --line;
  return blanks.substr(line);
}

// The blanks that stand right before an element, from its last line end on.
absl::string_view Lead(const Document& document, NodeId element) {
  const size_t end = document.node(element).begin;
  const absl::string_view text = document.text();
  size_t begin = end;
  while (begin > 0 && IsBlank(text[begin - 1])) {
    --begin;
    if (text[begin] != '\n' && text[begin] != '\r') continue;
    if (text[begin] == '\n' && begin > 0 && text[begin - 1] == '\r') --begin;
    break;
  }
  return text.substr(begin, end - begin);
}

// What children are indented by, beyond `lead`; nothing where elements stand side by side.
absl::string_view Step(absl::string_view lead) {
  if (lead.find_first_of("\r\n") == absl::string_view::npos) return "";
  return lead.find('\t') == absl::string_view::npos ? "  " : "\t";
}

// A parser reports each kind of line end as one newline.
std::string AsParsed(absl::string_view blanks) {
  return absl::StrReplaceAll(blanks, {{"\r\n", "\n"}, {"\r", "\n"}});
}

void Write(std::string& out, const NewElement& element, const std::string& lead, char quote) {
  absl::StrAppend(&out, lead, "<", element.name);
  for (const auto& [name, value] : element.attributes) out += WrittenAttribute(name, value, quote);
  if (element.children.empty()) {
    out += "/>";
    return;
  }
  out += ">";
  for (const NewElement& child : element.children)
    Write(out, child, absl::StrCat(lead, Step(lead)), quote);
  absl::StrAppend(&out, lead, "</", element.name, ">");
}

Splice SpliceOf(const Document& document, const SetAttribute& edit) {
  if (const Attribute* const old = document.FindAttribute(edit.element, edit.name)) {
    return {old->value_begin, old->value_end, Escaped(edit.value, old->quote)};
  }
  const size_t at = document.node(edit.element).insert_at;
  return {at, at, WrittenAttribute(edit.name, edit.value, QuoteOf(document, edit.element))};
}

Splice SpliceOf(const Document& document, const InsertFirst& edit) {
  const size_t at = document.node(edit.parent).end;
  std::string text = absl::StrCat(Indentation(document, edit.parent), "<", edit.name);
  const char quote = QuoteOf(document, edit.parent);
  for (const auto& [name, value] : edit.attributes) text += WrittenAttribute(name, value, quote);
  return {at, at, text + "/>"};
}

Splice SpliceOf(const Document& document, const InsertAfter& edit) {
  const size_t at = document.node(edit.sibling).close_end;
  std::string text;
  Write(text, edit.element, std::string(Lead(document, edit.sibling)),
        QuoteOf(document, edit.sibling));
  return {at, at, std::move(text)};
}

Splice SpliceOf(const Document& document, const RemoveAttribute& edit) {
  const Attribute* const old = document.FindAttribute(edit.element, edit.name);
  if (old == nullptr) return {};
  size_t begin = old->name_begin;
  while (begin > 0 && IsBlank(document.text()[begin - 1])) --begin;
  return {begin, old->value_end + 1, ""};
}

Splice SpliceOf(const Document& document, const RemoveElement& edit) {
  const Node& node = document.node(edit.element);
  return {node.begin - Lead(document, edit.element).size(), node.close_end, ""};
}

absl::StatusOr<std::string> Spliced(const Document& document, const std::vector<Edit>& edits) {
  std::vector<Splice> splices;
  for (const Edit& edit : edits) {
    splices.push_back(std::visit([&](const auto& e) { return SpliceOf(document, e); }, edit));
  }
  std::stable_sort(splices.begin(), splices.end(), [](const Splice& a, const Splice& b) {
    // An insertion goes before what is cut away at the same place.
    return a.begin != b.begin ? a.begin < b.begin : a.begin == a.end && b.begin != b.end;
  });
  std::string text;
  size_t copied = 0;
  for (const Splice& splice : splices) {
    if (splice.begin < copied) return absl::InternalError("two edits of the same bytes");
    absl::StrAppend(&text, document.text().substr(copied, splice.begin - copied), splice.text);
    copied = splice.end;
  }
  absl::StrAppend(&text, document.text().substr(copied));
  return text;
}

// Writes a tree as one string, with edits laid over it. Lengths before the strings keep "a"+"bc"
// apart from "ab"+"c".
class Flattener {
 public:
  Flattener(const Document& document, const std::vector<Edit>& edits) : document_(document) {
    for (const Edit& edit : edits) {
      if (const SetAttribute* const set = std::get_if<SetAttribute>(&edit))
        sets_.emplace(set->element, set);
      if (const InsertFirst* const insert = std::get_if<InsertFirst>(&edit))
        inserts_.emplace(insert->parent, insert);
      if (const InsertAfter* const insert = std::get_if<InsertAfter>(&edit))
        followers_.emplace(insert->sibling, insert);
      if (const RemoveAttribute* const remove = std::get_if<RemoveAttribute>(&edit))
        removed_attributes_.emplace(remove->element, remove->name);
      if (const RemoveElement* const remove = std::get_if<RemoveElement>(&edit))
        removed_.insert(remove->element);
    }
  }

  std::string Run() {
    out_.reserve(document_.text().size() * 2);
    Children(Document::kTop);
    return std::move(out_);
  }

 private:
  void Put(char mark, absl::string_view text) {
    const size_t size = text.size();
    out_ += mark;
    out_.append(reinterpret_cast<const char*>(&size), sizeof size);
    out_.append(text.data(), size);
  }

  void FlushText() {
    if (!pending_text_.empty()) Put('T', pending_text_);
    pending_text_.clear();
  }

  void Children(NodeId parent) {
    const auto [first, last] = inserts_.equal_range(parent);
    for (auto it = first; it != last; ++it) Inserted(*it->second);
    for (NodeId id = document_.node(parent).first_child; id != kNoNode;
         id = document_.node(id).next) {
      One(id);
      const auto [follower, end] = followers_.equal_range(id);
      for (auto it = follower; it != end; ++it) Follow(*it->second);
    }
    FlushText();
  }

  void Inserted(const InsertFirst& insert) {
    pending_text_ += AsParsed(Indentation(document_, insert.parent));
    FlushText();
    Put('E', insert.name);
    Put('N', "");
    for (const auto& [name, value] : insert.attributes) Put('A', name), Put('V', value);
    Put('e', "");
  }

  void Follow(const InsertAfter& insert) {
    New(insert.element, AsParsed(Lead(document_, insert.sibling)));
  }

  void New(const NewElement& element, const std::string& lead) {
    pending_text_ += lead;
    FlushText();
    Put('E', element.name);
    Put('N', "");
    for (const auto& [name, value] : element.attributes) Put('A', name), Put('V', value);
    for (const NewElement& child : element.children) New(child, absl::StrCat(lead, Step(lead)));
    if (!element.children.empty()) pending_text_ += lead;
    FlushText();
    Put('e', "");
  }

  void One(NodeId id) {
    const Node& node = document_.node(id);
    if (removed_.count(id) != 0) {
      const size_t cut = AsParsed(Lead(document_, id)).size();
      pending_text_.resize(pending_text_.size() - std::min(cut, pending_text_.size()));
      return;
    }
    if (node.kind == NodeKind::kText) {
      pending_text_ += node.text;
      return;
    }
    FlushText();
    if (node.kind != NodeKind::kElement) {
      Put(node.kind == NodeKind::kComment ? 'C'
          : node.kind == NodeKind::kCdata ? 'D'
                                          : 'I',
          node.name);
      Put('t', node.text);
      return;
    }
    Put('E', node.name);
    Put('N', node.namespace_uri);
    Attributes(id);
    Children(id);
    Put('e', "");
  }

  void Attributes(NodeId id) {
    const Node& node = document_.node(id);
    for (uint32_t i = 0; i < node.attributes; ++i) {
      const Attribute& attribute = document_.attribute(node, i);
      if (attribute.plain && removed_attributes_.count({id, attribute.name}) != 0) continue;
      const SetAttribute* const set = attribute.plain ? FindSet(id, attribute.name) : nullptr;
      Put('A', attribute.name), Put('V', set == nullptr ? attribute.value : set->value);
    }
    const auto [first, last] = sets_.equal_range(id);
    for (auto it = first; it != last; ++it) {
      if (document_.FindAttribute(id, it->second->name) != nullptr) continue;
      Put('A', it->second->name), Put('V', it->second->value);
    }
  }

  const SetAttribute* FindSet(NodeId element, absl::string_view name) const {
    const auto [first, last] = sets_.equal_range(element);
    const auto found =
        std::find_if(first, last, [&](const auto& entry) { return entry.second->name == name; });
    return found == last ? nullptr : found->second;
  }

  const Document& document_;
  std::multimap<NodeId, const SetAttribute*> sets_;
  std::multimap<NodeId, const InsertFirst*> inserts_;
  std::multimap<NodeId, const InsertAfter*> followers_;
  std::set<std::pair<NodeId, absl::string_view>> removed_attributes_;  // names: of the edits
  std::set<NodeId> removed_;
  std::string out_;
  std::string pending_text_;
};

}  // namespace

std::string Flatten(const Document& document, const std::vector<Edit>& edits) {
  return Flattener(document, edits).Run();
}

absl::StatusOr<std::string> ApplyEdits(const Document& document, const std::vector<Edit>& edits) {
  if (edits.empty()) return std::string(document.text());
  VR_ASSIGN_OR_RETURN(std::string text, Spliced(document, edits));
  absl::StatusOr<Document> after = ParseDocument(text);
  if (!after.ok())
    return absl::InternalError(
        absl::StrCat("the edited text cannot be read: ", after.status().message()));
  if (Flatten(*after, {}) != Flatten(document, edits)) {
    return absl::InternalError("the edited text is not what was planned: nothing was changed");
  }
  return text;
}

}  // namespace virt_reclaim::xml
