// A ByteSource over bytes in memory, for the tests of the readers and their fuzzers.
#ifndef VIRT_RECLAIM_TESTS_UNIT_FREEMAP_MEMORY_SOURCE_H_
#define VIRT_RECLAIM_TESTS_UNIT_FREEMAP_MEMORY_SOURCE_H_

#include <algorithm>
#include <cstdint>
#include <span>

#include "host/freemap/byte_source.h"

namespace virt_reclaim::freemap {

// As long as `size`, zero where `bytes` (borrowed) end before.
class MemorySource final : public ByteSource {
 public:
  explicit MemorySource(std::span<const uint8_t> bytes, uint64_t size = 0)
      : bytes_(bytes), size_(std::max<uint64_t>(size, bytes_.size())) {}
  uint64_t size() const override { return size_; }
  absl::Status Read(uint64_t offset, std::span<uint8_t> out) const override {
    if (offset > size_ || out.size() > size_ - offset) return absl::OutOfRangeError("past the end");
    std::ranges::fill(out, uint8_t{0});
    if (offset < bytes_.size()) {
      const size_t count = std::min<size_t>(out.size(), bytes_.size() - offset);
      std::copy_n(bytes_.begin() + static_cast<ptrdiff_t>(offset), count, out.begin());
    }
    return absl::OkStatus();
  }

 private:
  std::span<const uint8_t> bytes_;
  uint64_t size_;
};

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_TESTS_UNIT_FREEMAP_MEMORY_SOURCE_H_
