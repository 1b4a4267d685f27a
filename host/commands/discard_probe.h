// Do discards of a guest reach the host? Proved end to end, for each disk: the agent writes a
// marker into a filesystem, deletes it and trims it, and the host must get it back. Of a raw image,
// where the guest can tell where its marker lies, that very place must become a hole, whatever else
// is discarded meanwhile; else the allocation of the disk's images must fall by 90 % of it, twice.
// Writes to the guest's filesystem, a file of its own, and takes
// it away again.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_DISCARD_PROBE_H_
#define VIRT_RECLAIM_HOST_COMMANDS_DISCARD_PROBE_H_

#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "host/commands/collect.h"
#include "host/commands/file_probe.h"

namespace virt_reclaim {

struct ProbedDisk {
  std::string target;
  std::optional<bool> reaches;         // empty: could not be told, see `detail`
  std::string detail;                  // why not; printable
  std::vector<ProbedFile> files = {};  // of its filesystems in files of the guest
};

struct ProbeOptions {
  // Also disks and filesystems that something is known to keep discards from, so that it is proved.
  bool hopeless = false;
  // Not preallocated images: a marker that comes back has made them thinner. Measured.
  bool spare_thick = false;
  bool files = false;  // also what lies in files of the guest on a disk (file_probe.h)
  std::vector<std::string> targets;  // empty: every disk
};

// Of each disk of `domain` that has discard='unmap', or as `options` say. Never fails as a whole:
// what cannot be told is said per disk. The domain's places on its storages are the caller's
// (storage_turn.h).
std::vector<ProbedDisk> ProbeDiscards(const Services& services, const DomainFacts& domain,
                                      GuestAgent& agent, const ProbeOptions& options,
                                      const std::stop_token& stop);

// What is said of the same disks when no marker could be written: could not be told, and why;
// printable.
std::vector<ProbedDisk> NotProbed(const DomainFacts& domain, const ProbeOptions& options,
                                  const std::string& why);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_DISCARD_PROBE_H_
