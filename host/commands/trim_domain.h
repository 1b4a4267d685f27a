// The trim of one domain: session, measurement before, trim in the guest, measurement after,
// judgement. Called by trim.cc, for several domains at a time on threads of their own.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_TRIM_DOMAIN_H_
#define VIRT_RECLAIM_HOST_COMMANDS_TRIM_DOMAIN_H_

#include <functional>
#include <stop_token>

#include "absl/time/time.h"
#include "host/commands/punch_costs.h"
#include "host/commands/trim.h"
#include "host/commands/trim_estimate.h"

namespace virt_reclaim {

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
