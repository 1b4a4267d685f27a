#include "guest-agent/stop_limit.h"

#include <unistd.h>

namespace virt_reclaim::agent {

StopLimit::StopLimit(const std::stop_token& stop, std::chrono::milliseconds limit)
    : stop_(stop),
      wake_(stop, [this] { Notify(); }),
      waiter_([this, limit](const std::stop_token& over) { Wait(over, limit); }) {}

void StopLimit::Notify() {
  { const std::lock_guard lock(mutex_); }
  changed_.notify_all();
}

void StopLimit::Wait(const std::stop_token& over, std::chrono::milliseconds limit) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, over, [this] { return stop_.stop_requested(); });
  if (over.stop_requested()) return;
  changed_.wait_for(lock, over, limit, [] { return false; });
  if (!over.stop_requested()) _exit(0);
}

}  // namespace virt_reclaim::agent
