#include "base/beat.h"

#include <condition_variable>
#include <mutex>
#include <stop_token>
#include <system_error>
#include <thread>
#include <utility>

namespace virt_reclaim {
namespace {

class ThreadBeat : public Beat {
 public:
  ThreadBeat(absl::Duration period, std::function<void()> call)
      : thread_([period = absl::ToChronoMilliseconds(period),
                 call = std::move(call)](const std::stop_token& end) {
          std::mutex mutex;
          std::condition_variable_any ended;
          std::unique_lock lock(mutex);
          while (true) {
            ended.wait_for(lock, end, period, [] { return false; });
            if (end.stop_requested()) return;
            call();
          }
        }) {}

 private:
  std::jthread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Beat>> StartBeat(absl::Duration period, std::function<void()> call) {
  try {
    return std::make_unique<ThreadBeat>(period, std::move(call));
  } catch (const std::system_error&) {
    return absl::ResourceExhaustedError("no thread to be had");
  }
}

}  // namespace virt_reclaim
