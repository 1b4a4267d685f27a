// The trim of one domain: session, measurement before, trim in the guest, measurement after,
// judgement. Called by trim.cc, for several domains at a time on threads of their own.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_TRIM_DOMAIN_H_
#define VIRT_RECLAIM_HOST_COMMANDS_TRIM_DOMAIN_H_

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <stop_token>
#include <vector>

#include "absl/time/time.h"
#include "host/commands/trim.h"

namespace virt_reclaim {

// What a punch costs on each storage, measured when it is first asked for. Any thread.
class PunchCosts {
 public:
  explicit PunchCosts(ImageStore& images) : images_(images) {}
  // Per MiB, of the slowest storage of these disks; empty when that of one is not known.
  std::optional<absl::Duration> Of(const std::vector<DiskFacts>& disks);

 private:
  ImageStore& images_;
  std::mutex mutex_;
  std::map<uint64_t, std::optional<absl::Duration>> known_;  // by st_dev
};

// What a trim would bring, by estimate, over the disks of which it is known; absent: of none.
std::optional<uint64_t> ExpectedOf(const DomainFacts& facts);

// Why --threshold leaves the domain out; empty also when it is not known how much there is.
std::optional<Blocker> BelowThreshold(const DomainFacts& facts, const TrimOptions& options);

// What the trim of a domain has to do with all others of one call.
struct TrimShared {
  // When the time for all trims is over; the one under way then stops after the piece it is at, and
  // keeps what it freed.
  absl::Time end;
  PunchCosts& costs;
  // Called once, as soon as trouble is known: the storages of the domain are to be left alone. On
  // the thread of TrimDomain.
  std::function<void()> on_trouble;
};

// What forbids a trim is looked for again first.
TrimmedDomain TrimDomain(const Services& services, const TrimOptions& options,
                         const TrimAction& action, const TrimShared& shared,
                         const TrimProgress& progress, const std::stop_token& stop);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_TRIM_DOMAIN_H_
