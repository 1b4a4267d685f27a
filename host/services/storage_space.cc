#include "host/services/storage_space.h"

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/io.h"
#include "base/status.h"

namespace virt_reclaim {
namespace {

constexpr size_t kMaxMountTableBytes = size_t{4} << 20;

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

bool IsBelow(absl::string_view path, absl::string_view mount_point) {
  if (mount_point == "/") return true;
  return absl::StartsWith(path, mount_point) &&
         (path.size() == mount_point.size() || path[mount_point.size()] == '/');
}

}  // namespace

absl::StatusOr<StorageSpace> SpaceBelow(const std::string& path, const std::string& mountinfo) {
  struct statvfs room;
  if (statvfs(path.c_str(), &room) != 0)
    return ErrnoStatus(errno, absl::StrCat("look at '", path, "'"));
  StorageSpace space;
  space.capacity = uint64_t{room.f_blocks} * room.f_frsize;
  space.available = uint64_t{room.f_bavail} * room.f_frsize;
  const std::unique_ptr<char, decltype(&free)> resolved(realpath(path.c_str(), nullptr), &free);
  const std::string real = resolved ? resolved.get() : path;
  const auto table = ReadFile(mountinfo, kMaxMountTableBytes);
  for (const absl::string_view line : absl::StrSplit(table.ok() ? *table : "", '\n')) {
    // "36 35 0:45 / /mnt rw,relatime shared:1 - ext4 /dev/vda1 rw"
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
    if (words.size() < 5) continue;
    const std::string mount_point = Unescaped(words[4]);
    // Of those above the file the longest; of two in the same place the later hides the earlier.
    if (!IsBelow(real, mount_point) || mount_point.size() < space.mount_point.size()) continue;
    space.id = std::string(words[2]);
    space.mount_point = mount_point;
  }
  if (space.id.empty()) {
    struct stat st;
    if (stat(path.c_str(), &st) != 0) return ErrnoStatus(errno, absl::StrCat("stat '", path, "'"));
    space.id = absl::StrCat(major(st.st_dev), ":", minor(st.st_dev));
    space.mount_point = real.substr(0, std::max<size_t>(real.rfind('/'), 1));
  }
  return space;
}

}  // namespace virt_reclaim
