#include "host/punch/data_map.h"

#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "base/status.h"

namespace virt_reclaim::punch {
namespace {

constexpr uint32_t kBatch = 2048;  // extents a call: 112 KiB

Extent FromFiemap(const fiemap_extent& found, uint64_t size) {
  Extent extent;
  extent.range.begin = found.fe_logical;
  extent.range.end = std::min<uint64_t>(found.fe_logical + found.fe_length, size);
  if ((found.fe_flags & (FIEMAP_EXTENT_DATA_INLINE | FIEMAP_EXTENT_DATA_TAIL)) != 0) {
    extent.kind = ExtentKind::kInline;
  } else if ((found.fe_flags & (FIEMAP_EXTENT_ENCODED | FIEMAP_EXTENT_DATA_ENCRYPTED)) != 0) {
    extent.kind = ExtentKind::kCompressed;
  } else if ((found.fe_flags & FIEMAP_EXTENT_UNWRITTEN) != 0) {
    extent.kind = ExtentKind::kUnwritten;
  }
  extent.shared = (found.fe_flags & FIEMAP_EXTENT_SHARED) != 0;
  return extent;
}

void Append(std::vector<Extent>& extents, const Extent& extent) {
  if (extent.range.begin >= extent.range.end) return;
  if (!extents.empty()) {
    Extent& last = extents.back();
    if (last.range.end == extent.range.begin && last.kind == extent.kind &&
        last.shared == extent.shared) {
      last.range.end = extent.range.end;
      return;
    }
  }
  extents.push_back(extent);
}

// Unimplemented when the filesystem has no FIEMAP.
absl::StatusOr<std::vector<Extent>> ByFiemap(int fd, uint64_t size) {
  std::vector<Extent> extents;
  std::vector<std::byte> buffer(sizeof(fiemap) + kBatch * sizeof(fiemap_extent));
  auto* map = reinterpret_cast<fiemap*>(buffer.data());
  for (uint64_t at = 0; at < size;) {
    memset(map, 0, sizeof *map);
    map->fm_start = at;
    map->fm_length = size - at;
    map->fm_flags = FIEMAP_FLAG_SYNC;
    map->fm_extent_count = kBatch;
    if (ioctl(fd, FS_IOC_FIEMAP, map) != 0) {
      if (errno == EINTR) continue;
      if (errno == EOPNOTSUPP || errno == ENOTTY || errno == EBADR)
        return absl::UnimplementedError("no FIEMAP");
      return ErrnoStatus(errno, "FIEMAP");
    }
    if (map->fm_mapped_extents == 0) break;
    bool last = false;
    for (uint32_t i = 0; i < map->fm_mapped_extents; ++i) {
      const fiemap_extent& found = map->fm_extents[i];
      // Sorted and moving on, or the loop would not end.
      if (found.fe_length == 0 || found.fe_logical + found.fe_length <= at) {
        return absl::InternalError("FIEMAP answered with extents out of order");
      }
      Append(extents, FromFiemap(found, size));
      at = found.fe_logical + found.fe_length;
      last = (found.fe_flags & FIEMAP_EXTENT_LAST) != 0;
    }
    if (last) break;
  }
  return extents;
}

absl::StatusOr<std::vector<Extent>> BySeek(int fd, uint64_t size) {
  std::vector<Extent> extents;
  for (uint64_t at = 0; at < size;) {
    const off_t data = lseek(fd, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // holes up to the end
    if (data < 0 && errno == EINVAL) {      // no SEEK_DATA: everything may be data
      Append(extents, {{at, size}, ExtentKind::kData, false});
      break;
    }
    if (data < 0) return ErrnoStatus(errno, "SEEK_DATA");
    const off_t hole = lseek(fd, data, SEEK_HOLE);
    if (hole < 0 && errno == ENXIO) break;  // truncated meanwhile
    if (hole <= data) return absl::InternalError("SEEK_HOLE found no end of the data");
    at = static_cast<uint64_t>(hole);
    Append(extents, {{static_cast<uint64_t>(data), std::min(at, size)}, ExtentKind::kData, false});
  }
  return extents;
}

}  // namespace

absl::StatusOr<std::vector<Extent>> ReadDataMap(int fd, uint64_t size_bytes) {
  auto extents = ByFiemap(fd, size_bytes);
  if (absl::IsUnimplemented(extents.status())) return BySeek(fd, size_bytes);
  return extents;
}

}  // namespace virt_reclaim::punch
