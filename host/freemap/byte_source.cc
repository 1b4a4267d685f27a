#include "host/freemap/byte_source.h"

#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace virt_reclaim::freemap {
namespace {

absl::Status CheckInside(uint64_t size, uint64_t offset, size_t count) {
  if (offset <= size && count <= size - offset) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrCat(count, " bytes at ", offset, " are past the end"));
}

}  // namespace

absl::StatusOr<std::vector<uint8_t>> ByteSource::ReadBytes(uint64_t offset, size_t count) const {
  VR_RETURN_IF_ERROR(CheckInside(size(), offset, count));  // before a byte is allocated
  std::vector<uint8_t> bytes(count);
  VR_RETURN_IF_ERROR(Read(offset, bytes));
  return bytes;
}

absl::Status FdSource::Read(uint64_t offset, std::span<uint8_t> out) const {
  VR_RETURN_IF_ERROR(CheckInside(size_, offset, out.size()));
  while (!out.empty()) {
    const ssize_t n = pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, absl::StrCat("read at ", offset));
    if (n == 0) return absl::OutOfRangeError(absl::StrCat("the image ends at ", offset));
    offset += static_cast<uint64_t>(n);
    out = out.subspan(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status SliceSource::Read(uint64_t offset, std::span<uint8_t> out) const {
  VR_RETURN_IF_ERROR(CheckInside(size_, offset, out.size()));
  if (offset > UINT64_MAX - offset_) return absl::OutOfRangeError("past the end");
  return whole_.Read(offset_ + offset, out);
}

std::optional<ByteSource::Window> SliceSource::window() const {
  std::optional<Window> window = whole_.window();
  if (!window || window->offset > UINT64_MAX - offset_) return std::nullopt;
  window->offset += offset_;
  return window;
}

}  // namespace virt_reclaim::freemap
