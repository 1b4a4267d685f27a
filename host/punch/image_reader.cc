#include "host/punch/image_reader.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/status.h"
#include "host/punch/read_at.h"
#include "host/punch/sigbus.h"
#include "host/punch/zero_scan.h"

namespace virt_reclaim::punch {
namespace {

constexpr size_t kCopyBytes = kMiB;    // a read(2) around the cache
constexpr uint64_t kAlignment = 4096;  // of O_DIRECT: no disk has larger logical blocks
constexpr uint64_t kGapBytes =
    64 * kKiB;  // a hole this small is read along rather than seeked over
// Mapping it in pieces this small costs more than the page faults that it saves.
constexpr uint64_t kPopulateBytes = 64 * kKiB;

// cachestat(2), Linux 6.5: not in Debian 12's headers.
constexpr long kCachestat = 451;
struct CachestatRange {
  uint64_t offset;
  uint64_t length;
};
struct Cachestat {
  uint64_t cached;
  uint64_t dirty;
  uint64_t writeback;
  uint64_t evicted;
  uint64_t recently_evicted;
};

// Data ranges with small gaps read along, cut at `most`; a gap that is read is not judged.
std::vector<Range> Stretches(const std::vector<Range>& data, uint64_t most) {
  std::vector<Range> stretches;
  for (Range range : data) {
    if (!stretches.empty() && range.begin - stretches.back().end <= kGapBytes &&
        range.end - stretches.back().begin <= most) {
      stretches.back().end = range.end;
      continue;
    }
    while (range.begin < range.end) {
      const Range part = {range.begin, std::min(range.end, range.begin + most)};
      stretches.push_back(part);
      range.begin = part.end;
    }
  }
  return stretches;
}

}  // namespace

struct ImageReader::Buffer {
  // Touched at once: btrfs reads into pages that are not there yet through the cache.
  explicit Buffer(size_t size) : bytes(size), memory(aligned_alloc(kAlignment, size)) {
    if (memory != nullptr) memset(memory, 0xff, size);
  }
  ~Buffer() { free(memory); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  size_t bytes;
  void* memory;
};

ImageReader::ImageReader(int fd, ColdRead cold, uint64_t unit_bytes)
    : fd_(fd), cold_(cold), unit_(unit_bytes) {}
ImageReader::~ImageReader() = default;

uint64_t ImageReader::CachedBytes(int fd, Range range) {
  CachestatRange asked = {range.begin, range.size()};
  Cachestat found = {};
  static const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  if (syscall(kCachestat, fd, &asked, &found, 0) == 0) return found.cached * page;
  uint64_t absent = 0;  // Linux before 6.5
  for (const Range& run : AbsentPages(fd, range)) absent += run.size();
  return range.size() - std::min(range.size(), absent);
}

std::vector<Range> ImageReader::AbsentPages(int fd, Range range) {
  static const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  range = {RoundDown(range.begin, page), RoundUp(range.end, page)};
  std::vector<Range> absent;
  void* memory =
      mmap(nullptr, range.size(), PROT_READ, MAP_SHARED, fd, static_cast<off_t>(range.begin));
  if (memory == MAP_FAILED) return absent;
  std::vector<unsigned char> pages(range.size() / page);
  const int failed = mincore(memory, range.size(), pages.data());
  munmap(memory, range.size());
  for (size_t i = 0; failed == 0 && i < pages.size(); ++i) {
    if ((pages[i] & 1) == 0)
      AppendJoined(absent, {range.begin + i * page, range.begin + (i + 1) * page});
  }
  return absent;
}

// All of it, or the rest would be there afterwards too.
bool ImageReader::Mapped(const Window& window) const {
  return CachedBytes(fd_, window.range) >= window.data_bytes;
}

void ImageReader::Prefetch(const Window& window) {
  if (cold_ != ColdRead::kBuffered || Mapped(window)) return;
  fetched_.push_back({window.range.begin, AbsentPages(fd_, window.range)});
  for (const Range& range : Stretches(window.data, kFetchBytes)) {
    posix_fadvise(fd_, static_cast<off_t>(range.begin), static_cast<off_t>(range.size()),
                  POSIX_FADV_WILLNEED);
  }
}

void ImageReader::Forget(const Window& window) {
  const auto found = std::find_if(fetched_.begin(), fetched_.end(), [&](const Fetched& fetched) {
    return fetched.begin == window.range.begin;
  });
  if (found == fetched_.end()) return;
  for (const Range& run : found->absent) {
    posix_fadvise(fd_, static_cast<off_t>(run.begin), static_cast<off_t>(run.size()),
                  POSIX_FADV_DONTNEED);
  }
  fetched_.erase(found);
}

absl::StatusOr<std::vector<Range>> ImageReader::Scan(const Window& window) {
  std::vector<Range> zeros;
  const bool mapped = cold_ == ColdRead::kBuffered || Mapped(window);
  VR_RETURN_IF_ERROR(mapped ? ScanMapped(window, zeros) : ScanCopied(window, zeros));
  return zeros;
}

absl::Status ImageReader::ScanMapped(const Window& window, std::vector<Range>& zeros) const {
  static const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t start = RoundDown(window.range.begin, page);
  const size_t length = window.range.end - start;
  void* memory = mmap(nullptr, length, PROT_READ, MAP_SHARED, fd_, static_cast<off_t>(start));
  if (memory == MAP_FAILED) return ErrnoStatus(errno, "map");
  // Unmapped before anything is punched: punching mapped pages is slow.
  const auto unmap = absl::MakeCleanup([&] { munmap(memory, length); });
  auto* bytes = static_cast<unsigned char*>(memory);
  for (const Range& range : window.data) {
    const uint64_t from = RoundDown(range.begin, page);
    if (range.size() >= kPopulateBytes)  // may fail: then the pages fault in one by one
      madvise(bytes + (from - start), range.end - from, MADV_POPULATE_READ);
  }
  zeros.reserve(window.range.size() / unit_ / 2 + 1);  // nothing is allocated within the read
  const bool whole = SurvivesSigbus([&] {
    for (const Range& range : window.data)
      FindZeroRuns(bytes + (range.begin - start), range.size(), range.begin, unit_, zeros);
  });
  if (whole) return absl::OkStatus();
  zeros.clear();
  return absl::DataLossError(absl::StrCat("cannot be read between ", window.range.begin, " and ",
                                          window.range.end, ", or became shorter"));
}

absl::Status ImageReader::ScanCopied(const Window& window, std::vector<Range>& zeros) {
  // A unit is judged as a whole, so at least one must fit.
  const uint64_t most = std::max<uint64_t>(kCopyBytes, unit_);
  if (buffer_ == nullptr) {
    buffer_ = std::make_unique<Buffer>(RoundUp(most, kAlignment) + 2 * kAlignment);
    if (buffer_->memory == nullptr) return absl::ResourceExhaustedError("no memory");
  }
  auto* const memory = static_cast<unsigned char*>(buffer_->memory);
  size_t next = 0;
  for (const Range& stretch : Stretches(window.data, most)) {
    const uint64_t from = RoundDown(stretch.begin, kAlignment);
    const uint64_t to = RoundUp(stretch.end, kAlignment);
    uint64_t at = from;
    while (at < to) {
      const ssize_t n = ReadAt(fd_, memory + (at - from), to - at, at);
      if (n < 0) {
        const absl::Status why = ErrnoStatus(errno, absl::StrCat("read at ", at));
        return absl::DataLossError(why.message());
      }
      at += static_cast<uint64_t>(n);
      if (n == 0 || at % kAlignment != 0) break;  // the end of the file
    }
    while (next < window.data.size() && window.data[next].end <= stretch.begin) ++next;
    for (size_t i = next; i < window.data.size() && window.data[i].begin < stretch.end; ++i) {
      const uint64_t begin = std::max(window.data[i].begin, stretch.begin);
      const uint64_t end = std::min(window.data[i].end, stretch.end);
      // Only what was read to its end; a block that the file no longer has is not.
      if (end > at) break;
      FindZeroRuns(memory + (begin - from), end - begin, begin, unit_, zeros);
    }
  }
  return absl::OkStatus();
}

}  // namespace virt_reclaim::punch
