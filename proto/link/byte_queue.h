// Bytes in at one end, out at the other, contiguous: what waits for a descriptor to take it. One
// thread.
#ifndef VIRT_RECLAIM_PROTO_LINK_BYTE_QUEUE_H_
#define VIRT_RECLAIM_PROTO_LINK_BYTE_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace virt_reclaim::link {

class ByteQueue {
 public:
  std::span<const uint8_t> bytes() const { return std::span(storage_).subspan(taken_); }
  size_t size() const { return storage_.size() - taken_; }
  bool empty() const { return size() == 0; }

  void Append(std::span<const uint8_t> bytes) {
    storage()->insert(storage_.end(), bytes.begin(), bytes.end());
  }
  // To append to in place. Moves what is left to the front once that is the smaller part, which
  // makes all moves together linear in the bytes that pass.
  std::vector<uint8_t>* storage() {
    if (taken_ > storage_.size() / 2) {
      storage_.erase(storage_.begin(), storage_.begin() + static_cast<ptrdiff_t>(taken_));
      taken_ = 0;
    }
    return &storage_;
  }
  void Pop(size_t count) {
    taken_ += count;
    if (taken_ == storage_.size()) Clear();
  }
  // Drops what lies behind the first `count` bytes.
  void Truncate(size_t count) {
    storage_.resize(taken_ + count);
    Pop(0);
  }
  void Clear() {
    storage_.clear();
    taken_ = 0;
  }

 private:
  std::vector<uint8_t> storage_;
  size_t taken_ = 0;
};

}  // namespace virt_reclaim::link

#endif  // VIRT_RECLAIM_PROTO_LINK_BYTE_QUEUE_H_
