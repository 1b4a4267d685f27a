#include "host/sparsify/btrfs_image.h"

#include <sys/stat.h>

#include <cerrno>
#include <chrono>

#include "base/status.h"
#include "host/punch/data_map.h"
#include "host/punch/pacer.h"

namespace virt_reclaim::sparsify {

absl::StatusOr<BtrfsView> ReadBtrfsView(int fd) {
  struct stat status;
  if (fstat(fd, &status) != 0) return ErrnoStatus(errno, "stat");
  VR_ASSIGN_OR_RETURN(const std::vector<punch::Extent> extents,
                      punch::ReadDataMap(fd, static_cast<uint64_t>(status.st_size)));
  BtrfsView view;
  for (const punch::Extent& extent : extents) {
    if (extent.shared) AppendJoined(view.shared, extent.range);
  }
  VR_ASSIGN_OR_RETURN(view.references, punch::ReadExtentReferences(fd));
  return view;
}

Released ReleasePunched(int fd, const std::string& directory,
                        const absl::StatusOr<BtrfsView>& before, const std::function<void()>& moved,
                        const std::stop_token& stop) {
  Released released;
  struct stat status;
  if (fstat(fd, &status) != 0) {
    released.status = ErrnoStatus(errno, "stat");
    return released;
  }
  const auto now = ReadBtrfsView(fd);
  if (!before.ok() || !now.ok()) {
    released.status = before.ok() ? now.status() : before.status();
    return released;
  }
  const punch::ReleasePlan plan = punch::PlanRelease(
      punch::ReferencesToPunched(before->references, now->references), now->shared);
  const punch::SteadyClock clock = [] { return std::chrono::steady_clock::now(); };
  punch::Pacer unpaced(clock, 0);
  const auto bytes = punch::MoveRanges(
      fd, directory, plan.move, static_cast<uint64_t>(status.st_size), unpaced,
      [&](uint64_t) { moved(); }, stop);
  released.status = bytes.status();
  if (bytes.ok()) {
    released.moved_bytes = *bytes;
    if (*bytes < plan.move_bytes && !stop.stop_requested())
      released.status = absl::ResourceExhaustedError("no room to move what is in use");
  }
  if (const auto after = ReadBtrfsView(fd); after.ok()) {
    released.held_bytes = punch::HeldBytes(
        punch::ReferencesToPunched(before->references, after->references), after->shared);
  }
  return released;
}

}  // namespace virt_reclaim::sparsify
