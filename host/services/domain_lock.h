// One virt-reclaim at a time per domain: a lock file under /run/virt-reclaim, so that a second
// program hears 'busy' at once instead of waiting for a channel that is taken (a second client of a
// virtio-serial socket just hangs).
#ifndef VIRT_RECLAIM_HOST_SERVICES_DOMAIN_LOCK_H_
#define VIRT_RECLAIM_HOST_SERVICES_DOMAIN_LOCK_H_

#include <string>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace virt_reclaim {

// Holds the lock until destroyed; the kernel drops it when the process dies. Any thread.
class DomainLock {
 public:
  // What the holder is at, which the file says: kLook is over in seconds.
  enum class Use { kWork, kLook };
  // When another process (or another DomainLock of this one) holds it: Aborted if that one works,
  // Unavailable if it looks. `directory` is made when it does not exist.
  static absl::StatusOr<DomainLock> Take(const std::string& directory, const std::string& uuid,
                                         Use use = Use::kWork);
  // The same to work on an image, by what it is and not by its name. Does not open it.
  static absl::StatusOr<DomainLock> TakeImage(const std::string& directory,
                                              const std::string& path);
  // The same for a job of 'run', by its name: two timers at once must not plan the same twice.
  static absl::StatusOr<DomainLock> TakeJob(const std::string& directory, const std::string& job);

 private:
  static absl::StatusOr<DomainLock> TakeNamed(const std::string& directory, const std::string& name,
                                              const char* what, Use use);
  explicit DomainLock(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_DOMAIN_LOCK_H_
