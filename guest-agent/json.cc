#include "guest-agent/json.h"

#include "absl/strings/str_cat.h"
#include "base/utf8.h"

namespace virt_reclaim::agent {
namespace {

std::string Unit(uint32_t utf16) { return absl::StrCat("\\u", absl::Hex(utf16, absl::kZeroPad4)); }

}  // namespace

void JsonWriter::Separate() {
  if (after_key_) {
    after_key_ = false;
    return;
  }
  if (has_items_.empty()) return;
  if (has_items_.back()) out_ += ',';
  has_items_.back() = true;
  out_ += '\n';
  out_.append(2 * has_items_.size(), ' ');
}

void JsonWriter::Open(char bracket) {
  Separate();
  out_ += bracket;
  has_items_.push_back(false);
}

void JsonWriter::Close(char bracket) {
  const bool had_items = has_items_.back();
  has_items_.pop_back();
  if (had_items) {
    out_ += '\n';
    out_.append(2 * has_items_.size(), ' ');
  }
  out_ += bracket;
}

void JsonWriter::Key(absl::string_view name) {
  Separate();
  Quote(name);
  out_ += ": ";
  after_key_ = true;
}

void JsonWriter::String(absl::string_view value) {
  Separate();
  Quote(value);
}

void JsonWriter::Number(uint64_t value) {
  Separate();
  absl::StrAppend(&out_, value);
}

void JsonWriter::Bool(bool value) {
  Separate();
  out_ += value ? "true" : "false";
}

void JsonWriter::Strings(absl::string_view name, const std::vector<std::string>& values) {
  Key(name);
  BeginArray();
  for (const std::string& value : values) String(value);
  EndArray();
}

void JsonWriter::Quote(absl::string_view text) {
  out_ += '"';
  while (!text.empty()) {
    const CodePoint point = DecodeUtf8(text);
    if (point.length == 0) {
      out_ += absl::StrCat("\\\\x", absl::Hex(static_cast<uint8_t>(text[0]), absl::kZeroPad2));
      text.remove_prefix(1);
      continue;
    }
    if (point.value == '"' || point.value == '\\') {
      out_ += {'\\', static_cast<char>(point.value)};
    } else if (point.value >= 0x20 && point.value < 0x7f) {
      out_ += static_cast<char>(point.value);
    } else if (point.value < 0x10000) {
      out_ += Unit(point.value);
    } else {  // a surrogate pair, RFC 8259 section 7
      out_ += Unit(0xd800 + ((point.value - 0x10000) >> 10));
      out_ += Unit(0xdc00 + ((point.value - 0x10000) & 0x3ff));
    }
    text.remove_prefix(point.length);
  }
  out_ += '"';
}

}  // namespace virt_reclaim::agent
