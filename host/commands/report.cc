#include "host/commands/report.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <set>
#include <utility>

#include "base/escape.h"
#include "base/status.h"
#include "host/commands/sparsify_images.h"
#include "host/services/trim_history.h"

namespace virt_reclaim {
namespace {

// As long as a silent guest gets.
constexpr std::chrono::seconds kLongestLook{2};

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

// What the free map of a stopped guest's disk says of it. A volume over several disks is not told
// apart here.
void TakeMap(const sparsify::SparsifyResult& found, size_t index, ReportedDisk& disk) {
  GuestDiskUse use;
  uint64_t known = 0;
  bool any = false;
  bool mapped = false;
  for (const sparsify::FilesystemResult& filesystem : found.filesystems) {
    if (filesystem.found.disk != index || filesystem.found.refusal != freemap::Refusal::kNone)
      continue;
    any = true;
    mapped = mapped || filesystem.found.mapped;
    const uint64_t size = filesystem.found.facts.size_bytes;
    use.free += filesystem.found.free_bytes;
    use.used += size - std::min(size, filesystem.found.free_bytes);
    known += size;
  }
  if (!any) return;
  const uint64_t size = found.disks[index].size_bytes;
  use.unknown = size - std::min(size, known);
  use.obstacle = GuestObstacle::kNone;
  if (!mapped) disk.facts.guest = std::move(use);
  disk.facts.free_and_allocated = found.disks[index].reclaimable_bytes;
  disk.assessment.held = disk.facts.free_and_allocated;
  const bool keeps = !disk.facts.chain.empty() && disk.facts.chain.front().internal_snapshots > 0;
  disk.assessment.reclaimable = keeps ? std::nullopt : disk.assessment.held;
  disk.assessment.from = ReclaimableFrom::kFreeMap;
}

// Guests that are off: what sparsify would find on their disks. What it refuses stays unknown.
void ReadStopped(const Services& services, std::vector<ReportedDomain>& domains,
                 const std::stop_token& stop) {
  SparsifyImagesOptions options;
  options.choice = SparsifyEngine::kNative;
  options.allow_thick = options.with_bitmaps = true;  // nothing is written
  std::map<std::string, ReportedDomain*> by_name;
  for (ReportedDomain& domain : domains) {
    if (domain.summary.state != DomainState::kShutOff || domain.disks.empty()) continue;
    options.targets.push_back(domain.summary.uuid);
    by_name[domain.summary.name] = &domain;
  }
  if (options.targets.empty()) return;
  const auto actions = PlanSparsify(services, options, stop);
  if (!actions.ok()) return;
  for (const SparsifiedTarget& target :
       ExecuteSparsify(services, options, *actions, sparsify::Mode::kMeasure, nullptr, stop)) {
    const auto domain = by_name.find(target.name);
    if (!target.result || domain == by_name.end()) continue;
    for (size_t i = 0; i < target.disks.size(); ++i) {
      for (ReportedDisk& disk : domain->second->disks) {
        if (disk.facts.xml.target == target.disks[i].target) TakeMap(*target.result, i, disk);
      }
    }
  }
}

ReportTotal Sum(const std::vector<ReportedDomain>& domains) {
  ReportTotal total;
  std::set<std::pair<uint64_t, uint64_t>> seen;
  // Of images that several disks have on top: the least that one of them promises.
  std::map<std::pair<uint64_t, uint64_t>, uint64_t> promised;
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
      const bool exact = disk.assessment.from == ReclaimableFrom::kFreeMap;
      if (!disk.facts.guest && !exact) continue;
      ++total.disks_with_guest;
      if (disk.facts.guest) total.guest_used += disk.facts.guest->used;
      if (exact) ++total.disks_exact;
      const uint64_t reclaimable = disk.assessment.reclaimable.value_or(0);
      if (disk.facts.chain.empty()) {
        total.reclaimable += reclaimable;
        continue;
      }
      const ImageFile& top = disk.facts.chain.front();
      const auto [entry, is_new] = promised.try_emplace({top.device, top.inode}, reclaimable);
      if (!is_new) entry->second = std::min(entry->second, reclaimable);
    }
  }
  for (const auto& [image, bytes] : promised) total.reclaimable += bytes;
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
  ForEachInParallel(selected.size(), kGuestsAtOnce, [&](size_t i) {
    if (!stop.stop_requested())
      report.domains[i] = ReportDomain(services, selected[i], options, stop);
  });
  if (options.exact && services.sparsify && services.hypervisor.ImagesAreLocal())
    ReadStopped(services, report.domains, stop);
  if (options.domains.empty() && !options.config.empty() && services.hypervisor.ImagesAreLocal()) {
    VR_ASSIGN_OR_RETURN(
        report.copies,
        FindUnfinishedCopies(options.config, options.config_must_exist, stop, kLongestLook));
  }
  if (stop.stop_requested()) return absl::CancelledError("interrupted");
  report.total = Sum(report.domains);
  std::stable_sort(
      report.domains.begin(), report.domains.end(),
      [](const ReportedDomain& a, const ReportedDomain& b) { return GainOf(a) > GainOf(b); });
  return report;
}

}  // namespace virt_reclaim
