// What the guest itself has to say about its migration: when it is planned, and once more before
// the power cycle, which may be days later: it may have another kernel by then, or another disk.
// Reads only; any thread.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_MIGRATION_GUEST_H_
#define VIRT_RECLAIM_HOST_COMMANDS_MIGRATION_GUEST_H_

#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "host/commands/collect.h"
#include "host/model/migration_judge.h"
#include "host/services/migration_store.h"

namespace virt_reclaim {

// Into `facts`, of which `live` is known: what the agent of a running guest says, or why there is
// nothing known of it. `locked`: the caller holds the domain's lock.
void AskGuest(const Services& services, const DomainSummary& domain, bool locked,
              const std::stop_token& stop, MigrationFacts& facts);

// How often each bus is there.
std::multiset<std::string> BusesOf(const xml::Domain& domain);

// A disk that the running domain would lose by a power cycle under the definition `to`.
std::optional<Blocker> DiskLost(const xml::Domain& live, const xml::Domain& to);

// What speaks against the power cycle of a running domain that puts `migration` into force, now.
struct PowerCycleCheck {
  std::vector<Blocker> blockers;
  bool answered = false;  // they are what is known, and not only that the guest says nothing
};
// Its guest is asked when disks change their bus: kGuestUnknown when it says nothing. What runs by
// now is compared in any case: no disk may get lost, and a rollback must lead back to it.
absl::StatusOr<PowerCycleCheck> CheckPowerCycle(const Services& services,
                                                const DomainSummary& domain,
                                                const StoredMigration& migration, bool locked,
                                                const std::stop_token& stop);

// What speaks against going back to the definition `old`, now: when disks are on another bus there
// than in `here`, the definition it runs with or, of one that is off, the saved one, the guest is
// asked, if it answers, or its disks. The caller holds the domain's lock.
std::vector<Blocker> CheckMoveBack(const Services& services, const DomainSummary& domain,
                                   const xml::Domain& here, const xml::Domain& old,
                                   const std::stop_token& stop);

// "initramfs-lacks-driver (virtio_scsi for kernel 6.1.0-33-amd64)", and how many more there are.
std::string BlockersText(const std::vector<Blocker>& blockers);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_MIGRATION_GUEST_H_
