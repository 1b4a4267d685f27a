#include "host/commands/report.h"

#include <set>
#include <utility>

#include "base/status.h"
#include "host/model/guest_disks.h"

namespace virt_reclaim {
namespace {

constexpr size_t kAgentThreads = 8;  // they only wait; one silent guest must not hold up the others

absl::StatusOr<GuestFacts> AskGuest(const Services& services, const DomainFacts& domain,
                                    const ReportOptions& options, const std::stop_token& stop,
                                    std::optional<Blocker>& blocker) {
  AgentAccess access = OpenAgent(services, domain, options.agent_timeout, stop);
  if (!access.session) {
    // A domain that is off has no agent to blame.
    if (access.blocker->reason != Reason::kNotRunning) blocker = access.blocker;
    return absl::UnavailableError("");
  }
  GuestFacts facts;
  auto filesystems = access.session->agent->ListFilesystems(options.agent_timeout, stop);
  if (!filesystems.ok()) {
    blocker = AgentBlocker(filesystems.status());
    return filesystems.status();
  }
  facts.filesystems = *std::move(filesystems);
  return facts;
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
  auto guest = AskGuest(services, *facts, options, stop, reported.agent);
  std::map<std::string, GuestDiskUse> use;
  if (guest.ok()) use = GuestUseByTarget(MatchGuestDisks(facts->live, *guest), *guest);
  for (DiskFacts& disk : facts->disks) {
    if (const auto found = use.find(disk.xml.target); found != use.end())
      disk.guest = found->second;
    Assessment assessment = Assess(facts->live, disk);
    reported.disks.push_back({std::move(disk), std::move(assessment)});
  }
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
        total.reclaimable += disk.assessment.reclaimable.value_or(0);
      }
    }
  }
  return total;
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
  return report;
}

}  // namespace virt_reclaim
