// What the component tests of punch share: filesystems of their own on loop devices, image content,
// and the way to run the engine. Their main skips (77) where there is no root or no loop device.
#ifndef VIRT_RECLAIM_TESTS_COMPONENT_PUNCH_FIXTURES_H_
#define VIRT_RECLAIM_TESTS_COMPONENT_PUNCH_FIXTURES_H_

#include <sys/stat.h>

#include <cstdint>
#include <string>

#include "host/punch/punch.h"

namespace virt_reclaim::punch {

struct RunResult {
  int status = -1;
  std::string output;  // stdout and stderr
};
RunResult Shell(const std::string& command);

// A filesystem on a loop device over a sparse file, mounted for as long as the object lives. The
// mount is this process's own and the device goes with it.
class LoopMount {
 public:
  // `type` "tmpfs" and "ramfs" need no device.
  explicit LoopMount(const std::string& type, const std::string& mkfs_options = "",
                     const std::string& mount_options = "", uint64_t size = uint64_t{512} << 20);
  ~LoopMount();
  LoopMount(const LoopMount&) = delete;
  LoopMount& operator=(const LoopMount&) = delete;

  bool ok() const { return why_not_.empty(); }
  // The kernel or mkfs has no such filesystem.
  const std::string& why_not() const { return why_not_; }
  std::string Path(const std::string& name) const { return directory_ + "/mnt/" + name; }
  const std::string& device() const { return device_; }
  // The file below the device; what is written to it the filesystem reads from there on.
  std::string backing() const { return directory_ + "/image"; }
  // After all is written.
  uint64_t FreeBytes() const;

 private:
  std::string directory_;
  std::string device_;
  std::string why_not_;
};

// 'x' is a block of data (never zero), '0' a block of zeros, '-' a hole; one character a block, the
// last one cut by `cut` bytes. Written to the disk.
void WriteBlocks(const std::string& path, const std::string& blocks, uint64_t block_bytes = 4096,
                 uint64_t cut = 0);
// Runs of zeros and data by turns, each `seed` another.
std::string HalfZeroContent(uint64_t bytes, unsigned seed = 1);
void WriteContent(const std::string& path, const std::string& content);
std::string ReadContent(const std::string& path);
struct stat StatFile(const std::string& path);
uint64_t AllocatedBytes(const std::string& path);
int64_t MtimeNs(const std::string& path);

absl::StatusOr<PunchResult> PunchFile(const std::string& path, const PunchOptions& options = {},
                                      const ProgressCallback& progress = {});
absl::StatusOr<PunchResult> MeasureFile(const std::string& path, const PunchOptions& options = {});

}  // namespace virt_reclaim::punch

#endif  // VIRT_RECLAIM_TESTS_COMPONENT_PUNCH_FIXTURES_H_
