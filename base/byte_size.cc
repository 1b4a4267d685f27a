#include "base/byte_size.h"

#include <array>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace virt_reclaim {
namespace {

constexpr absl::string_view kUnits = "KMGTPE";

// Multiplier of a suffix, or 0 when it is none.
double Multiplier(absl::string_view suffix) {
  if (suffix.empty() || absl::EqualsIgnoreCase(suffix, "B")) return 1;
  const size_t power = kUnits.find(absl::ascii_toupper(static_cast<unsigned char>(suffix[0])));
  if (power == absl::string_view::npos) return 0;
  suffix.remove_prefix(1);
  const double exponent = static_cast<double>(power + 1);
  if (suffix.empty() || absl::EqualsIgnoreCase(suffix, "iB")) return std::pow(1024.0, exponent);
  if (absl::EqualsIgnoreCase(suffix, "B")) return std::pow(1000.0, exponent);
  return 0;
}

}  // namespace

absl::StatusOr<uint64_t> ParseByteSize(absl::string_view text) {
  const auto error = [&] {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not a size: write bytes, or a number with K, M, G or T"));
  };
  absl::string_view digits = absl::StripAsciiWhitespace(text);
  const size_t end = digits.find_first_not_of("0123456789.");
  absl::string_view suffix = end == absl::string_view::npos ? "" : digits.substr(end);
  digits = digits.substr(0, end);
  if (digits.empty()) return error();
  const double multiplier = Multiplier(absl::StripAsciiWhitespace(suffix));
  if (multiplier == 0) return error();
  if (uint64_t whole; absl::SimpleAtoi(digits, &whole)) {  // exact: no double in between
    const auto unit = static_cast<uint64_t>(multiplier);
    uint64_t bytes = 0;
    if (__builtin_mul_overflow(whole, unit, &bytes)) return error();
    return bytes;
  }
  double value = 0;
  if (!absl::SimpleAtod(digits, &value)) return error();
  value *= multiplier;
  if (!(value >= 0 && value < 18446744073709551615.0)) return error();
  return static_cast<uint64_t>(value);
}

std::string FormatByteSize(uint64_t bytes) {
  if (bytes < kKiB) return absl::StrCat(bytes, " B");
  double value = static_cast<double>(bytes);
  size_t power = 0;
  while (value >= 1023.95 && power < kUnits.size()) {
    value /= 1024;
    ++power;
  }
  return absl::StrFormat("%.*f %ciB", value < 99.95 ? 1 : 0, value, kUnits[power - 1]);
}

std::string FormatSignedByteSize(int64_t bytes) {
  const auto magnitude =
      bytes < 0 ? 0 - static_cast<uint64_t>(bytes) : static_cast<uint64_t>(bytes);
  return absl::StrCat(bytes < 0 ? "-" : "", FormatByteSize(magnitude));
}

}  // namespace virt_reclaim
