// A watchdog for calls that may never return and cannot be cancelled, such as libvirt's to
// qemu-guest-agent: each runs on a thread of its own, which is left behind when the time is up.
#ifndef VIRT_RECLAIM_HOST_SERVICES_CALL_WATCHDOG_H_
#define VIRT_RECLAIM_HOST_SERVICES_CALL_WATCHDOG_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace virt_reclaim {

// Any thread. What was left behind outlives it and harms nobody.
class CallWatchdog {
 public:
  // `whose`: who is called, for messages. With `most_left_behind` calls that have not returned yet
  // no further one is begun: each has a thread and what it works with. `look`: how often Run looks
  // whether it is worth waiting on.
  CallWatchdog(std::string whose, size_t most_left_behind, absl::Duration look);

  // The value of `call`, which must own all that it uses; it is destroyed where it ran, once it has
  // returned. Does not throw, nor may `call`. `goes_on` is asked on the calling thread while the
  // answer is waited for. DeadlineExceeded: no answer within `limit`; Cancelled: a stop; what
  // `goes_on` says; ResourceExhausted: too many were left behind, or there is no thread to be had.
  absl::StatusOr<std::string> Run(std::function<absl::StatusOr<std::string>()> call,
                                  absl::Duration limit,
                                  const std::function<absl::Status()>& goes_on,
                                  const std::stop_token& stop);

  // Calls that nobody waits for any more and that have not returned.
  size_t left_behind() const;

 private:
  struct Shared;
  struct Call;
  static void LeaveBehind(Call& call);

  const std::string whose_;
  const size_t most_left_behind_;
  const absl::Duration look_;
  const std::shared_ptr<Shared> shared_;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_CALL_WATCHDOG_H_
