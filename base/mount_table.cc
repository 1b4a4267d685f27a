#include "base/mount_table.h"

#include <algorithm>
#include <cstddef>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/io.h"
#include "base/status.h"

namespace virt_reclaim {
namespace {

constexpr size_t kMaxTableBytes = size_t{16} << 20;  // of a host with tens of thousands of mounts

// Places of the words that every line has, and behind the "-" that ends the optional ones.
constexpr size_t kId = 0;
constexpr size_t kDevice = 2;
constexpr size_t kMountPoint = 4;
constexpr size_t kFirstOptional = 6;
constexpr ptrdiff_t kFilesystem = 1;
constexpr ptrdiff_t kOptions = 3;

// The kernel writes blanks, tabs, newlines and backslashes of a name as \ooo.
std::string Unescaped(absl::string_view name) {
  std::string plain;
  const auto octal = [](char c) { return c >= '0' && c <= '7'; };
  for (size_t i = 0; i < name.size(); ++i) {
    const bool escaped = name[i] == '\\' && name.size() - i > 3 && octal(name[i + 1]) &&
                         octal(name[i + 2]) && octal(name[i + 3]);
    if (escaped) {
      plain += static_cast<char>((name[i + 1] - '0') * 64 + (name[i + 2] - '0') * 8 +
                                 (name[i + 3] - '0'));
      i += 3;
    } else {
      plain += name[i];
    }
  }
  return plain;
}

// "36 35 0:45 / /mnt rw,relatime shared:1 - nfs4 server:/x rw,vers=4.2": blanks of names are
// escaped, so that the lone "-" is the separator.
std::optional<Mount> ParseLine(absl::string_view line) {
  const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
  if (words.size() <= kFirstOptional) return std::nullopt;
  const auto separator = std::find(words.begin() + kFirstOptional, words.end(), "-");
  if (words.end() - separator <= kOptions) return std::nullopt;
  Mount mount;
  if (!absl::SimpleAtoi(words[kId], &mount.id)) return std::nullopt;
  mount.device = std::string(words[kDevice]);
  mount.mount_point = Unescaped(words[kMountPoint]);
  mount.filesystem = Unescaped(separator[kFilesystem]);
  mount.options = std::string(separator[kOptions]);
  return mount;
}

}  // namespace

std::vector<Mount> ParseMountTable(absl::string_view table) {
  std::vector<Mount> mounts;
  for (const absl::string_view line : absl::StrSplit(table, '\n', absl::SkipEmpty())) {
    if (auto mount = ParseLine(line)) mounts.push_back(*std::move(mount));
  }
  return mounts;
}

absl::StatusOr<std::vector<Mount>> ReadMountTable(const std::string& path) {
  VR_ASSIGN_OR_RETURN(const std::string table, ReadFile(path, kMaxTableBytes));
  return ParseMountTable(table);
}

}  // namespace virt_reclaim
