#include "host/commands/trim_position.h"

#include <algorithm>

namespace virt_reclaim {
namespace {

const GuestFilesystem* MountedAt(const GuestFacts& guest, const std::string& mount_point) {
  for (const GuestFilesystem& filesystem : guest.filesystems) {
    const auto& points = filesystem.mount_points;
    if (std::find(points.begin(), points.end(), mount_point) != points.end()) return &filesystem;
  }
  return nullptr;
}

}  // namespace

std::optional<GuestTrimPosition> StartOf(const std::optional<TrimRecord>& last,
                                         const GuestFacts& guest) {
  if (!last || !last->next) return std::nullopt;
  const TrimRecordPosition& next = *last->next;
  const GuestFilesystem* filesystem = MountedAt(guest, next.mount_point);
  if (filesystem == nullptr || filesystem->uuid != next.uuid) return std::nullopt;
  return GuestTrimPosition{next.mount_point, next.offset, next.after};
}

TrimRecordPosition PositionOf(const GuestTrimProgress& reached,
                              const std::vector<GuestTrim>& finished, const GuestFacts& guest) {
  TrimRecordPosition next;
  next.mount_point = reached.mount_point;
  next.offset = reached.position;
  const GuestFilesystem* filesystem = MountedAt(guest, next.mount_point);
  if (filesystem != nullptr) next.uuid = filesystem->uuid;
  next.after = std::any_of(finished.begin(), finished.end(), [&](const GuestTrim& trim) {
    return trim.mount_point == next.mount_point && trim.result == GuestTrimResult::kDone;
  });
  return next;
}

}  // namespace virt_reclaim
