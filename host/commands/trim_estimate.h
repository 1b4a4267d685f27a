// What a trim of a domain would bring, and whether that is enough. Pure; any thread.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_TRIM_ESTIMATE_H_
#define VIRT_RECLAIM_HOST_COMMANDS_TRIM_ESTIMATE_H_

#include <cstdint>
#include <optional>

#include "host/commands/trim.h"

namespace virt_reclaim {

// What a trim would bring, by estimate, over the disks of which it is known; absent: of none.
std::optional<uint64_t> ExpectedOf(const DomainFacts& facts);

// Why --threshold leaves the domain out; empty also when it is not known how much there is.
std::optional<Blocker> BelowThreshold(const DomainFacts& facts, const TrimOptions& options);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_TRIM_ESTIMATE_H_
