// What a guest has mounted before a power cycle, and is to have again after it. Any thread.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_EXPECTED_MOUNTS_H_
#define VIRT_RECLAIM_HOST_COMMANDS_EXPECTED_MOUNTS_H_

#include <vector>

#include "host/commands/collect.h"
#include "host/model/migration.h"

namespace virt_reclaim {

// What lies on a disk and can be told apart; tmpfs and the like come and go. Each under every place
// it is mounted at.
std::vector<ExpectedMount> MountsOf(const DomainFacts& domain,
                                    std::vector<GuestFilesystem> filesystems);

// Each filesystem, and each subvolume of a btrfs, under one of its places: bind mounts come and go
// with whoever needs them.
std::vector<ExpectedMount> OncePerFilesystem(const std::vector<ExpectedMount>& mounts);

// The first of `expected` that is not among `found`; null: all are. Points into `expected`.
const ExpectedMount* FindMissing(const std::vector<ExpectedMount>& expected,
                                 const std::vector<ExpectedMount>& found);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_EXPECTED_MOUNTS_H_
