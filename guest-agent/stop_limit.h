// An end to a stop that takes too long.
#ifndef VIRT_RECLAIM_GUEST_AGENT_STOP_LIMIT_H_
#define VIRT_RECLAIM_GUEST_AGENT_STOP_LIMIT_H_

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <stop_token>
#include <thread>

namespace virt_reclaim::agent {

// Ends the process with status 0 when this still exists `limit` after `stop` was requested: gRPC's
// shutdown can hang, and a service manager should not wait for it. Has a thread, which is asleep
// without a timer until there is a stop.
class StopLimit {
 public:
  StopLimit(const std::stop_token& stop, std::chrono::milliseconds limit);
  StopLimit(const StopLimit&) = delete;
  StopLimit& operator=(const StopLimit&) = delete;

 private:
  void Notify();
  void Wait(const std::stop_token& over, std::chrono::milliseconds limit);

  std::mutex mutex_;
  std::condition_variable_any changed_;
  const std::stop_token stop_;
  // Made and destroyed by a thread that does not hold mutex_: what it calls takes it, and its end
  // waits for a call that is under way.
  const std::stop_callback<std::function<void()>> wake_;
  std::jthread waiter_;
};

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_STOP_LIMIT_H_
