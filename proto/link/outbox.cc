#include "proto/link/outbox.h"

namespace virt_reclaim::link {

void Outbox::Append(const Frame& frame) {
  const size_t before = queue_.size();
  AppendFrame(frame, queue_.storage());
  frames_.push_back(queue_.size() - before);
}

void Outbox::Pop(size_t count) {
  queue_.Pop(count);
  while (count > 0) {
    if (count < frames_.front()) {
      frames_.front() -= count;
      started_ = true;
      return;
    }
    count -= frames_.front();
    frames_.pop_front();
    started_ = false;
  }
}

void Outbox::DropUnstarted() {
  if (!started_) return Clear();
  queue_.Truncate(frames_.front());
  frames_.resize(1);
}

void Outbox::Clear() {
  queue_.Clear();
  frames_.clear();
  started_ = false;
}

}  // namespace virt_reclaim::link
