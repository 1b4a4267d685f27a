#include "host/commands/domain_turn.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace virt_reclaim {
namespace {

constexpr absl::Duration kTryAgain = absl::Milliseconds(50);
// An agent that greets after 2 s and lists its filesystems after 10 (collect.h) is still waited
// for.
constexpr absl::Duration kLookPatience = absl::Seconds(15);

}  // namespace

absl::StatusOr<DomainLock> LockDomain(const Services& services, const std::string& uuid,
                                      DomainLock::Use use, const std::stop_token& stop) {
  const absl::Time limit = services.now() + kLookPatience;
  while (true) {
    auto lock = DomainLock::Take(services.lock_directory, uuid, use);
    if (!absl::IsUnavailable(lock.status())) return lock;
    if (stop.stop_requested()) return absl::CancelledError("interrupted");
    if (services.now() >= limit) return absl::AbortedError(lock.status().message());
    services.sleep(kTryAgain);
  }
}

}  // namespace virt_reclaim
