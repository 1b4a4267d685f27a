// Which of the domain's disks is the guest's "sda"? Answered by the bus address the guest sees;
// where it tells only a part of one, by that with a serial number that no other disk has; never by
// a name or a serial number alone. Needs no trust: a guest that lies spoils only its own report.
// Pure.
#ifndef VIRT_RECLAIM_HOST_MODEL_GUEST_DISKS_H_
#define VIRT_RECLAIM_HOST_MODEL_GUEST_DISKS_H_

#include <cstdint>
#include <map>
#include <string>

#include "host/model/facts.h"

namespace virt_reclaim {

// Guest kernel name -> target of the domain's disk ("sda" -> "vdb"). Disks that cannot be told are
// left out. `domain` is the live XML: only that has all addresses.
std::map<std::string, std::string> MatchGuestDisks(const xml::Domain& domain,
                                                   const GuestFacts& guest);

// For an agent that does not tell the whole way to a disk: when `disk` is all that the domain has,
// and all that the guest speaks of is one disk that may be there, it is that one. Adds to
// `matches`.
void MatchOnlyDisk(const xml::Domain& domain, const xml::Disk& disk, const GuestFacts& guest,
                   std::map<std::string, std::string>& matches);

// Whether the guest sees `device` at an address of the domain's disks; else its serial number had
// to help, and a clone may have the same.
bool HasAddressOfADisk(const xml::Domain& domain, const GuestDevice& device);

// Per target, what the guest's mounted filesystems use of it.
std::map<std::string, GuestDiskUse> GuestUseByTarget(
    const std::map<std::string, std::string>& guest_to_target, const GuestFacts& guest);

// The smallest piece that the guest's kernel discards of the disk `target`, in bytes; 0: not known.
uint64_t DiscardUnitOf(const std::map<std::string, std::string>& guest_to_target,
                       const GuestFacts& guest, const std::string& target);

// Kernel names of the disks below a filesystem.
std::vector<std::string> DisksOf(const GuestFilesystem& filesystem);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_GUEST_DISKS_H_
