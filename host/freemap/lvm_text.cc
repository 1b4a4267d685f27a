// Source: LVM2's lib/format_text/export.c and libdm/libdm-config.c (what is written and accepted).
#include "host/freemap/lvm_text.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {
namespace {

constexpr size_t kMaxNodes = 200'000;  // a VG of 10,000 LVs
constexpr size_t kMaxValues = 500'000;
constexpr int kMaxDepth = 8;  // there are 4
constexpr int64_t kMaxNumber = int64_t{1} << 53;

class Parser {
 public:
  explicit Parser(absl::string_view text) : text_(text) {}

  absl::StatusOr<LvmNode> Parse() {
    LvmNode root;
    root.section = true;
    VR_RETURN_IF_ERROR(ParseSection(root, 0));
    if (at_ != text_.size()) return Bad("something after its end");
    return root;
  }

 private:
  absl::Status Bad(absl::string_view what) const {
    return DamagedError(absl::StrCat("the LVM metadata cannot be read: ", what));
  }
  void SkipSpace() {
    while (at_ < text_.size()) {
      if (text_[at_] == '#') {
        while (at_ < text_.size() && text_[at_] != '\n') ++at_;
      } else if (absl::ascii_isspace(static_cast<unsigned char>(text_[at_]))) {
        ++at_;
      } else {
        return;
      }
    }
  }
  bool Take(char wanted) {
    SkipSpace();
    if (at_ >= text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }
  static bool IsWord(char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-' || c == '+' ||
           c == '.' || c == '/';
  }
  std::string Word() {
    SkipSpace();
    const size_t begin = at_;
    while (at_ < text_.size() && IsWord(text_[at_])) ++at_;
    return std::string(text_.substr(begin, at_ - begin));
  }

  absl::StatusOr<LvmValue> ParseValue();
  absl::Status ParseKey(LvmNode& node);
  absl::Status ParseSection(LvmNode& section, int depth);

  absl::string_view text_;
  size_t at_ = 0;
  size_t nodes_ = 0;
  size_t values_ = 0;
};

absl::StatusOr<LvmValue> Parser::ParseValue() {
  if (++values_ > kMaxValues) return TooLargeError("too much LVM metadata");
  LvmValue value;
  if (Take('"')) {
    while (at_ < text_.size() && text_[at_] != '"') {
      if (text_[at_] == '\\' && ++at_ == text_.size()) break;
      value.text += text_[at_++];
    }
    if (at_ == text_.size()) return Bad("a string without end");
    ++at_;
    return value;
  }
  const std::string word = Word();
  int64_t number = 0;
  if (!absl::SimpleAtoi(word, &number)) return Bad("neither a string nor a number");
  value.number = number;
  return value;
}

absl::Status Parser::ParseKey(LvmNode& node) {
  if (!Take('[')) {
    VR_ASSIGN_OR_RETURN(LvmValue value, ParseValue());
    node.values.push_back(std::move(value));
    return absl::OkStatus();
  }
  node.list = true;
  if (Take(']')) return absl::OkStatus();
  while (true) {
    VR_ASSIGN_OR_RETURN(LvmValue value, ParseValue());
    node.values.push_back(std::move(value));
    if (Take(']')) return absl::OkStatus();
    if (!Take(',')) return Bad("a list without end");
  }
}

absl::Status Parser::ParseSection(LvmNode& section, int depth) {
  if (depth > kMaxDepth) return TooLargeError("LVM metadata nested too deep");
  while (true) {
    SkipSpace();
    if (at_ == text_.size() || text_[at_] == '}') return absl::OkStatus();
    if (++nodes_ > kMaxNodes) return TooLargeError("too much LVM metadata");
    LvmNode node;
    node.name = Word();
    if (node.name.empty()) return Bad("no name where one belongs");
    if (Take('{')) {
      node.section = true;
      VR_RETURN_IF_ERROR(ParseSection(node, depth + 1));
      if (!Take('}')) return Bad("a section without end");
    } else if (Take('=')) {
      VR_RETURN_IF_ERROR(ParseKey(node));
    } else {
      return Bad("a name with nothing behind");
    }
    section.children.push_back(std::move(node));
  }
}

}  // namespace

const LvmNode* LvmNode::Child(absl::string_view wanted) const {
  const LvmNode* found = nullptr;
  for (const LvmNode& child : children) {
    if (child.name != wanted) continue;
    if (found != nullptr) return nullptr;
    found = &child;
  }
  return found;
}

absl::StatusOr<uint64_t> LvmNode::Number(absl::string_view key) const {
  const LvmNode* node = Child(key);
  if (node == nullptr || node->section || node->list || !node->values[0].number ||
      *node->values[0].number < 0 || *node->values[0].number > kMaxNumber) {
    return DamagedError(absl::StrCat("the LVM metadata has no proper ", key));
  }
  return static_cast<uint64_t>(*node->values[0].number);
}

absl::StatusOr<std::string> LvmNode::String(absl::string_view key) const {
  const LvmNode* node = Child(key);
  if (node == nullptr || node->section || node->list || node->values[0].number)
    return DamagedError(absl::StrCat("the LVM metadata has no proper ", key));
  return node->values[0].text;
}

absl::StatusOr<std::vector<std::string>> LvmNode::Strings(absl::string_view key) const {
  std::vector<std::string> strings;
  const LvmNode* node = Child(key);
  for (const LvmNode& child : children) {
    if (child.name == key && (node == nullptr || !node->list))
      return DamagedError(absl::StrCat("the LVM metadata has no proper ", key));
  }
  if (node == nullptr) return strings;
  for (const LvmValue& value : node->values) {
    if (value.number) return DamagedError(absl::StrCat("the LVM metadata has no proper ", key));
    strings.push_back(value.text);
  }
  return strings;
}

absl::StatusOr<LvmNode> ParseLvmText(absl::string_view text) { return Parser(text).Parse(); }

}  // namespace virt_reclaim::freemap
