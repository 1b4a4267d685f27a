#include "base/suggest.h"

#include <algorithm>
#include <vector>

namespace virt_reclaim {
namespace {

// Levenshtein distance with one row of memory.
size_t Distance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

}  // namespace

std::optional<std::string> NearestWord(absl::string_view word, std::span<const std::string> known) {
  constexpr size_t kMaxWord =
      64;  // longer ones are no typing error of ours, and the distance is quadratic
  constexpr size_t kMaxDistance = 3;
  if (word.empty() || word.size() > kMaxWord) return std::nullopt;
  std::optional<std::string> best;
  size_t best_distance = kMaxDistance + 1;
  for (const std::string& candidate : known) {
    const size_t distance = Distance(word, candidate);
    if (distance < best_distance && 2 * distance < candidate.size()) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

}  // namespace virt_reclaim
