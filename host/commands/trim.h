// `virt-reclaim trim`: running guests trim their filesystems, and the host measures what it got
// back.
//
// Freed is the sum over every image of a disk's backing chain of st_blocks * 512, before minus
// after. The measurement waits for the storage to settle: it is repeated until nothing has changed
// for a twentieth of what the trim took (100 ms to 1 s), for at most 30 s. With most guests QEMU
// has punched all holes when FITRIM returns; XFS of newer kernels returns while its discards are
// still under way (measured with Linux 6.18: a quarter of them).
#ifndef VIRT_RECLAIM_HOST_COMMANDS_TRIM_H_
#define VIRT_RECLAIM_HOST_COMMANDS_TRIM_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "host/commands/collect.h"
#include "host/model/outcome.h"

namespace virt_reclaim {

struct TrimOptions {
  std::vector<std::string> domains;  // empty: all running ones
  GuestTrimOptions guest;
  absl::Duration timeout = absl::Minutes(30);  // wall clock, per domain
  absl::Duration agent_timeout = absl::Seconds(2);
};

// The plan for one domain: trim it, or why not.
struct TrimAction {
  DomainSummary domain;
  std::vector<Blocker> blockers;  // not empty: the domain is skipped
  absl::Status error;             // not OK: it could not be examined
};

struct TrimmedDisk {
  std::string target;
  std::string image;  // path of the top image; empty: none
  std::optional<uint64_t>
      trimmed;  // the guest's word; absent: no filesystem of the guest was found on it
  bool guest_not_supported = false;  // the guest said that the disk takes no discards
  std::optional<int64_t> freed;      // measured; absent: cannot be measured
  std::optional<uint64_t> allocation_before, allocation_after;
  std::vector<Blocker> reasons;  // why nothing was freed
};

struct TrimmedDomain {
  DomainSummary domain;
  Outcome outcome;
  std::vector<TrimmedDisk> disks;
  std::vector<GuestTrim> filesystems;
  uint64_t trimmed = 0;
  std::optional<int64_t> freed;
};

using TrimProgress = std::function<void(const DomainSummary&, const GuestTrimProgress&)>;

absl::StatusOr<std::vector<TrimAction>> PlanTrim(const Services& services,
                                                 const TrimOptions& options,
                                                 const std::stop_token& stop);

// One domain after the other; a bad one is an outcome, not an end. After a stop request the rest is
// cancelled.
std::vector<TrimmedDomain> ExecuteTrim(const Services& services, const TrimOptions& options,
                                       const std::vector<TrimAction>& plan,
                                       const TrimProgress& progress, const std::stop_token& stop);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_TRIM_H_
