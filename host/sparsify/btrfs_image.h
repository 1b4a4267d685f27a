// What an image file really occupies on btrfs, which frees an extent only when nothing refers to
// any part of it: holes alone give back less than they look like, or nothing
// (host/punch/btrfs_release.h).
#ifndef VIRT_RECLAIM_HOST_SPARSIFY_BTRFS_IMAGE_H_
#define VIRT_RECLAIM_HOST_SPARSIFY_BTRFS_IMAGE_H_

#include <cstdint>
#include <functional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/range.h"
#include "host/punch/btrfs_release.h"
#include "host/sparsify/opened_disk.h"

namespace virt_reclaim::sparsify {

// Extents of a file, and where snapshots or other files share them.
struct BtrfsView {
  std::vector<punch::ExtentReference> references;
  std::vector<Range> shared;
};

// Of `fd`, open for reading; dirty pages are written first. PermissionDenied: only root sees it.
absl::StatusOr<BtrfsView> ReadBtrfsView(int fd);

// Moves what is left of the extents that were punched since `before` out of them, in unnamed files
// in `directory`. `moved` hears of each step. Extents with little waste, compressed ones, and those
// that a snapshot holds as well stay as they are. One thread.
Released ReleasePunched(int fd, const std::string& directory,
                        const absl::StatusOr<BtrfsView>& before, const std::function<void()>& moved,
                        const std::stop_token& stop);

}  // namespace virt_reclaim::sparsify

#endif  // VIRT_RECLAIM_HOST_SPARSIFY_BTRFS_IMAGE_H_
