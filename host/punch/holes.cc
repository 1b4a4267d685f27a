#include "host/punch/holes.h"

#include <fcntl.h>
#include <linux/falloc.h>

#include <cerrno>

#include "base/status.h"

namespace virt_reclaim::punch {
namespace {

int PunchHole(int fd, Range range) {
  while (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(range.begin),
                   static_cast<off_t>(range.size())) != 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

class PlainHoles final : public HoleMaker {
 public:
  PlainHoles(const ImageGuard& guard, uint64_t size, uint64_t unit)
      : guard_(guard), size_(size), unit_(unit) {}

  absl::StatusOr<uint64_t> Make(Range run) override {
    Range range = run;
    if (range.end == size_ && !guard_.is_device()) range.end = RoundUp(range.end, unit_);
    // The last moment: who opens the file from here on waits until we let go.
    if (guard_.Interrupted()) return absl::AbortedError("somebody wants to open it");
    if (const int error = PunchHole(guard_.fd(), range); error != 0)
      return ErrnoStatus(error, "punch");
    return run.size();
  }

 private:
  const ImageGuard& guard_;
  uint64_t size_;
  uint64_t unit_;
};

}  // namespace

std::unique_ptr<HoleMaker> MakePlainHoles(const ImageGuard& guard, uint64_t size_bytes,
                                          uint64_t unit_bytes) {
  return std::make_unique<PlainHoles>(guard, size_bytes, unit_bytes);
}

absl::Status TryPlainHoles(const ImageGuard& guard, uint64_t size_bytes, uint64_t unit_bytes) {
  const uint64_t behind = RoundUp(size_bytes, unit_bytes);
  const int error = PunchHole(guard.fd(), {behind, behind + unit_bytes});
  if (error == EOPNOTSUPP || error == ENOSYS || error == ENODEV)
    return absl::UnimplementedError("its filesystem cannot punch holes");
  if (error != 0) return ErrnoStatus(error, "punch");
  return absl::OkStatus();
}

}  // namespace virt_reclaim::punch
