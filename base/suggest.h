// "Did you mean": the known word nearest to a mistyped one. Pure.
#ifndef VIRT_RECLAIM_BASE_SUGGEST_H_
#define VIRT_RECLAIM_BASE_SUGGEST_H_

#include <optional>
#include <span>
#include <string>

#include "absl/strings/string_view.h"

namespace virt_reclaim {

// The word of `known` with the smallest edit distance to `word`, when that is at most 3 and less
// than half of its length.
std::optional<std::string> NearestWord(absl::string_view word, std::span<const std::string> known);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_BASE_SUGGEST_H_
