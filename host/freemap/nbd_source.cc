#include "host/freemap/nbd_source.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "host/freemap/bytes.h"

namespace virt_reclaim::freemap {
namespace {

constexpr uint32_t kRequestMagic = 0x25609513;
constexpr uint32_t kReplyMagic = 0x67446698;  // a simple reply
constexpr size_t kRequestBytes = 28;
constexpr size_t kReplyBytes = 16;
constexpr size_t kMostAtOnce = size_t{1} << 20;  // every server takes 32 MiB

void PutBigEndian(std::span<uint8_t> out, uint64_t value) {
  for (size_t i = out.size(); i-- > 0; value >>= 8) out[i] = static_cast<uint8_t>(value);
}

absl::Status SendAll(int fd, Bytes bytes) {
  while (!bytes.empty()) {
    const ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return ErrnoStatus(n < 0 ? errno : EPIPE, "ask the NBD server");
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status ReceiveAll(int fd, std::span<uint8_t> out) {
  while (!out.empty()) {
    const ssize_t n = read(fd, out.data(), out.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "hear the NBD server");
    if (n == 0) return absl::AbortedError("the NBD server went away");
    out = out.subspan(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status NbdSource::Request(uint64_t offset, std::span<uint8_t> out) const {
  std::array<uint8_t, kRequestBytes> request = {};  // flags 0, type 0: read
  const std::span<uint8_t> bytes(request);
  ++cookie_;
  PutBigEndian(bytes.subspan(0, 4), kRequestMagic);
  PutBigEndian(bytes.subspan(8, 8), cookie_);
  PutBigEndian(bytes.subspan(16, 8), offset);
  PutBigEndian(bytes.subspan(24, 4), out.size());
  VR_RETURN_IF_ERROR(SendAll(fd_, bytes));
  std::array<uint8_t, kReplyBytes> reply = {};
  VR_RETURN_IF_ERROR(ReceiveAll(fd_, reply));
  if (BigEndian<uint32_t>(reply, 0) != kReplyMagic || BigEndian<uint64_t>(reply, 8) != cookie_)
    return absl::InternalError("the NBD server broke its protocol");
  if (const uint32_t error = BigEndian<uint32_t>(reply, 4); error != 0)
    return ErrnoStatus(EIO, absl::StrCat("read at ", offset, " (NBD error ", error, ")"));
  return ReceiveAll(fd_, out);
}

absl::StatusOr<std::span<const uint8_t>> NbdSource::PieceOf(uint64_t number) const {
  Piece& piece = pieces_[number % kPieces];
  if (piece.number != number) {
    piece.number = UINT64_MAX;
    const uint64_t begin = number * kPieceBytes;
    piece.bytes.resize(std::min<uint64_t>(kPieceBytes, size_ - begin));
    VR_RETURN_IF_ERROR(Request(begin, piece.bytes));
    piece.number = number;
  }
  return std::span<const uint8_t>(piece.bytes);
}

// One code for all: a broken connection says nothing about the filesystem (refusal.h).
absl::Status NbdSource::Keep(const absl::Status& status) const {
  if (!status.ok()) broken_ = absl::InternalError(status.message());
  return broken_;
}

absl::Status NbdSource::Read(uint64_t offset, std::span<uint8_t> out) const {
  if (offset > size_ || out.size() > size_ - offset) {
    return absl::OutOfRangeError(
        absl::StrCat(out.size(), " bytes at ", offset, " are past the end"));
  }
  VR_RETURN_IF_ERROR(broken_);
  while (!out.empty()) {
    size_t done = 0;
    if (out.size() >= kPieceBytes) {
      done = std::min(out.size(), kMostAtOnce);
      VR_RETURN_IF_ERROR(Keep(Request(offset, out.first(done))));
    } else {
      const auto piece = PieceOf(offset / kPieceBytes);
      VR_RETURN_IF_ERROR(Keep(piece.status()));
      const size_t from = offset % kPieceBytes;
      done = std::min(out.size(), piece->size() - from);
      std::copy_n(piece->begin() + static_cast<ptrdiff_t>(from), done, out.begin());
    }
    offset += done;
    out = out.subspan(done);
  }
  return absl::OkStatus();
}

}  // namespace virt_reclaim::freemap
