// Reads windows of an image and finds the zero runs in them, in the way that is cheapest and leaves
// the page cache as it was: what is cached is mapped, the rest is read around the cache.
#ifndef VIRT_RECLAIM_HOST_PUNCH_IMAGE_READER_H_
#define VIRT_RECLAIM_HOST_PUNCH_IMAGE_READER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "base/range.h"
#include "host/punch/plan.h"

namespace virt_reclaim::punch {

// The kernel cuts one POSIX_FADV_WILLNEED to the readahead size of the disk (mm/readahead.c,
// force_page_cache_ra): 128 KiB unless somebody raised it.
inline constexpr uint64_t kFetchBytes = uint64_t{128} << 10;

// How to read what is not in the page cache.
enum class ColdRead {
  kDirect,    // the descriptor has O_DIRECT
  kBuffered,  // through the cache, dropped again afterwards
};

// `fd` is open for reading and outlives the reader. One thread a reader; several readers may share
// a descriptor.
class ImageReader {
 public:
  ImageReader(int fd, ColdRead cold, uint64_t unit_bytes);
  ~ImageReader();

  // Zero runs of the window's data, in whole units but for the end of the file. DataLoss when
  // something cannot be read; a file that became shorter has no zeros behind its end.
  //
  // Reads mapped memory under a SIGBUS handler of its own (I/O errors and truncation arrive as
  // that); signals of others go to whoever had the signal before.
  absl::StatusOr<std::vector<Range>> Scan(const Window& window);

  // Asks the kernel to fetch what Scan will want, where that goes through the cache.
  void Prefetch(const Window& window);
  // After the window was worked on: drops from the cache what was not there before Scan.
  void Forget(const Window& window);

  // Bytes of [begin, end) that are in the page cache; the whole when nobody can tell.
  static uint64_t CachedBytes(int fd, Range range);
  // The whole pages around [begin, end) that are not; nothing when nobody can tell. `fd` is open
  // for reading. Any thread.
  static std::vector<Range> AbsentPages(int fd, Range range);

 private:
  bool Mapped(const Window& window) const;
  absl::Status ScanMapped(const Window& window, std::vector<Range>& zeros) const;
  absl::Status ScanCopied(const Window& window, std::vector<Range>& zeros);
  struct Buffer;
  struct Fetched {
    uint64_t begin = 0;         // of the window
    std::vector<Range> absent;  // what was not cached before Prefetch
  };

  int fd_;
  ColdRead cold_;
  uint64_t unit_;
  std::unique_ptr<Buffer> buffer_;
  std::vector<Fetched> fetched_;
};

}  // namespace virt_reclaim::punch

#endif  // VIRT_RECLAIM_HOST_PUNCH_IMAGE_READER_H_
