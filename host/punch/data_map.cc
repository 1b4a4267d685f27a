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
#include <functional>

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

absl::Status CheckLimits(size_t extents, const DataMapOptions& options) {
  if (options.stop.stop_requested()) return absl::CancelledError("interrupted");
  if (extents > options.max_extents)
    return absl::ResourceExhaustedError("the file is too fragmented for its map");
  return absl::OkStatus();
}

// Calls `found` for each extent. Unimplemented when the filesystem has no FIEMAP.
absl::Status ForEachExtent(int fd, uint64_t size, const DataMapOptions& options,
                           const std::function<void(const fiemap_extent&)>& found) {
  std::vector<std::byte> buffer(sizeof(fiemap) + kBatch * sizeof(fiemap_extent));
  auto* map = reinterpret_cast<fiemap*>(buffer.data());
  size_t extents = 0;
  for (uint64_t at = 0; at < size;) {
    VR_RETURN_IF_ERROR(CheckLimits(extents, options));
    memset(map, 0, sizeof *map);
    map->fm_start = at;
    map->fm_length = size - at;
    map->fm_flags = options.sync ? FIEMAP_FLAG_SYNC : 0;
    map->fm_extent_count = kBatch;
    if (ioctl(fd, FS_IOC_FIEMAP, map) != 0) {
      if (errno == EINTR) continue;
      if (errno == EOPNOTSUPP || errno == ENOTTY || errno == EBADR)
        return absl::UnimplementedError("no FIEMAP");
      return ErrnoStatus(errno, "FIEMAP");
    }
    if (map->fm_mapped_extents == 0) break;
    extents += map->fm_mapped_extents;
    bool last = false;
    for (uint32_t i = 0; i < map->fm_mapped_extents; ++i) {
      const fiemap_extent& extent = map->fm_extents[i];
      // Sorted and moving on, or the loop would not end.
      if (extent.fe_length == 0 || extent.fe_logical + extent.fe_length <= at) {
        return absl::InternalError("FIEMAP answered with extents out of order");
      }
      found(extent);
      at = extent.fe_logical + extent.fe_length;
      last = (extent.fe_flags & FIEMAP_EXTENT_LAST) != 0;
    }
    if (last) break;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Extent>> ByFiemap(int fd, uint64_t size, const DataMapOptions& options) {
  std::vector<Extent> extents;
  VR_RETURN_IF_ERROR(ForEachExtent(fd, size, options, [&](const fiemap_extent& found) {
    Append(extents, FromFiemap(found, size));
  }));
  return extents;
}

absl::StatusOr<std::vector<Extent>> BySeek(int fd, uint64_t size, const DataMapOptions& options) {
  std::vector<Extent> extents;
  for (uint64_t at = 0; at < size;) {
    VR_RETURN_IF_ERROR(CheckLimits(extents.size(), options));
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

absl::StatusOr<std::vector<Extent>> ReadDataMap(int fd, uint64_t size_bytes,
                                                const DataMapOptions& options) {
  auto extents = ByFiemap(fd, size_bytes, options);
  if (absl::IsUnimplemented(extents.status())) return BySeek(fd, size_bytes, options);
  return extents;
}

absl::StatusOr<std::vector<Range>> ReadDataRanges(int fd, uint64_t size_bytes) {
  VR_ASSIGN_OR_RETURN(const std::vector<Extent> extents, BySeek(fd, size_bytes, {}));
  std::vector<Range> ranges;
  for (const Extent& extent : extents) AppendJoined(ranges, extent.range);
  return ranges;
}

absl::StatusOr<std::vector<SharedExtent>> ReadSharedExtents(int fd, uint64_t size_bytes) {
  std::vector<SharedExtent> extents;
  VR_RETURN_IF_ERROR(ForEachExtent(fd, size_bytes, {}, [&](const fiemap_extent& found) {
    constexpr uint32_t kHarmless = FIEMAP_EXTENT_SHARED | FIEMAP_EXTENT_LAST | FIEMAP_EXTENT_MERGED;
    if ((found.fe_flags & FIEMAP_EXTENT_SHARED) == 0 || (found.fe_flags & ~kHarmless) != 0) return;
    extents.push_back({{found.fe_logical, found.fe_logical + found.fe_length}, found.fe_physical});
  }));
  return extents;
}

}  // namespace virt_reclaim::punch
