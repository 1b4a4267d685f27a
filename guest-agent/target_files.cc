#include "guest-agent/target_files.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"

namespace virt_reclaim::agent {

absl::StatusOr<UniqueFd> OpenMountPoint(const Filesystem& filesystem,
                                        const std::string& mount_point) {
  UniqueFd fd(open(mount_point.c_str(),
                   O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW));
  const std::string where = absl::StrCat("open '", Printable(mount_point), "'");
  if (!fd.valid()) return ErrnoStatus(errno, where);
  struct stat status = {};
  if (fstat(fd.get(), &status) != 0) return ErrnoStatus(errno, where);
  // As for a trim: another filesystem may be mounted there by now.
  if (filesystem.type != "btrfs" && status.st_dev != filesystem.device) {
    return ErrnoStatus(ESTALE, where);
  }
  return fd;
}

std::optional<DiskPlace> PlaceOnDisk(const Filesystem& filesystem) {
  const DeviceChain& chain = filesystem.chain;
  if (chain.tops != 1 || chain.devices.empty()) return std::nullopt;
  const BlockDevice& top = chain.devices.front();
  if (top.kind == DeviceKind::kDisk) return DiskPlace{top.name, 0};
  if (top.kind != DeviceKind::kPartition || top.parents.size() != 1) return std::nullopt;
  const auto disk =
      std::find_if(chain.devices.begin(), chain.devices.end(),
                   [&](const BlockDevice& device) { return device.name == top.parents.front(); });
  if (disk == chain.devices.end() || disk->kind != DeviceKind::kDisk) return std::nullopt;
  return DiskPlace{disk->name, top.start_bytes};
}

}  // namespace virt_reclaim::agent
