// Compare-and-punch. The source is a temporary file that is one hole, as long as the longest step;
// its pages stay in the page cache and in the processor's, since every step compares with the same.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "base/byte_size.h"
#include "base/status.h"
#include "host/punch/filesystem.h"
#include "host/punch/holes.h"
#include "host/punch/image_reader.h"

namespace virt_reclaim::punch {
namespace {

constexpr uint64_t kStepBytes = 2 * kMiB;
// Where the kernel says "differs", halves are tried down to this.
constexpr uint64_t kSmallestSplit = 64 * kKiB;

class AtomicHoles final : public HoleMaker {
 public:
  AtomicHoles(int fd, std::string directory, UniqueFd hole, uint64_t size, uint64_t unit)
      : fd_(fd),
        directory_(std::move(directory)),
        hole_(std::move(hole)),
        size_(size),
        unit_(unit),
        step_(RoundUp(kStepBytes, unit)) {}

  // Without it the kernel would read block after block while it compares.
  void Expect(std::span<const Range> runs) override {
    for (const Range& run : runs) {
      if (ImageReader::CachedBytes(fd_, run) >= run.size()) continue;
      for (uint64_t at = run.begin; at < run.end; at += kFetchBytes) {
        posix_fadvise(fd_, static_cast<off_t>(at),
                      static_cast<off_t>(std::min(kFetchBytes, run.end - at)), POSIX_FADV_WILLNEED);
      }
      fetched_.push_back(run);
    }
  }

  absl::StatusOr<uint64_t> Make(Range run) override {
    VR_ASSIGN_OR_RETURN(const uint64_t made, MakeSteps(run));
    const bool fetched = std::find(fetched_.begin(), fetched_.end(), run) != fetched_.end();
    if (fetched) {
      posix_fadvise(fd_, static_cast<off_t>(run.begin), static_cast<off_t>(run.size()),
                    POSIX_FADV_DONTNEED);
    }
    if (fetched && run == fetched_.back()) fetched_.clear();
    return made;
  }

 private:
  absl::StatusOr<uint64_t> MakeSteps(Range run) {
    uint64_t made = 0;
    for (uint64_t at = run.begin; at < run.end;) {
      const uint64_t end = std::min(run.end, RoundDown(at, step_) + step_);
      VR_ASSIGN_OR_RETURN(const uint64_t bytes, Step({at, end}));
      made += bytes;
      at = end;
    }
    return made;
  }

  absl::StatusOr<uint64_t> Step(Range range) {
    // The kernel takes a part of a block only where both files end with it.
    if (range.end % unit_ != 0) {
      if (range.end != size_) return absl::InternalError("a run ends within a block");
      const Range tail = {RoundDown(range.end - 1, unit_), range.end};
      uint64_t made = 0;
      if (range.begin < tail.begin) {
        VR_ASSIGN_OR_RETURN(made, Compare(hole_.get(), {range.begin, tail.begin}));
      }
      VR_ASSIGN_OR_RETURN(const UniqueFd end, MakeTemporary(directory_, fd_));
      if (ftruncate(end.get(), static_cast<off_t>(tail.size())) != 0)
        return ErrnoStatus(errno, "make a temporary file");
      VR_ASSIGN_OR_RETURN(const uint64_t last, Compare(end.get(), tail));
      return made + last;
    }
    return Compare(hole_.get(), range);
  }

  absl::StatusOr<uint64_t> Compare(int source, Range range) {
    uint64_t made = 0;
    while (range.size() > 0) {
      const DedupeResult result = Dedupe(source, 0, fd_, range.begin, range.size());
      if (result.error != 0) return ErrnoStatus(result.error, "compare and punch");
      if (result.bytes == 0) break;  // differs
      made += std::min(result.bytes, range.size());
      range.begin += std::min(result.bytes, range.size());
    }
    if (range.size() <= std::max(kSmallestSplit, unit_) || range.end % unit_ != 0) return made;
    const uint64_t middle = RoundDown(range.begin + range.size() / 2, unit_);
    for (const Range half : {Range{range.begin, middle}, Range{middle, range.end}}) {
      VR_ASSIGN_OR_RETURN(const uint64_t bytes, Compare(source, half));
      made += bytes;
    }
    return made;
  }

  int fd_;
  std::string directory_;
  UniqueFd hole_;
  uint64_t size_;
  uint64_t unit_;
  uint64_t step_;
  std::vector<Range> fetched_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HoleMaker>> MakeAtomicHoles(int fd, const std::string& directory,
                                                           uint64_t size_bytes,
                                                           uint64_t unit_bytes) {
  VR_ASSIGN_OR_RETURN(UniqueFd hole, MakeTemporary(directory, fd));
  if (ftruncate(hole.get(), static_cast<off_t>(RoundUp(kStepBytes, unit_bytes))) != 0)
    return ErrnoStatus(errno, "make a temporary file");
  return std::make_unique<AtomicHoles>(fd, directory, std::move(hole), size_bytes, unit_bytes);
}

}  // namespace virt_reclaim::punch
