#include "xml-tools/tags.h"

#include <algorithm>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace virt_reclaim::xml {
namespace {

constexpr auto kNone = absl::string_view::npos;
constexpr size_t kMarkSize =
    3;  // of a UTF-8 byte order mark, which may stand before the XML declaration

bool EndsName(char c) { return IsBlank(c) || c == '=' || c == '/' || c == '>' || c == '<'; }

class TagFinder {
 public:
  explicit TagFinder(absl::string_view text) : text_(text) {}

  absl::StatusOr<RawTags> Run() {
    for (pos_ = text_.find('<'); pos_ != kNone; pos_ = text_.find('<', pos_)) {
      if (++nodes_ > kMaxNodes) return TooMuch("has more than ", kMaxNodes, " elements");
      const absl::string_view rest = text_.substr(pos_);
      bool whole = false;
      if (absl::StartsWith(rest, "<!--")) {
        whole = SkipBehind("--", 4);
        // libxml2 takes quadratic time to complain about each pair of hyphens.
        if (whole && (pos_ == text_.size() || text_[pos_] != '>'))
          return Fault("'--' inside a comment");
      } else if (absl::StartsWith(rest, "<![CDATA[")) {
        whole = SkipBehind("]]>", 9);
      } else if (absl::StartsWith(rest, "<!")) {
        return Fault("a document type declaration is not accepted");
      } else if (absl::StartsWith(rest, "<?")) {
        const size_t begin = pos_;
        whole = SkipBehind("?>", 2);
        if (whole && begin <= kMarkSize && absl::StartsWith(rest, "<?xml") &&
            absl::StrContains(text_.substr(begin + 1, pos_ - begin - 1), '<')) {
          return Fault("'<' inside the XML declaration");
        }
      } else if (absl::StartsWith(rest, "</")) {
        whole = SkipBehind(">", 2);
        if (whole && !open_.empty()) {
          found_.tags[open_.back()].close_end = pos_;
          open_.pop_back();
        }
      } else {
        whole = ReadTag();
        if (has_bracket_) return Fault("'<' inside the value of an attribute");
        if (found_.attributes.size() - first_attribute_ > kMaxAttributes) {
          return TooMuch("an element has more than ", kMaxAttributes, " attributes");
        }
        if (open_.size() > kMaxDepth)
          return TooMuch("elements are nested deeper than ", kMaxDepth, "");
      }
      if (!whole) {
        found_.fault = pos_;
        break;
      }
    }
    return std::move(found_);
  }

 private:
  absl::Status Fault(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("line ", LineOf(text_, pos_), ": ", what));
  }

  absl::Status TooMuch(absl::string_view what, size_t bound, absl::string_view unit) const {
    return Fault(absl::StrCat(what, bound, unit));
  }

  bool SkipBehind(absl::string_view terminator, size_t from) {
    const size_t end = text_.find(terminator, pos_ + from);
    if (end == kNone) return false;
    pos_ = end + terminator.size();
    return true;
  }

  void SkipBlanks() {
    while (pos_ < text_.size() && IsBlank(text_[pos_])) ++pos_;
  }

  absl::string_view ReadName() {
    const size_t begin = pos_;
    while (pos_ < text_.size() && !EndsName(text_[pos_])) ++pos_;
    return text_.substr(begin, pos_ - begin);
  }

  std::optional<RawAttribute> ReadAttribute() {
    RawAttribute attribute;
    attribute.name = ReadName();
    SkipBlanks();
    if (attribute.name.empty() || pos_ >= text_.size() || text_[pos_] != '=') return std::nullopt;
    ++pos_;
    SkipBlanks();
    if (pos_ >= text_.size() || (text_[pos_] != '"' && text_[pos_] != '\'')) return std::nullopt;
    attribute.quote = text_[pos_++];
    attribute.value_begin = pos_;
    const size_t end = text_.find(attribute.quote, pos_);
    if (end == kNone) return std::nullopt;
    attribute.value = text_.substr(pos_, end - pos_);
    has_bracket_ = has_bracket_ || absl::StrContains(attribute.value, '<');
    pos_ = end + 1;
    return attribute;
  }

  // From '<' to behind '>'; false when it is not a whole tag.
  bool ReadTag() {
    RawTag tag;
    tag.begin = pos_++;
    tag.first_attribute = first_attribute_ = found_.attributes.size();
    tag.name = ReadName();
    if (tag.name.empty()) return false;
    while (true) {
      tag.insert_at = pos_;
      SkipBlanks();
      if (pos_ >= text_.size()) return false;
      if (text_[pos_] == '>' || text_[pos_] == '/') break;
      std::optional<RawAttribute> attribute = ReadAttribute();
      if (!attribute) return false;
      found_.attributes.push_back(*attribute);
      if (++tag.attributes > kMaxAttributes) return false;
    }
    tag.self_closing = text_[pos_] == '/';
    pos_ += tag.self_closing ? 2 : 1;
    if (pos_ > text_.size() || text_[pos_ - 1] != '>') return false;
    tag.end = tag.close_end = pos_;
    if (!tag.self_closing) {
      tag.close_end = 0;
      open_.push_back(found_.tags.size());
    }
    found_.tags.push_back(tag);
    return true;
  }

  const absl::string_view text_;
  size_t pos_ = 0;
  size_t nodes_ = 0;
  std::vector<size_t> open_;    // whose end tag is still to come
  bool has_bracket_ = false;    // a value with '<' was seen
  size_t first_attribute_ = 0;  // of the tag read last
  RawTags found_;
};

}  // namespace

absl::StatusOr<RawTags> FindTags(absl::string_view text) { return TagFinder(text).Run(); }

size_t LineOf(absl::string_view text, size_t offset) {
  const absl::string_view before = text.substr(0, offset);
  return 1 + static_cast<size_t>(std::count(before.begin(), before.end(), '\n'));
}

}  // namespace virt_reclaim::xml
