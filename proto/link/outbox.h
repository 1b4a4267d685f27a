// Encoded frames on their way to the port. Knows the borders of frames: when a session ends, its
// frames are dropped, but one that is partly written goes out whole, or the other end would see a
// damaged frame instead of the BYE behind it. One thread.
#ifndef VIRT_RECLAIM_PROTO_LINK_OUTBOX_H_
#define VIRT_RECLAIM_PROTO_LINK_OUTBOX_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>

#include "proto/link/byte_queue.h"
#include "proto/link/frame.h"

namespace virt_reclaim::link {

class Outbox {
 public:
  void Append(const Frame& frame);
  std::span<const uint8_t> bytes() const { return queue_.bytes(); }
  size_t size() const { return queue_.size(); }
  void Pop(size_t count);
  void DropUnstarted();
  void Clear();

 private:
  ByteQueue queue_;
  std::deque<size_t> frames_;  // bytes left of each frame in queue_
  bool started_ = false;       // a part of the first one is popped
};

}  // namespace virt_reclaim::link

#endif  // VIRT_RECLAIM_PROTO_LINK_OUTBOX_H_
