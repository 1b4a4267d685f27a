// The bytes of a piece of an image in memory, in the way that is cheapest and leaves the page cache
// as it was: what is cached is mapped, the rest is read around the cache.
#ifndef VIRT_RECLAIM_HOST_SYNC_PIECE_READER_H_
#define VIRT_RECLAIM_HOST_SYNC_PIECE_READER_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "host/sync/steps.h"

namespace virt_reclaim::sync {

inline constexpr uint64_t kGapBytes = uint64_t{64} << 10;  // a gap this small is read along

// One thread a reader.
class PieceReader {
 public:
  virtual ~PieceReader() = default;

  // Makes the bytes of `need` readable at At(): sorted, not empty, within one stretch of
  // kPieceBytes that begins at a multiple of that. What was loaded before is gone. DataLoss when
  // something cannot be read or the image has become shorter.
  virtual absl::Status Load(std::span<const Range> need) = 0;
  // Where in memory byte `offset` of the image is, one of `need`. Blocks are aligned as in the
  // image, for O_DIRECT.
  virtual const unsigned char* At(uint64_t offset) const = 0;
  // At() may raise SIGBUS (punch::SurvivesSigbus): the image may shrink or fail below a mapping.
  virtual bool mapped() const { return false; }
};

// Memory for one piece, aligned for O_DIRECT.
class PieceBuffer {
 public:
  PieceBuffer();
  ~PieceBuffer();
  PieceBuffer(const PieceBuffer&) = delete;
  PieceBuffer& operator=(const PieceBuffer&) = delete;
  unsigned char* memory() const { return memory_; }  // nullptr: there is none

 private:
  unsigned char* memory_;
};

// Of a file or device. `fd` is open for reading and outlives the reader; others may read from it at
// the same time. `name` for messages.
std::unique_ptr<PieceReader> NewFileReader(int fd, std::string name);

}  // namespace virt_reclaim::sync

#endif  // VIRT_RECLAIM_HOST_SYNC_PIECE_READER_H_
