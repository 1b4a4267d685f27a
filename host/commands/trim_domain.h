// The trim of one domain: session, measurement before, trim in the guest, measurement after,
// judgement. Called by trim.cc, for several domains at a time on threads of their own.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_TRIM_DOMAIN_H_
#define VIRT_RECLAIM_HOST_COMMANDS_TRIM_DOMAIN_H_

#include <stop_token>

#include "absl/time/time.h"
#include "host/commands/trim.h"

namespace virt_reclaim {

// `end`: when the time for all trims is over; the one under way then stops after the piece it is
// at, and keeps what it freed. What forbids a trim is looked for again first.
TrimmedDomain TrimDomain(const Services& services, const TrimOptions& options,
                         const TrimAction& action, absl::Time end, const TrimProgress& progress,
                         const std::stop_token& stop);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_TRIM_DOMAIN_H_
