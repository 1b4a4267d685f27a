#include "xml-tools/document.h"

#include <libxml/SAX2.h>
#include <libxml/parser.h>
#include <libxml/parserInternals.h>
#include <libxml/xmlerror.h>

#include <algorithm>
#include <climits>
#include <mutex>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/escape.h"
#include "base/handle.h"
#include "base/status.h"
#include "xml-tools/domain.h"
#include "xml-tools/encoding.h"
#include "xml-tools/tags.h"

namespace virt_reclaim::xml {
namespace {

absl::string_view View(const xmlChar* s) {
  return s == nullptr ? absl::string_view() : reinterpret_cast<const char*>(s);
}

std::string QualifiedName(const xmlChar* prefix, const xmlChar* local) {
  return prefix == nullptr ? std::string(View(local))
                           : absl::StrCat(View(prefix), ":", View(local));
}

constexpr size_t kBytesBehindFault = 256;

bool DeclaresNamespace(absl::string_view attribute) {
  return attribute == "xmlns" || absl::StartsWith(attribute, "xmlns:");
}

// What SAX says must be what the bytes say, as far as the bytes say it plainly: signs beyond ASCII
// are other bytes after a conversion.
bool SaysTheSame(absl::string_view raw, absl::string_view decoded, Encoding encoding) {
  const auto is_ascii = [](char c) { return absl::ascii_isascii(static_cast<unsigned char>(c)); };
  if (encoding != Encoding::kUtf8 && !std::all_of(raw.begin(), raw.end(), is_ascii)) return true;
  return raw == decoded;
}

bool IsPlainlyWritten(absl::string_view raw_value) {
  return std::none_of(raw_value.begin(), raw_value.end(),
                      [](char c) { return c == '&' || c == '\t' || c == '\r' || c == '\n'; });
}

}  // namespace

// Turns libxml2's callbacks into a Document. Lives for one parse.
class DocumentBuilder {
 public:
  DocumentBuilder(absl::string_view text, Encoding encoding, RawTags tags)
      : encoding_(encoding), tags_(std::move(tags)) {
    document_.text_ = std::string(text);
    document_.nodes_.reserve(tags_.tags.size() * 3 + 8);  // a text before each tag and end tag
    document_.attributes_.reserve(tags_.attributes.size());
    document_.nodes_.emplace_back();
  }

  absl::StatusOr<Document> Parse();

 private:
  static DocumentBuilder* Self(void* user) { return static_cast<DocumentBuilder*>(user); }
  static xmlSAXHandler Handler();
  static void StartElement(void* user, const xmlChar* local, const xmlChar* prefix,
                           const xmlChar* uri, int, const xmlChar**, int attributes, int,
                           const xmlChar** values);
  static void EndElement(void* user, const xmlChar*, const xmlChar*, const xmlChar*) {
    if (Self(user)->building()) Self(user)->Close();
  }
  static void Characters(void* user, const xmlChar* text, int length) {
    Self(user)->AddText(NodeKind::kText, text, length);
  }
  static void Cdata(void* user, const xmlChar* text, int length) {
    Self(user)->AddText(NodeKind::kCdata, text, length);
  }
  static void Comment(void* user, const xmlChar* text) {
    Self(user)->AddOther(NodeKind::kComment, "", View(text));
  }
  static void Instruction(void* user, const xmlChar* target, const xmlChar* data) {
    Self(user)->AddOther(NodeKind::kInstruction, View(target), View(data));
  }
  static void DoctypeSeen(void* user, const xmlChar*, const xmlChar*, const xmlChar*) {
    Self(user)->Stop(absl::InvalidArgumentError("a document type declaration is not accepted"));
  }
  static void EntitySeen(void* user, const xmlChar*) {
    Self(user)->Stop(absl::InvalidArgumentError("an entity reference is not accepted"));
  }
  static void Error(void* user, xmlErrorPtr error);

  NodeId Append(NodeKind kind);
  void Close() { open_ = document_.nodes_[open_].parent; }
  void AddText(NodeKind kind, const xmlChar* text, int length);
  void AddOther(NodeKind kind, absl::string_view name, absl::string_view text);
  absl::Status Open(const RawTag& tag, const xmlChar* local, const xmlChar* prefix,
                    const xmlChar* uri);
  absl::Status TakeAttributes(const RawTag& tag, size_t sax_attributes, const xmlChar** values);
  // Neither stopped nor at odds with tags.h.
  bool building() const { return failure_.ok() && doubt_.ok(); }
  void Stop(absl::Status status);

  const Encoding encoding_;
  const RawTags tags_;
  Document document_;
  NodeId open_ = Document::kTop;
  size_t next_tag_ = 0;
  absl::Status failure_;  // of the text
  absl::Status doubt_;    // tags.h saw something else: at the end of a text cut off that is to be
                          // expected, so libxml2 speaks first
  xmlParserCtxtPtr parser_ = nullptr;
};

// The first fault is the only one we tell; after it libxml2 would go on to look for more, in places
// by the square of the size. xmlStopParser frees the input, which the caller of an error handler
// may still point into; these two are what else it does.
void DocumentBuilder::Stop(absl::Status status) {
  if (failure_.ok()) failure_ = std::move(status);
  parser_->disableSAX = 1;
  parser_->instate = XML_PARSER_EOF;
}

void DocumentBuilder::Error(void* user, xmlErrorPtr error) {
  DocumentBuilder* const self = Self(user);
  // Errors below fatal are those of namespaces (a prefix nobody declared, 'xmlns:1'): libxml2 would
  // go on and guess.
  if (error->level < XML_ERR_ERROR || !self->failure_.ok()) return;
  const absl::string_view message = error->message == nullptr ? "not well-formed" : error->message;
  self->Stop(absl::InvalidArgumentError(
      absl::StrCat("line ", error->line, ": ", Printable(absl::StripAsciiWhitespace(message)))));
}

NodeId DocumentBuilder::Append(NodeKind kind) {
  const NodeId id = static_cast<NodeId>(document_.nodes_.size());
  Node& node = document_.nodes_.emplace_back();
  node.kind = kind;
  node.parent = open_;
  Node& parent = document_.nodes_[open_];
  if (parent.last_child == kNoNode) {
    parent.first_child = id;
  } else {
    document_.nodes_[parent.last_child].next = id;
  }
  parent.last_child = id;
  return id;
}

// libxml2 hands out one text in several pieces.
void DocumentBuilder::AddText(NodeKind kind, const xmlChar* text, int length) {
  if (!building()) return;
  const absl::string_view piece(reinterpret_cast<const char*>(text), static_cast<size_t>(length));
  const NodeId last = document_.nodes_[open_].last_child;
  const bool goes_on =
      kind == NodeKind::kText && last != kNoNode && document_.nodes_[last].kind == kind;
  const NodeId id = goes_on ? last : Append(kind);
  document_.nodes_[id].text.append(piece.data(), piece.size());
}

void DocumentBuilder::AddOther(NodeKind kind, absl::string_view name, absl::string_view text) {
  if (!building()) return;
  Node& node = document_.nodes_[Append(kind)];
  node.name = std::string(name);
  node.text = std::string(text);
}

void DocumentBuilder::StartElement(void* user, const xmlChar* local, const xmlChar* prefix,
                                   const xmlChar* uri, int, const xmlChar**, int attributes, int,
                                   const xmlChar** values) {
  DocumentBuilder* const self = Self(user);
  if (!self->building()) return;
  if (self->next_tag_ == self->tags_.tags.size()) {
    self->doubt_ = absl::InternalError("a start tag was not found in the text");
    return;
  }
  const RawTag& tag = self->tags_.tags[self->next_tag_++];
  absl::Status status = self->Open(tag, local, prefix, uri);
  if (status.ok()) status = self->TakeAttributes(tag, static_cast<size_t>(attributes), values);
  if (!status.ok())
    self->doubt_ =
        Annotate(status, absl::StrCat("line ", LineOf(self->document_.text_, tag.begin)));
}

absl::Status DocumentBuilder::Open(const RawTag& tag, const xmlChar* local, const xmlChar* prefix,
                                   const xmlChar* uri) {
  const NodeId id = Append(NodeKind::kElement);
  Node& node = document_.nodes_[id];
  node.name = QualifiedName(prefix, local);
  node.namespace_uri = std::string(View(uri));
  node.plain = prefix == nullptr && uri == nullptr;
  node.self_closing = tag.self_closing;
  node.begin = tag.begin;
  node.end = tag.end;
  node.insert_at = tag.insert_at;
  node.close_end = tag.close_end;
  if (open_ == Document::kTop) document_.root_ = id;
  open_ = id;
  if (!SaysTheSame(tag.name, node.name, encoding_))
    return absl::InternalError(
        absl::StrCat("read '", Printable(tag.name), "' as '", node.name, "'"));
  // Counting bytes behind a conversion converts all that is left, each time; there the names have
  // to do.
  if (encoding_ == Encoding::kUtf8) {
    const size_t closes_at = tag.end - (tag.self_closing ? 2 : 1);
    if (static_cast<size_t>(xmlByteConsumed(parser_)) != closes_at) {
      return absl::InternalError(absl::StrCat("the offset of '", node.name, "' is not certain"));
    }
  }
  return absl::OkStatus();
}

// SAX gives the attributes in the order of the text, without the namespace declarations.
absl::Status DocumentBuilder::TakeAttributes(const RawTag& tag, size_t sax_attributes,
                                             const xmlChar** values) {
  Node& node = document_.nodes_[open_];
  node.first_attribute = static_cast<uint32_t>(document_.attributes_.size());
  size_t taken = 0;
  for (size_t i = 0; i < tag.attributes; ++i) {
    const RawAttribute& raw = tags_.attributes[tag.first_attribute + i];
    Attribute& attribute = document_.attributes_.emplace_back();
    attribute.name_begin = static_cast<size_t>(raw.name.data() - tag.name.data()) + tag.begin + 1;
    attribute.value_begin = raw.value_begin;
    attribute.value_end = raw.value_begin + raw.value.size();
    attribute.quote = raw.quote;
    ++node.attributes;
    if (DeclaresNamespace(raw.name)) {
      attribute.plain = false;
      attribute.name = std::string(raw.name);
      attribute.value = std::string(raw.value);
      continue;
    }
    if (taken == sax_attributes)
      return absl::InternalError(
          absl::StrCat("attribute '", Printable(raw.name), "' is not certain"));
    const xmlChar** const sax = values + 5 * taken++;
    attribute.plain = sax[1] == nullptr;
    // An ampersand stays written as a reference as long as entities are not substituted.
    attribute.value.assign(reinterpret_cast<const char*>(sax[3]),
                           static_cast<size_t>(sax[4] - sax[3]));
    if (absl::StrContains(attribute.value, '&'))
      absl::StrReplaceAll({{"&#38;", "&"}}, &attribute.value);
    attribute.name = QualifiedName(sax[1], sax[0]);
    if (!SaysTheSame(raw.name, attribute.name, encoding_) ||
        (IsPlainlyWritten(raw.value) && !SaysTheSame(raw.value, attribute.value, encoding_))) {
      return absl::InternalError(absl::StrCat("attribute '", attribute.name, "' is not certain"));
    }
  }
  if (taken != sax_attributes)
    return absl::InternalError(absl::StrCat("attributes of '", node.name, "' are not certain"));
  return absl::OkStatus();
}

xmlSAXHandler DocumentBuilder::Handler() {
  xmlSAXHandler handler = {};
  handler.initialized = XML_SAX2_MAGIC;
  handler.startElementNs = StartElement;
  handler.endElementNs = EndElement;
  handler.characters = Characters;
  handler.ignorableWhitespace = Characters;
  handler.cdataBlock = Cdata;
  handler.comment = Comment;
  handler.processingInstruction = Instruction;
  handler.internalSubset = DoctypeSeen;
  handler.reference = EntitySeen;
  handler.serror = Error;
  return handler;
}

absl::StatusOr<Document> DocumentBuilder::Parse() {
  // A text with a fault is read for the sake of the message: no further than that takes.
  const size_t wanted = tags_.fault ? *tags_.fault + kBytesBehindFault : document_.text_.size();
  const int size = static_cast<int>(std::min(wanted, document_.text_.size()));
  Handle<xmlParserCtxt, xmlFreeParserCtxt> parser(
      xmlCreateMemoryParserCtxt(document_.text_.data(), size));
  if (parser == nullptr) return absl::ResourceExhaustedError("libxml2 gave no parser");
  *parser->sax = Handler();
  parser->userData = this;
  xmlCtxtUseOptions(parser.get(), XML_PARSE_NONET);
  parser_ = parser.get();
  xmlParseDocument(parser.get());
  parser_ = nullptr;
  if (!failure_.ok()) return failure_;
  if (parser->wellFormed == 0 || tags_.fault || document_.root_ == kNoNode)
    return absl::InvalidArgumentError("not well-formed XML");
  if (!doubt_.ok()) return doubt_;
  if (next_tag_ != tags_.tags.size())
    return absl::InternalError("more start tags in the text than elements");
  return std::move(document_);
}

absl::StatusOr<Document> ParseDocument(absl::string_view text) {
  static_assert(kMaxXmlBytes < INT_MAX);
  if (text.size() > kMaxXmlBytes) {
    return absl::InvalidArgumentError(absl::StrCat("longer than ", kMaxXmlBytes, " bytes"));
  }
  if (absl::StripAsciiWhitespace(text).empty()) return absl::InvalidArgumentError("empty");
  VR_ASSIGN_OR_RETURN(const Encoding encoding, EncodingOf(text));
  VR_ASSIGN_OR_RETURN(RawTags tags, FindTags(text));
  static std::once_flag initialised;
  std::call_once(initialised, xmlInitParser);
  return DocumentBuilder(text, encoding, std::move(tags)).Parse();
}

bool Document::IsElement(NodeId id, absl::string_view name) const {
  return nodes_[id].kind == NodeKind::kElement && nodes_[id].plain && nodes_[id].name == name;
}

NodeId Document::Child(NodeId parent, absl::string_view name) const {
  if (parent == kNoNode) return kNoNode;
  NodeId id = nodes_[parent].first_child;
  while (id != kNoNode && !IsElement(id, name)) id = nodes_[id].next;
  return id;
}

std::vector<NodeId> Document::Children(NodeId parent, absl::string_view name) const {
  std::vector<NodeId> found;
  if (parent == kNoNode) return found;
  for (NodeId id = nodes_[parent].first_child; id != kNoNode; id = nodes_[id].next) {
    if (IsElement(id, name)) found.push_back(id);
  }
  return found;
}

const Attribute* Document::FindAttribute(NodeId element, absl::string_view name) const {
  if (element == kNoNode) return nullptr;
  const Node& node = nodes_[element];
  for (uint32_t i = 0; i < node.attributes; ++i) {
    const Attribute& candidate = attribute(node, i);
    if (candidate.plain && candidate.name == name) return &candidate;
  }
  return nullptr;
}

std::string Document::Value(NodeId element, absl::string_view name) const {
  const Attribute* const found = FindAttribute(element, name);
  return found == nullptr ? "" : found->value;
}

std::string Document::TextOf(NodeId element) const {
  std::string text;
  if (element == kNoNode) return text;
  for (NodeId id = nodes_[element].first_child; id != kNoNode; id = nodes_[id].next) {
    if (nodes_[id].kind == NodeKind::kText || nodes_[id].kind == NodeKind::kCdata)
      text += nodes_[id].text;
  }
  return std::string(absl::StripAsciiWhitespace(text));
}

}  // namespace virt_reclaim::xml
