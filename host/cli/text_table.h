// A plain text table: columns padded to their widest cell, numbers to the right. Pure.
#ifndef VIRT_RECLAIM_HOST_CLI_TEXT_TABLE_H_
#define VIRT_RECLAIM_HOST_CLI_TEXT_TABLE_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace virt_reclaim {

class TextTable {
 public:
  enum class Align { kLeft, kRight };
  void AddColumn(absl::string_view title, Align align = Align::kLeft);
  // As many cells as there are columns; missing ones are empty.
  void AddRow(std::vector<std::string> cells);
  // Lines without trailing blanks; nothing at all when there are no rows.
  std::string Render() const;

 private:
  std::vector<Align> aligns_;
  std::vector<std::vector<std::string>> rows_{{}};  // the first are the titles
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_TEXT_TABLE_H_
