// `virt-reclaim trim`: running guests trim their filesystems, and the host measures what it got
// back.
//
// Freed is the sum over every image of a disk's backing chain of st_blocks * 512, before minus
// after. The measurement waits for the storage to settle: it is repeated until nothing has changed
// for a part of what the trim took (QuietAfter), for at most 30 s. With most guests QEMU has
// punched all holes when FITRIM returns; XFS of newer kernels returns while its discards are still
// under way (measured with Linux 6.18: a quarter of them).
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
#include "host/commands/trim_schedule.h"
#include "host/commands/trim_way.h"
#include "host/model/daily_window.h"
#include "host/model/outcome.h"
#include "host/model/threshold.h"
#include "host/model/trim_pace.h"
#include "host/model/trim_record.h"

namespace virt_reclaim {

struct TrimOptions {
  std::vector<std::string> domains;  // empty: all running ones
  GuestTrimOptions guest;
  absl::Duration timeout = absl::Minutes(30);  // wall clock, per domain
  absl::Duration agent_timeout = absl::Seconds(2);
  std::optional<TrimWay> way;  // empty: the agent, else qemu-guest-agent
  std::string storage;         // only domains with an image there (ImageStore::LiesOn)
  // How much must be reclaimable in a domain, by estimate; percent: of the capacity of its disks.
  std::optional<Threshold> threshold;
  std::optional<uint64_t> min_freed;  // bytes that the guest must have freed since its last trim
  // Trims at once on one storage, those of other programs on this host included; a trim waits for
  // that as long as `timeout`. The first trim of a domain that is remembered is alone there.
  size_t per_storage = 1;
  std::optional<DailyWindow> window;  // local time
  // Chunk and pauses by what a punch costs; else those of `guest` as they are.
  bool paced = true;
  bool gentle = false;                         // with `paced`: no other I/O is to notice
  std::optional<absl::Duration> max_duration;  // of all trims together
  bool estimate = false;                       // the plan asks the guests what is to be had
  // Told of each domain's first trim right before it begins: what it may bring, when that is known.
  // From several threads. May be empty.
  std::function<void(const DomainSummary&, std::optional<uint64_t> expected)> first_begins;
  // Told of each domain that has to wait since other programs trim on its storage, once. From
  // several threads. May be empty.
  std::function<void(const DomainSummary&)> waits;
};

// The plan for one domain: trim it, or why not.
struct TrimAction {
  DomainSummary domain;
  bool asked_for = false;      // named, not only matched
  std::optional<TrimWay> way;  // as planned; may turn out to be another
  Storages storages;
  std::optional<uint64_t> expected;        // estimate; absent: not known
  std::optional<uint64_t> room;            // with `estimate`: bytes, on its fullest storage
  std::optional<TrimRecord> last;          // its last trim; absent: none is remembered
  absl::Time turn = absl::InfinitePast();  // of its last trim that was complete, or failed
  std::vector<Blocker> blockers;           // not empty: the domain is skipped
  absl::Status error;                      // not OK: it could not be examined
};

struct TrimmedDisk {
  std::string target;
  std::string image;  // path of the top image; empty: none
  std::optional<uint64_t>
      trimmed;           // the guest's word; absent: no filesystem of the guest was found on it
  bool in_part = false;  // not all of its filesystems were gone through
  bool guest_not_supported = false;  // the guest said that the disk takes no discards
  std::optional<int64_t> freed;      // measured; absent: cannot be measured
  std::optional<uint64_t> allocation_before, allocation_after;
  std::optional<uint64_t> written;  // by the guest meanwhile, bytes; absent: not known
  std::vector<Blocker> reasons;     // why nothing was freed, or what drops discards beside that
};

struct TrimmedDomain {
  DomainSummary domain;
  Outcome outcome;
  std::vector<TrimmedDisk> disks;
  std::vector<GuestTrim> filesystems;
  std::optional<uint64_t> expected;  // estimate of before; absent: not known
  uint64_t trimmed = 0;
  std::optional<int64_t> freed;
  absl::Duration took = absl::ZeroDuration();
  absl::Status remembered;                   // not OK: the history could not be written
  std::optional<TrimWay> way;                // absent: no agent was asked
  std::optional<absl::Duration> punch_cost;  // per MiB, of its slowest storage; absent: not known
  std::optional<TrimPace> pace;              // absent: not paced
};

// One trim of several that are done together; both live until all are done.
struct TrimJob {
  const TrimOptions* options;
  const TrimAction* action;
};

using TrimProgress = std::function<void(const DomainSummary&, const GuestTrimProgress&)>;

// A domain, and what was found of it just now; absent: it is still to be looked at.
struct TrimCandidate {
  DomainSummary domain;
  std::optional<DomainFacts> facts;
};

// The plan for these, which nobody named; `domains` of the options does not count.
absl::StatusOr<std::vector<TrimAction>> PlanTrimOf(const Services& services,
                                                   const TrimOptions& options,
                                                   const std::vector<TrimCandidate>& candidates,
                                                   const std::stop_token& stop);

// Where there may be no time for all (a window, a limit), whoever waits longest comes first.
absl::StatusOr<std::vector<TrimAction>> PlanTrim(const Services& services,
                                                 const TrimOptions& options,
                                                 const std::stop_token& stop);

// Domains on different storages side by side, never more than `per_storage` on one, and a first
// trim alone; a bad one is an outcome, not an end, but one that meets trouble stops its storages,
// with what runs there. After a stop request the rest is cancelled. `progress` may be called from
// several threads. Results are in the order of `plan`.
std::vector<TrimmedDomain> ExecuteTrim(const Services& services, const TrimOptions& options,
                                       const std::vector<TrimAction>& plan,
                                       const TrimProgress& progress, const std::stop_token& stop);

// The same of trims with options of their own, in their order: one whose window opens while others
// are at work has its turn then. After `end` nothing is begun, and what runs stops after its piece;
// `max_duration` of the options does not count. Of trims on one storage the least `per_storage`
// counts.
std::vector<TrimmedDomain> ExecuteTrims(const Services& services, const std::vector<TrimJob>& jobs,
                                        absl::Time end, const TrimProgress& progress,
                                        const std::stop_token& stop);

// Whose last trim is longer ago: first where there may be no time for all.
bool WaitsLonger(const TrimAction& a, const TrimAction& b);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_TRIM_H_
