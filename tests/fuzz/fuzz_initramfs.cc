// Any bytes as an initramfs: no crash, no endless loop, and what comes in pieces is what comes
// whole.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "host/guestfs/initramfs_archive.h"

namespace {

absl::StatusOr<std::string> List(const uint8_t* data, size_t size, size_t piece) {
  size_t at = 0;
  return virt_reclaim::ListInitramfsArchive(
      [&](char* buffer, size_t room) -> absl::StatusOr<size_t> {
        const size_t n = std::min({room, piece, size - at});
        if (n > 0) std::memcpy(buffer, data + at, n);
        at += n;
        return n;
      },
      size_t{4} << 20);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto whole = List(data, size, size + 1);
  const auto pieces = List(data, size, 13);
  if (whole.ok() != pieces.ok() || (whole.ok() && *whole != *pieces)) std::abort();
  return 0;
}
