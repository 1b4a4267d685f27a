#include "host/cli/text_table.h"

#include <algorithm>

#include "absl/strings/ascii.h"

namespace virt_reclaim {
namespace {

// Characters of UTF-8 text, one column each. The texts have passed Printable(), so no combining
// tricks are worth handling.
size_t Width(absl::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

}  // namespace

void TextTable::AddColumn(absl::string_view title, Align align) {
  rows_.front().emplace_back(title);
  aligns_.push_back(align);
}

void TextTable::AddRow(std::vector<std::string> cells) {
  cells.resize(aligns_.size());
  rows_.push_back(std::move(cells));
}

std::string TextTable::Render() const {
  if (rows_.size() < 2) return "";
  std::vector<size_t> widths(aligns_.size());
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], Width(row[i]));
  }
  std::string out;
  for (const auto& row : rows_) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - Width(row[i]), ' ');
      if (i > 0) line += "  ";
      line += aligns_[i] == Align::kRight ? padding + row[i] : row[i] + padding;
    }
    out += std::string(absl::StripTrailingAsciiWhitespace(line)) + "\n";
  }
  return out;
}

}  // namespace virt_reclaim
