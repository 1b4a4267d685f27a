#include "host/services/storage_space.h"

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/io.h"
#include "base/mount_table.h"
#include "base/status.h"

namespace virt_reclaim {
namespace {

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
  const std::string resolved = RealPath(path);
  const std::string real = resolved.empty() ? path : resolved;
  const auto mounts = ReadMountTable(mountinfo);
  for (const Mount& mount : mounts.ok() ? *mounts : std::vector<Mount>()) {
    // Of those above the file the longest; of two in the same place the later hides the earlier.
    if (!IsBelow(real, mount.mount_point) || mount.mount_point.size() < space.mount_point.size())
      continue;
    space.id = mount.device;
    space.mount_point = mount.mount_point;
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
