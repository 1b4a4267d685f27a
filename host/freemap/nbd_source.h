// A disk behind an NBD server: how the worker reads an image whose format only QEMU knows. Its
// parent has connected and agreed with the server (simple replies, a read-only export); all that is
// left are requests to read. Source: the NBD protocol, doc/proto.md, "Transmission".
#ifndef VIRT_RECLAIM_HOST_FREEMAP_NBD_SOURCE_H_
#define VIRT_RECLAIM_HOST_FREEMAP_NBD_SOURCE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "host/freemap/byte_source.h"

namespace virt_reclaim::freemap {

// Keeps some pieces of what it read: a request costs more than the bytes around those asked for.
// After an error, which is final, nothing can be read any more. One thread.
class NbdSource final : public ByteSource {
 public:
  // `fd` is a connected stream socket, borrowed; `size` is that of the export, in bytes.
  NbdSource(int fd, uint64_t size) : fd_(fd), size_(size), pieces_(kPieces) {}
  uint64_t size() const override { return size_; }
  absl::Status Read(uint64_t offset, std::span<uint8_t> out) const override;

 private:
  static constexpr size_t kPieceBytes = size_t{32} << 10;
  static constexpr size_t kPieces = 128;
  struct Piece {
    uint64_t number = UINT64_MAX;  // of kPieceBytes each; UINT64_MAX: none
    std::vector<uint8_t> bytes;    // shorter at the end of the disk
  };

  absl::Status Request(uint64_t offset, std::span<uint8_t> out) const;
  absl::Status Keep(const absl::Status& status) const;
  absl::StatusOr<std::span<const uint8_t>> PieceOf(uint64_t number) const;

  int fd_;
  uint64_t size_;
  mutable std::vector<Piece> pieces_;
  mutable absl::Status broken_;
  mutable uint64_t cookie_ = 0;
};

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_NBD_SOURCE_H_
