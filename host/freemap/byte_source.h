// Where a reader's bytes come from: an image by descriptor today, anything that can be read at an
// offset tomorrow. A reader sees only its own piece, from 0 to size().
#ifndef VIRT_RECLAIM_HOST_FREEMAP_BYTE_SOURCE_H_
#define VIRT_RECLAIM_HOST_FREEMAP_BYTE_SOURCE_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace virt_reclaim::freemap {

// One thread at a time.
class ByteSource {
 public:
  // Where the same bytes lie in a file, for libblkid, which reads descriptors only.
  struct Window {
    int fd = -1;  // borrowed
    uint64_t offset = 0;
  };

  virtual ~ByteSource() = default;
  virtual uint64_t size() const = 0;  // bytes
  // Fills all of `out` from `offset`. OutOfRange past the end: nothing is ever made up.
  virtual absl::Status Read(uint64_t offset, std::span<uint8_t> out) const = 0;
  virtual std::optional<Window> window() const { return std::nullopt; }

  // `count` bytes from `offset`; what calls this bounds `count`.
  absl::StatusOr<std::vector<uint8_t>> ReadBytes(uint64_t offset, size_t count) const;
};

// A file or block device, read with pread. Borrows `fd`.
class FdSource final : public ByteSource {
 public:
  FdSource(int fd, uint64_t size) : fd_(fd), size_(size) {}
  uint64_t size() const override { return size_; }
  absl::Status Read(uint64_t offset, std::span<uint8_t> out) const override;
  std::optional<Window> window() const override { return Window{fd_, 0}; }

 private:
  int fd_;
  uint64_t size_;
};

// A piece of another source, which must outlive it: a partition.
class SliceSource final : public ByteSource {
 public:
  // The piece must lie inside `whole`: what is outside cannot be read in any case.
  SliceSource(const ByteSource& whole, uint64_t offset, uint64_t size)
      : whole_(whole), offset_(offset), size_(size) {}
  uint64_t size() const override { return size_; }
  absl::Status Read(uint64_t offset, std::span<uint8_t> out) const override;
  std::optional<Window> window() const override;

 private:
  const ByteSource& whole_;
  uint64_t offset_;
  uint64_t size_;
};

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_BYTE_SOURCE_H_
