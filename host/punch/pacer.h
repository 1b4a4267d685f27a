// Keeps a run below a rate.
#ifndef VIRT_RECLAIM_HOST_PUNCH_PACER_H_
#define VIRT_RECLAIM_HOST_PUNCH_PACER_H_

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <stop_token>

namespace virt_reclaim::punch {

using SteadyClock = std::function<std::chrono::steady_clock::time_point()>;

// Sleeps as long as `bytes` since the start are ahead of the allowed rate (bytes a second; 0:
// none), or until `wanted` says that somebody waits for us. `clock` outlives the pacer. One thread.
class Pacer {
 public:
  Pacer(const SteadyClock& clock, uint64_t bytes_per_second)
      : clock_(clock), rate_(bytes_per_second), start_(clock()) {}

  void Wait(uint64_t bytes, const std::stop_token& stop, const std::function<bool()>& wanted) {
    if (rate_ == 0) return;
    const std::chrono::duration<double> due(static_cast<double>(bytes) /
                                            static_cast<double>(rate_));
    std::unique_lock lock(mutex_);
    while (!stop.stop_requested() && !wanted()) {
      const std::chrono::duration<double> ahead = start_ + due - clock_();
      if (ahead.count() <= 0) return;
      never_.wait_for(lock, stop, std::min<std::chrono::duration<double>>(ahead, kSlice),
                      [] { return false; });
    }
  }

 private:
  static constexpr std::chrono::milliseconds kSlice{100};

  const SteadyClock& clock_;
  uint64_t rate_;
  std::chrono::steady_clock::time_point start_;
  std::mutex mutex_;
  std::condition_variable_any never_;
};

}  // namespace virt_reclaim::punch

#endif  // VIRT_RECLAIM_HOST_PUNCH_PACER_H_
