#include "host/services/monitor_calls.h"

namespace virt_reclaim {
namespace {

using std::chrono::steady_clock;

// Each is a thread. One of a domain that hangs is enough to leave that domain alone.
constexpr size_t kMostUnanswered = 256;
constexpr char kWhose[] = "QEMU's monitor";

}  // namespace

MonitorCalls::MonitorCalls() : watchdog_(kWhose, kMostUnanswered, absl::Seconds(1)) {}

absl::StatusOr<uint64_t> MonitorCalls::Begin(const std::string& uuid, absl::Duration limit) {
  const auto now = steady_clock::now();
  const std::lock_guard lock(shared_->mutex);
  for (const auto& [number, call] : shared_->calls) {
    if (call.uuid == uuid && call.limit <= now)
      return absl::DeadlineExceededError(std::string(kWhose) +
                                         ": the question before this one is not answered yet");
  }
  shared_->calls[shared_->next] = {uuid, now + absl::ToChronoNanoseconds(limit)};
  return shared_->next++;
}

void MonitorCalls::End(Shared& shared, uint64_t number) {
  const std::lock_guard lock(shared.mutex);
  shared.calls.erase(number);
}

absl::Status MonitorCalls::Run(const std::string& uuid, absl::Duration limit,
                               std::function<absl::Status()> question) {
  const auto number = Begin(uuid, limit);
  if (!number.ok()) return number.status();
  const absl::StatusOr<std::string> answer = watchdog_.Run(
      [shared = shared_, number = *number,
       question = std::move(question)]() -> absl::StatusOr<std::string> {
        const absl::Status status = question();
        End(*shared, number);
        if (!status.ok()) return status;
        return std::string();
      },
      limit, [] { return absl::OkStatus(); }, {});
  if (absl::IsResourceExhausted(answer.status())) End(*shared_, *number);  // it never began
  return answer.status();
}

}  // namespace virt_reclaim
