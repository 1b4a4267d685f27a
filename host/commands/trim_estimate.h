// What a disk occupies, what a trim would bring, and whether that is enough. Any thread.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_TRIM_ESTIMATE_H_
#define VIRT_RECLAIM_HOST_COMMANDS_TRIM_ESTIMATE_H_

#include <cstdint>
#include <optional>

#include "host/commands/trim.h"

namespace virt_reclaim {

// What all files of the disk's chain occupy now, in bytes; libvirt's word where they are not on
// this machine. Errors of either.
absl::StatusOr<uint64_t> Measure(const Services& services, const DomainSummary& domain,
                                 const DiskFacts& disk);

// Not of a block device, whose size libvirt would tell.
bool CanBeMeasured(const DiskFacts& disk);

// What a trim would bring, by estimate, over the disks of which it is known; absent: of none.
std::optional<uint64_t> ExpectedOf(const DomainFacts& facts);

// Why --threshold leaves the domain out; empty also when it is not known how much there is.
std::optional<Blocker> BelowThreshold(const DomainFacts& facts, const TrimOptions& options);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_TRIM_ESTIMATE_H_
