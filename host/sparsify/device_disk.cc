// A raw image that is a block device: held exclusively from the beginning to the end, discarded
// with BLKDISCARD. The host does not tell what of it is allocated, nor what came free.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/guard/image_guard.h"
#include "host/punch/survey.h"
#include "host/sparsify/opened_disk.h"

namespace virt_reclaim::sparsify {
namespace {

constexpr uint64_t kLeast = 4096;  // smaller discards than a filesystem's block free nothing

class DeviceDisk final : public OpenedDisk {
 public:
  DeviceDisk(std::string path, ImageGuard guard)
      : path_(std::move(path)), guard_(std::move(guard)) {}

  absl::Status Open() {
    const int fd = guard_.fd();
    int sector = 0;
    if (ioctl(fd, BLKGETSIZE64, &facts_.size_bytes) != 0 || ioctl(fd, BLKSSZGET, &sector) != 0)
      return ErrnoStatus(errno, "ask " + Quoted(path_));
    int read_only = 0;
    if (ioctl(fd, BLKROGET, &read_only) == 0 && read_only != 0)
      return absl::FailedPreconditionError(Quoted(path_) + " is a read-only device");
    const dev_t number = guard_.identity().block_device;
    const std::string device = absl::StrCat("/sys/dev/block/", major(number), ":", minor(number));
    if (punch::QueueNumber(device, "discard_max_bytes") == 0)
      return absl::UnimplementedError(Quoted(path_) + " takes no discards");
    facts_.granularity = std::max<uint64_t>(
        {kLeast, static_cast<uint64_t>(sector), punch::QueueNumber(device, "discard_granularity")});
    if ((facts_.granularity & (facts_.granularity - 1)) != 0)
      return absl::UnimplementedError(
          absl::StrCat(Quoted(path_), " discards in units of ", facts_.granularity, " bytes"));
    return absl::OkStatus();
  }

  freemap::WorkerDisk worker_disk() const override { return {guard_.fd(), 0}; }
  const DiskFacts& facts() const override { return facts_; }
  absl::Status Seize() override { return absl::OkStatus(); }
  absl::StatusOr<AllocationMap> Allocated() override {
    const std::vector<Range> all = {{0, facts_.size_bytes}};
    return AllocationMap{all, all};
  }
  bool Wanted() override { return guard_.Interrupted(); }

  absl::Status Free(Range range) override {
    uint64_t words[2] = {range.begin, range.size()};
    if (ioctl(guard_.fd(), BLKDISCARD, words) == 0) return absl::OkStatus();
    if (errno == EOPNOTSUPP) return absl::UnimplementedError(Quoted(path_) + " takes no discards");
    return ErrnoStatus(errno, absl::StrCat("discard at ", range.begin, " of ", Quoted(path_)));
  }

  absl::Status Finish() override {
    absl::Status synced;
    if (fdatasync(guard_.fd()) != 0) synced = ErrnoStatus(errno, "sync " + Quoted(path_));
    guard_.Release();
    return synced;
  }

  std::optional<uint64_t> Allocation() override { return std::nullopt; }

 private:
  const std::string path_;
  ImageGuard guard_;
  DiskFacts facts_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<OpenedDisk>> OpenDeviceDisk(const std::string& path, Mode mode) {
  GuardOptions wanted;
  wanted.intent = ImageIntent::kWrite;
  wanted.read_only = mode == Mode::kMeasure;
  VR_ASSIGN_OR_RETURN(ImageGuard guard, ImageGuard::Acquire(path, wanted));
  auto disk = std::make_unique<DeviceDisk>(path, std::move(guard));
  VR_RETURN_IF_ERROR(disk->Open());
  return disk;
}

}  // namespace virt_reclaim::sparsify
