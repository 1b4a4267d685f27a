#include "host/commands/trim_position.h"

#include <algorithm>

namespace virt_reclaim {
namespace {

bool IsMountedAt(const GuestFilesystem& filesystem, const std::string& mount_point) {
  const auto& points = filesystem.mount_points;
  return std::find(points.begin(), points.end(), mount_point) != points.end();
}

const GuestFilesystem* MountedAt(const GuestFacts& guest, const std::string& mount_point) {
  for (const GuestFilesystem& filesystem : guest.filesystems) {
    if (IsMountedAt(filesystem, mount_point)) return &filesystem;
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

bool WasGoneThrough(const GuestFilesystem& filesystem,
                    const std::optional<GuestTrimPosition>& start,
                    const std::vector<GuestTrim>& finished) {
  const bool in_it = start && (start->offset > 0 || start->after);
  if (in_it && IsMountedAt(filesystem, start->mount_point)) return false;
  return std::any_of(finished.begin(), finished.end(), [&](const GuestTrim& trim) {
    return IsMountedAt(filesystem, trim.mount_point);
  });
}

}  // namespace virt_reclaim
