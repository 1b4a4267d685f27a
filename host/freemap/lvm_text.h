// LVM2's metadata text ("lvm config" syntax) as a tree: sections, and keys with a value or a list
// of values. Hostile: its depth and its size are bounded. Pure; any thread.
#ifndef VIRT_RECLAIM_HOST_FREEMAP_LVM_TEXT_H_
#define VIRT_RECLAIM_HOST_FREEMAP_LVM_TEXT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim::freemap {

struct LvmValue {
  std::optional<int64_t> number;
  std::string text;  // of a string
};

struct LvmNode {
  std::string name;
  bool section = false;
  bool list = false;              // [ ... ]
  std::vector<LvmValue> values;   // of a key: one, or those of the list
  std::vector<LvmNode> children;  // of a section

  // The child of this name; null when there is none or more than one.
  const LvmNode* Child(absl::string_view wanted) const;
  // A key's single value in [0, 2^53]; DataLoss when it is not there or is something else.
  absl::StatusOr<uint64_t> Number(absl::string_view key) const;
  absl::StatusOr<std::string> String(absl::string_view key) const;
  // A list of strings; a missing one is empty.
  absl::StatusOr<std::vector<std::string>> Strings(absl::string_view key) const;
};

// The whole text as a section without name. DataLoss for what is no such text, ResourceExhausted
// for too much of it.
absl::StatusOr<LvmNode> ParseLvmText(absl::string_view text);

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_LVM_TEXT_H_
