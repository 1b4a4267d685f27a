#include "host/commands/report.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/escape.h"
#include "base/status.h"
#include "host/services/trim_history.h"

namespace virt_reclaim {
namespace {

constexpr size_t kAgentThreads = 8;  // they only wait; one silent guest must not hold up the others

// The last trim, and what the images have grown by since.
void AddHistory(const Services& services, ReportedDomain& domain) {
  const std::vector<TrimRecord> trims =
      TrimHistory(services.state_directory, services.hypervisor.Uri()).Read(domain.summary.uuid);
  if (trims.empty()) return;
  domain.last_trim = trims.back();
  domain.since_trim = services.now() - domain.last_trim->began;
  for (ReportedDisk& disk : domain.disks) {
    for (const TrimRecordDisk& then : domain.last_trim->disks) {
      const bool same = then.target == disk.facts.xml.target &&
                        then.image == Printable(disk.facts.xml.source.path);
      if (same && then.allocation && disk.facts.usage.allocation)
        disk.grown_since_trim = static_cast<int64_t>(*disk.facts.usage.allocation) -
                                static_cast<int64_t>(*then.allocation);
    }
  }
}

ReportedDomain ReportDomain(const Services& services, const DomainSummary& summary,
                            const ReportOptions& options, const std::stop_token& stop) {
  ReportedDomain reported;
  reported.summary = summary;
  auto facts = CollectDomain(services, summary);
  if (!facts.ok()) {
    reported.outcome.kind = OutcomeKind::kFailed;
    reported.outcome.error = facts.status();
    return reported;
  }
  if (facts->disks.empty()) reported.outcome.reasons.push_back({Reason::kNoDisks, ""});
  reported.agent =
      AskGuestUse(services, *facts, options.exact ? GuestUse::kExact : GuestUse::kCheap,
                  options.agent_timeout, stop);
  for (DiskFacts& disk : facts->disks) {
    Assessment assessment = Assess(facts->live, disk);
    reported.disks.push_back({std::move(disk), std::move(assessment), std::nullopt});
  }
  AddHistory(services, reported);
  return reported;
}

ReportTotal Sum(const std::vector<ReportedDomain>& domains) {
  ReportTotal total;
  std::set<std::pair<uint64_t, uint64_t>> seen;
  for (const ReportedDomain& domain : domains) {
    for (const ReportedDisk& disk : domain.disks) {
      if (IsOther(disk.facts.xml)) continue;
      ++total.disks;
      total.capacity += disk.facts.usage.capacity.value_or(0);
      if (disk.facts.chain.empty()) total.allocation += disk.facts.usage.allocation.value_or(0);
      for (const ImageFile& file : disk.facts.chain) {
        if (seen.insert({file.device, file.inode}).second)
          total.allocation += file.usage.allocation.value_or(0);
      }
      if (disk.facts.guest) {
        ++total.disks_with_guest;
        total.guest_used += disk.facts.guest->used;
        if (disk.assessment.from == ReclaimableFrom::kFreeMap) ++total.disks_exact;
        total.reclaimable += disk.assessment.reclaimable.value_or(0);
      }
    }
  }
  return total;
}

// What could come back from a domain; below everything when that is not known.
int64_t GainOf(const ReportedDomain& domain) {
  int64_t gain = -1;
  for (const ReportedDisk& disk : domain.disks) {
    if (IsOther(disk.facts.xml) || !disk.assessment.reclaimable) continue;
    gain = std::max<int64_t>(gain, 0) + static_cast<int64_t>(*disk.assessment.reclaimable);
  }
  return gain;
}

}  // namespace

absl::StatusOr<Report> MakeReport(const Services& services, const ReportOptions& options,
                                  const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const std::vector<DomainSummary> selected,
                      SelectDomains(services.hypervisor, options.domains));
  Report report;
  report.domains.resize(selected.size());
  ForEachInParallel(selected.size(), kAgentThreads, [&](size_t i) {
    if (!stop.stop_requested())
      report.domains[i] = ReportDomain(services, selected[i], options, stop);
  });
  if (stop.stop_requested()) return absl::CancelledError("interrupted");
  report.total = Sum(report.domains);
  std::stable_sort(
      report.domains.begin(), report.domains.end(),
      [](const ReportedDomain& a, const ReportedDomain& b) { return GainOf(a) > GainOf(b); });
  return report;
}

}  // namespace virt_reclaim
