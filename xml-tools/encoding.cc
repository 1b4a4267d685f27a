#include "xml-tools/encoding.h"

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "xml-tools/tags.h"

namespace virt_reclaim::xml {
namespace {

constexpr absl::string_view kByteOrderMark = "\xef\xbb\xbf";

bool LooksLikeWideCharacters(absl::string_view text) {
  if (absl::StartsWith(text, "\xff\xfe") || absl::StartsWith(text, "\xfe\xff")) return true;
  const absl::string_view start = text.substr(0, 4);
  return start.find('\0') != absl::string_view::npos && start.find('<') != absl::string_view::npos;
}

// The value of encoding="..." in the XML declaration; empty when there is none.
std::string DeclaredEncoding(absl::string_view text) {
  if (!absl::StartsWith(text, "<?xml") || text.size() < 6 ||
      !absl::ascii_isspace(static_cast<unsigned char>(text[5])))
    return "";
  const absl::string_view declaration = text.substr(0, text.find("?>"));
  const size_t name = declaration.find("encoding");
  if (name == absl::string_view::npos) return "";
  const size_t open = declaration.find_first_of("\"'", name);
  if (open == absl::string_view::npos) return "";
  const size_t close = declaration.find(declaration[open], open + 1);
  if (close == absl::string_view::npos) return "";
  return std::string(declaration.substr(open + 1, close - open - 1));
}

}  // namespace

absl::StatusOr<Encoding> EncodingOf(absl::string_view text) {
  if (LooksLikeWideCharacters(text)) {
    return absl::InvalidArgumentError("encoding: UTF-16 and UTF-32 are not accepted");
  }
  if (const size_t nul = text.find('\0'); nul != absl::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("line ", LineOf(text, nul), ": a NUL byte is not allowed in XML"));
  }
  const bool marked = absl::StartsWith(text, kByteOrderMark);
  if (marked) text.remove_prefix(kByteOrderMark.size());
  const std::string declared = DeclaredEncoding(text);
  const std::string lower = absl::AsciiStrToLower(declared);
  if (lower.empty() || lower == "utf-8" || lower == "utf8" || lower == "us-ascii" ||
      lower == "ascii")
    return Encoding::kUtf8;
  const bool eight_bits = absl::StartsWith(lower, "iso-8859-") ||
                          absl::StartsWith(lower, "windows-125") || lower == "latin1" ||
                          lower == "iso-latin-1";
  if (!eight_bits || marked) {
    return absl::InvalidArgumentError(absl::StrCat("encoding: '", Printable(declared),
                                                   "' is not accepted",
                                                   marked ? " after a UTF-8 byte order mark" : ""));
  }
  return Encoding::kEightBits;
}

}  // namespace virt_reclaim::xml
