#include "host/commands/trim_estimate.h"

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/status.h"
#include "host/model/assessment.h"

namespace virt_reclaim {

absl::StatusOr<uint64_t> Measure(const Services& services, const DomainSummary& domain,
                                 const DiskFacts& disk) {
  if (!disk.chain.empty()) return services.images.Allocation(disk.chain);
  VR_ASSIGN_OR_RETURN(const Usage usage,
                      services.hypervisor.BlockUsage(domain.uuid, disk.xml.target));
  if (!usage.allocation) return absl::UnavailableError("the allocation is not known");
  return *usage.allocation;
}

bool CanBeMeasured(const DiskFacts& disk) {
  return !IsOther(disk.xml) && !disk.xml.source.path.empty() && disk.image_error.ok() &&
         disk.xml.source.type != "block";
}

std::optional<uint64_t> ExpectedOf(const DomainFacts& facts) {
  std::optional<uint64_t> sum;
  for (const DiskFacts& disk : facts.disks) {
    if (IsOther(disk.xml)) continue;
    const auto estimate = Assess(facts.live, disk).reclaimable;
    if (estimate) sum = sum.value_or(0) + *estimate;
  }
  return sum;
}

std::optional<Blocker> BelowThreshold(const DomainFacts& facts, const TrimOptions& options) {
  if (!options.threshold) return std::nullopt;
  uint64_t reclaimable = 0;
  uint64_t capacity = 0;
  for (const DiskFacts& disk : facts.disks) {
    if (IsOther(disk.xml)) continue;
    const auto estimate = Assess(facts.live, disk).reclaimable;
    if (!estimate || !disk.usage.capacity) return std::nullopt;
    reclaimable += *estimate;
    capacity += *disk.usage.capacity;
  }
  if (reclaimable >= options.threshold->Of(capacity)) return std::nullopt;
  return Blocker{Reason::kBelowThreshold, absl::StrCat("about ", FormatByteSize(reclaimable))};
}

}  // namespace virt_reclaim
