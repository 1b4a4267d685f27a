#include "host/services/call_watchdog.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"

namespace virt_reclaim {
namespace {

using std::chrono::steady_clock;

}  // namespace

// Also of the threads that are left behind.
struct CallWatchdog::Shared {
  std::mutex mutex;
  size_t left_behind = 0;
};

// Of one thread and whoever waits for it; the mutex is that of Shared.
struct CallWatchdog::Call {
  explicit Call(std::shared_ptr<Shared> of) : shared(std::move(of)) {}
  const std::shared_ptr<Shared> shared;
  std::condition_variable_any done;
  std::optional<absl::StatusOr<std::string>> answer;
  bool left_behind = false;
};

CallWatchdog::CallWatchdog(std::string whose, size_t most_left_behind, absl::Duration look)
    : whose_(std::move(whose)),
      most_left_behind_(most_left_behind),
      look_(look),
      shared_(std::make_shared<Shared>()) {}

size_t CallWatchdog::left_behind() const {
  const std::lock_guard lock(shared_->mutex);
  return shared_->left_behind;
}

// The mutex is held.
void CallWatchdog::LeaveBehind(Call& call) {
  call.left_behind = true;
  ++call.shared->left_behind;
}

absl::StatusOr<std::string> CallWatchdog::Run(std::function<absl::StatusOr<std::string>()> call,
                                              absl::Duration limit,
                                              const std::function<absl::Status()>& goes_on,
                                              const std::stop_token& stop) {
  if (const size_t left = left_behind(); left >= most_left_behind_) {
    return absl::ResourceExhaustedError(
        absl::StrCat(whose_, ": ", left, " calls before this one have not returned"));
  }
  const auto shared = std::make_shared<Call>(shared_);
  try {
    std::thread([shared, call = std::move(call)]() mutable {
      auto answer = call();
      call = nullptr;  // before anybody can know that it is over
      const std::lock_guard lock(shared->shared->mutex);
      if (shared->left_behind) --shared->shared->left_behind;
      shared->answer = std::move(answer);
      shared->done.notify_all();
    }).detach();
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(absl::StrCat(whose_, ": begin a thread: ", error.what()));
  }

  const auto end = steady_clock::now() + absl::ToChronoNanoseconds(limit);
  std::unique_lock lock(shared_->mutex);
  while (!shared->answer) {
    const auto next = std::min(end, steady_clock::now() + absl::ToChronoNanoseconds(look_));
    if (shared->done.wait_until(lock, stop, next, [&] { return shared->answer.has_value(); }))
      break;
    lock.unlock();
    absl::Status status = absl::OkStatus();
    if (stop.stop_requested()) {
      status = absl::CancelledError(absl::StrCat(whose_, ": interrupted"));
    } else if (status = goes_on(); status.ok() && steady_clock::now() >= end) {
      status = absl::DeadlineExceededError(
          absl::StrCat(whose_, ": no answer within ", absl::FormatDuration(limit)));
    }
    lock.lock();
    if (status.ok() || shared->answer) continue;
    LeaveBehind(*shared);
    return status;
  }
  return *std::move(shared->answer);
}

}  // namespace virt_reclaim
