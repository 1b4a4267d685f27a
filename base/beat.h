// Something done once a period on a thread of its own, as long as it is needed.
#ifndef VIRT_RECLAIM_BASE_BEAT_H_
#define VIRT_RECLAIM_BASE_BEAT_H_

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace virt_reclaim {

// Ends with its destructor, which waits for a call under way and for no more.
class Beat {
 public:
  virtual ~Beat() = default;
};

// Calls `call` a `period` from now, and again a period after each return of it, which must not
// throw. ResourceExhausted: there is no thread to be had.
absl::StatusOr<std::unique_ptr<Beat>> StartBeat(absl::Duration period, std::function<void()> call);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_BASE_BEAT_H_
