// Questions that libvirt passes on to a domain's QEMU, each with a limit: a QEMU that hangs (its
// image lies on a dead NFS server) never answers, and libvirt waits for it without end.
#ifndef VIRT_RECLAIM_HOST_SERVICES_MONITOR_CALLS_H_
#define VIRT_RECLAIM_HOST_SERVICES_MONITOR_CALLS_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "host/services/call_watchdog.h"

namespace virt_reclaim {

// Any thread. What was left behind outlives it and harms nobody.
class MonitorCalls {
 public:
  MonitorCalls();

  // The value of `question`, which must own all that it uses: it runs on a thread of its own, which
  // is left behind when `limit` is over. DeadlineExceeded: no answer within `limit`, or, at once,
  // another question to the domain `uuid` has outlived its own limit and not returned yet;
  // ResourceExhausted: too many have not.
  template <typename T>
  absl::StatusOr<T> Ask(const std::string& uuid, absl::Duration limit,
                        std::function<absl::StatusOr<T>()> question) {
    const auto value = std::make_shared<std::optional<T>>();
    const absl::Status status =
        Run(uuid, limit, [value, question = std::move(question)]() -> absl::Status {
          absl::StatusOr<T> answer = question();
          if (!answer.ok()) return answer.status();
          *value = *std::move(answer);
          return absl::OkStatus();
        });
    if (!status.ok()) return status;
    return **std::move(value);
  }

 private:
  struct UnderWay {
    std::string uuid;
    std::chrono::steady_clock::time_point limit;
  };
  // Also of the threads that are left behind.
  struct Shared {
    std::mutex mutex;
    uint64_t next = 0;
    std::map<uint64_t, UnderWay> calls;
  };

  absl::Status Run(const std::string& uuid, absl::Duration limit,
                   std::function<absl::Status()> question);
  absl::StatusOr<uint64_t> Begin(const std::string& uuid, absl::Duration limit);
  static void End(Shared& shared, uint64_t number);

  CallWatchdog watchdog_;
  const std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_MONITOR_CALLS_H_
