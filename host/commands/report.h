// `virt-reclaim report`: what every disk occupies, what its guest uses of it, and what could come
// back. Reads no disk contents.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_REPORT_H_
#define VIRT_RECLAIM_HOST_COMMANDS_REPORT_H_

#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "host/commands/collect.h"
#include "host/commands/unfinished_copies.h"
#include "host/model/assessment.h"
#include "host/model/outcome.h"
#include "host/model/trim_record.h"

namespace virt_reclaim {

struct ReportOptions {
  std::vector<std::string> domains;  // empty: all
  absl::Duration agent_timeout = absl::Seconds(2);
  bool exact = false;  // compare the guests' free maps with what the images occupy
  // The policy in whose directories of backups unfinished copies are looked for, when all domains
  // are reported; empty: nowhere.
  std::string config = {};
  bool config_must_exist = false;
};

struct ReportedDisk {
  DiskFacts facts;
  Assessment assessment;
  std::optional<int64_t> grown_since_trim;  // allocation now minus that after the last trim
};

struct ReportedDomain {
  DomainSummary summary;
  std::vector<ReportedDisk> disks;
  std::optional<Blocker>
      agent;        // why the guest's use is not known; empty: it is, or nobody could know (off)
  Outcome outcome;  // failed: the domain could not be examined
  std::optional<TrimRecord> last_trim;  // absent: none is remembered
  absl::Duration since_trim = absl::ZeroDuration();
};

// Sums over what is known; an image that several disks share counts once, in `allocation` wherever
// it is in a chain, in `reclaimable` where it is on top, since only that gives back.
struct ReportTotal {
  uint64_t capacity = 0, allocation = 0, guest_used = 0, reclaimable = 0;
  size_t disks = 0;
  size_t disks_with_guest = 0;  // how many disks guest_used and reclaimable speak of
  size_t disks_exact = 0;       // of these: how many by their free maps
};

struct Report {
  std::vector<ReportedDomain> domains;  // the most to be had first
  ReportTotal total;
  std::optional<UnfinishedCopies> copies;  // absent: not looked for
};

absl::StatusOr<Report> MakeReport(const Services& services, const ReportOptions& options,
                                  const std::stop_token& stop);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_REPORT_H_
