#include "host/sparsify/shared_blocks.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <chrono>

#include "base/unique_fd.h"
#include "host/punch/punch.h"

namespace virt_reclaim::sparsify {

bool CanShareBlocks(const std::string& source, const std::string& directory) {
  const UniqueFd from(open(source.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  const UniqueFd to(open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  struct stat status;
  struct statfs mounted;
  if (!from.valid() || !to.valid() || fstat(from.get(), &status) != 0 || !S_ISREG(status.st_mode) ||
      fstatfs(to.get(), &mounted) != 0 || mounted.f_type == BTRFS_SUPER_MAGIC ||
      status.st_size < mounted.f_bsize) {
    return false;
  }
  file_clone_range range = {};
  range.src_fd = from.get();
  range.src_length = static_cast<uint64_t>(mounted.f_bsize);
  return ioctl(to.get(), FICLONERANGE, &range) == 0;
}

absl::Status DropZeros(const std::string& path, const std::stop_token& stop) {
  punch::Puncher puncher({}, [] { return std::chrono::steady_clock::now(); });
  const auto plan = puncher.Plan(path);
  if (plan.ok())
    static_cast<void>(puncher.Punch(
        *plan, [](const auto&) {}, stop));
  return stop.stop_requested() ? absl::CancelledError("interrupted") : absl::OkStatus();
}

}  // namespace virt_reclaim::sparsify
