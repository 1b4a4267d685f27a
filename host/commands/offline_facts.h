// What is to be known of a guest that is off, from its disks. Reads the world, changes nothing.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_OFFLINE_FACTS_H_
#define VIRT_RECLAIM_HOST_COMMANDS_OFFLINE_FACTS_H_

#include <stop_token>

#include "absl/status/status.h"
#include "host/commands/services.h"
#include "host/model/migration_judge.h"

namespace virt_reclaim {

// Sets `facts.guest` or, with the reason, `facts.guest_unknown`, for a domain whose definition is
// `facts.saved`. `locked`: the caller holds the domain's lock. Takes half a minute. Cancelled is
// the only error: whatever else goes wrong leaves the guest unknown.
absl::Status ReadOfflineFacts(const Services& services, const DomainSummary& domain, bool locked,
                              const std::stop_token& stop, MigrationFacts& facts);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_OFFLINE_FACTS_H_
