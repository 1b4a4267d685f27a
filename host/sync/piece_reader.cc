#include "host/sync/piece_reader.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "host/punch/image_reader.h"
#include "host/punch/read_at.h"

namespace virt_reclaim::sync {
namespace {

constexpr size_t kHugePageBytes = size_t{2} << 20;  // x86-64; elsewhere as good as any other size

class FileReader final : public PieceReader {
 public:
  FileReader(int fd, std::string name) : fd_(fd), name_(std::move(name)) {}
  ~FileReader() override { Unmap(); }
  FileReader(const FileReader&) = delete;
  FileReader& operator=(const FileReader&) = delete;

  absl::Status Load(std::span<const Range> need) override {
    const Range hull = {need.front().begin, need.back().end};
    uint64_t wanted = 0;
    for (const Range& range : need) wanted += range.size();
    // All of it, or the rest would be there afterwards, too.
    mapped_ = punch::ImageReader::CachedBytes(fd_, hull) >= wanted && Map(hull);
    return mapped_ ? absl::OkStatus() : Read(need);
  }

  const unsigned char* At(uint64_t offset) const override { return at_ + (offset - start_); }
  bool mapped() const override { return mapped_; }

 private:
  // A whole window at once, for all its pieces: each mapping that goes costs every processor.
  bool Map(Range hull) {
    const uint64_t window = RoundDown(hull.begin, kWindowBytes);
    if (map_ == nullptr || map_start_ != window) {
      Unmap();
      void* memory =
          mmap(nullptr, kWindowBytes, PROT_READ, MAP_SHARED, fd_, static_cast<off_t>(window));
      if (memory == MAP_FAILED) return false;
      map_ = static_cast<unsigned char*>(memory);
      map_start_ = window;
    }
    at_ = map_;
    start_ = map_start_;
    // Not MADV_POPULATE_READ: it looks at each page once more after it is there, and costs a fifth
    // more than faults do, which bring in what is around them, too.
    return true;
  }

  void Unmap() {
    if (map_ != nullptr) munmap(map_, kWindowBytes);
    map_ = nullptr;
  }

  absl::Status Read(std::span<const Range> need) {
    if (buffer_ == nullptr) buffer_ = std::make_unique<PieceBuffer>();
    unsigned char* const memory = buffer_->memory();
    if (memory == nullptr) return absl::ResourceExhaustedError("no memory");
    at_ = memory;
    start_ = RoundDown(need.front().begin, kPieceBytes);
    for (size_t i = 0; i < need.size();) {
      Range stretch = need[i++];
      while (i < need.size() && need[i].begin - stretch.end <= kGapBytes)
        stretch.end = need[i++].end;
      const uint64_t to = RoundUp(stretch.end, kBlockBytes);
      uint64_t at = RoundDown(stretch.begin, kBlockBytes);
      while (at < to) {
        const ssize_t n = punch::ReadAt(fd_, memory + (at - start_), to - at, at);
        if (n < 0) {
          const absl::Status why = ErrnoStatus(errno, absl::StrCat("read ", name_, " at ", at));
          return absl::DataLossError(why.message());
        }
        at += static_cast<uint64_t>(n);
        if (n == 0 || at % kBlockBytes != 0) break;  // the end of the file
      }
      if (at < stretch.end) return absl::DataLossError(name_ + " became shorter");
    }
    return absl::OkStatus();
  }

  int fd_;
  std::string name_;
  const unsigned char* at_ = nullptr;
  uint64_t start_ = 0;  // what lies there, in the image
  bool mapped_ = false;
  unsigned char* map_ = nullptr;  // a window that begins at map_start_; may go beyond the end
  uint64_t map_start_ = 0;
  std::unique_ptr<PieceBuffer> buffer_;
};

}  // namespace

// One huge page, where there are some: what is read around the cache comes in fewer requests then,
// and its pages are not looked up one by one.
PieceBuffer::PieceBuffer()
    : memory_(static_cast<unsigned char*>(aligned_alloc(kHugePageBytes, kHugePageBytes))) {
  static_assert(kPieceBytes <= kHugePageBytes);
  if (memory_ == nullptr) return;
  madvise(memory_, kHugePageBytes, MADV_HUGEPAGE);
  // Touched at once: btrfs reads into pages that are not there yet through the cache.
  memset(memory_, 0xff, kPieceBytes);
}

PieceBuffer::~PieceBuffer() { free(memory_); }

std::unique_ptr<PieceReader> NewFileReader(int fd, std::string name) {
  return std::make_unique<FileReader>(fd, std::move(name));
}

}  // namespace virt_reclaim::sync
