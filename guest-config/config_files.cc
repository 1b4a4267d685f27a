#include "guest-config/config_files.h"

#include <utility>

#include "absl/strings/str_split.h"

namespace virt_reclaim::agent {

std::vector<std::vector<absl::string_view>> TableLines(absl::string_view text, size_t least) {
  std::vector<std::vector<absl::string_view>> lines;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    std::vector<absl::string_view> fields =
        absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    if (!fields.empty() && fields.size() >= least && fields[0][0] != '#')
      lines.push_back(std::move(fields));
  }
  return lines;
}

}  // namespace virt_reclaim::agent
