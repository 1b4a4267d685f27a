// Whose turn it is on a domain: one virt-reclaim at a time (domain_lock.h). Who works on it may
// take hours, and a second one hears 'busy' at once. Who only looks is done in seconds, and is
// waited for: metrics are collected every few minutes, and no trim is left out for that.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_DOMAIN_TURN_H_
#define VIRT_RECLAIM_HOST_COMMANDS_DOMAIN_TURN_H_

#include <stop_token>
#include <string>

#include "absl/status/statusor.h"
#include "host/commands/services.h"
#include "host/services/domain_lock.h"

namespace virt_reclaim {

// The domain's lock; waits on the calling thread while another only looks at the domain, 15 s at
// most. Aborted: another works on it, or looks at it for longer. Cancelled after a stop request
// while it waits; others: there can be no lock.
absl::StatusOr<DomainLock> LockDomain(const Services& services, const std::string& uuid,
                                      DomainLock::Use use, const std::stop_token& stop);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_DOMAIN_TURN_H_
