#include "base/escape.h"

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace virt_reclaim {
namespace {

// Length of the UTF-8 sequence at the front of `s` and its code point; length 0 when it is not
// valid (RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF).
struct Decoded {
  size_t length;
  uint32_t code_point;
};

Decoded Decode(absl::string_view s) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(s[i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return {1, first};
  size_t length = 0;
  uint32_t code_point = 0;
  uint32_t smallest = 0;
  if ((first & 0xe0) == 0xc0) {
    length = 2, code_point = first & 0x1f, smallest = 0x80;
  } else if ((first & 0xf0) == 0xe0) {
    length = 3, code_point = first & 0x0f, smallest = 0x800;
  } else if ((first & 0xf8) == 0xf0) {
    length = 4, code_point = first & 0x07, smallest = 0x10000;
  } else {
    return {0, 0};
  }
  if (s.size() < length) return {0, 0};
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {0, 0};
    code_point = code_point << 6 | (byte(i) & 0x3f);
  }
  if (code_point < smallest || code_point > 0x10ffff ||
      (code_point >= 0xd800 && code_point < 0xe000))
    return {0, 0};
  return {length, code_point};
}

bool IsHarmless(uint32_t c) {
  if (c < 0x20 || (c >= 0x7f && c < 0xa0)) return false;
  if (c == 0xad || c == 0x61c || c == 0xfeff) return false;  // soft hyphen, Arabic letter mark, BOM
  if ((c >= 0x200b && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e))
    return false;                                // zero width, separators, bidi
  if (c >= 0x2060 && c <= 0x206f) return false;  // invisible operators, bidi isolates
  return !(c >= 0xe0000 && c <= 0xe007f) && !(c >= 0xfff0 && c <= 0xffff);  // tags, specials
}

}  // namespace

std::string Printable(absl::string_view text, size_t max_bytes) {
  const bool cut = text.size() > max_bytes;
  if (cut) text = text.substr(0, max_bytes);
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Decoded decoded = Decode(text);
    const size_t length = decoded.length == 0 ? 1 : decoded.length;
    if (decoded.length != 0 && IsHarmless(decoded.code_point)) {
      out.append(text.data(), length);
    } else {
      for (size_t i = 0; i < length; ++i)
        out += absl::StrFormat("\\x%02x", static_cast<uint8_t>(text[i]));
    }
    text.remove_prefix(length);
  }
  if (cut) out += "...";
  return out;
}

std::string Quoted(absl::string_view text, size_t max_bytes) {
  return absl::StrCat("'", Printable(text, max_bytes), "'");
}

}  // namespace virt_reclaim
