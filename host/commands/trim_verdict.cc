#include "host/commands/trim_verdict.h"

#include <algorithm>
#include <utility>

#include "base/byte_size.h"
#include "base/saturating_add.h"
#include "host/model/assessment.h"

namespace virt_reclaim {
namespace {

// Less than this is filesystem bookkeeping, not space that a trim could bring back: one qcow2
// cluster of the largest size, 8 times.
constexpr uint64_t kWorthTrimming = 16 * kMiB;

// Loses no discards: none is sent. What lies beside it on the same disk comes back all the same.
bool SendsNone(const Blocker& blocker) {
  return blocker.reason == Reason::kReadOnly || blocker.reason == Reason::kFilesystemNotSupported;
}

bool Drops(const Blocker& blocker) {
  // What snapshots keep is not dropped.
  return InChainOf(blocker.reason) == InChain::kCulprit && !SendsNone(blocker) &&
         blocker.reason != Reason::kInternalSnapshots;
}

// The layer that `explain` would name, apart from what sends none.
const Layer* CulpritOf(const DiscardChain& chain) {
  for (const LayerVerdict wanted : {LayerVerdict::kDrops, LayerVerdict::kPartly}) {
    for (const Layer& layer : chain.layers) {
      if (layer.verdict == wanted && !layer.reasons.empty() && !SendsNone(layer.reasons.front()))
        return &layer;
    }
  }
  return nullptr;
}

void AddNew(const std::vector<Blocker>& more, std::vector<Blocker>& reasons) {
  for (const Blocker& blocker : more) {
    const bool known = std::any_of(reasons.begin(), reasons.end(), [&](const Blocker& other) {
      return other.reason == blocker.reason;
    });
    if (!known) reasons.push_back(blocker);
  }
}

// ext4 hands a block group down once, until something is freed in it; XFS and btrfs report all
// their free space at each trim.
bool HasOnlyExt4(const ChainFacts& chain, const std::string& target) {
  const auto is_on_it = [&](const GuestDevice& device) {
    const auto found = chain.guest_to_target.find(device.name);
    return found != chain.guest_to_target.end() && found->second == target;
  };
  return chain.guest &&
         std::all_of(chain.guest->filesystems.begin(), chain.guest->filesystems.end(),
                     [&](const GuestFilesystem& filesystem) {
                       return filesystem.type == "ext4" ||
                              std::none_of(filesystem.devices.begin(), filesystem.devices.end(),
                                           is_on_it);
                     });
}

// Whether as much as is worth a word may have come free, and been written over by the guest at
// once.
bool MayBeWrittenOver(const TrimmedDisk& trimmed) {
  if (!trimmed.written) return false;
  const uint64_t grown = 0 - static_cast<uint64_t>(std::min<int64_t>(*trimmed.freed, 0));
  return *trimmed.written >= SaturatingAdd(grown, kWorthTrimming);
}

// Of a disk that gave something back: what of it drops discards all the same, beside that.
std::vector<Blocker> DroppedBeside(const ChainFacts& chain, const DiskFacts& disk) {
  ImageStorage storage;
  storage.punches = true;  // as was just seen
  const DiscardChain judged = JudgeDiscardChain(chain, disk, storage);
  const Layer* culprit = CulpritOf(judged);
  const bool in_guest = culprit != nullptr && (culprit->kind == LayerKind::kFilesystem ||
                                               culprit->kind == LayerKind::kGuestDevice);
  if (!in_guest || culprit->verdict != LayerVerdict::kDrops) return {};
  return culprit->reasons;
}

}  // namespace

TrimVerdict JudgeTrimmedDisk(const Services& services, const ChainFacts& chain,
                             const DiskFacts& disk, const TrimmedDisk& trimmed) {
  TrimVerdict verdict;
  if (!trimmed.trimmed) return verdict;
  if (trimmed.freed.value_or(0) > 0) {
    verdict.reasons = DroppedBeside(chain, disk);
    return verdict;
  }
  const Assessment assessment = Assess(chain.live, disk);
  verdict.reasons = assessment.blockers;
  const auto has = [&](auto predicate) {
    return std::any_of(verdict.reasons.begin(), verdict.reasons.end(), predicate);
  };
  verdict.should_have = has(Drops);
  if (verdict.should_have) return verdict;
  const DiscardChain judged = JudgeDiscardChain(chain, disk, StorageOf(services, disk));
  const Layer* culprit = CulpritOf(judged);
  if (culprit != nullptr && culprit->verdict == LayerVerdict::kDrops) {
    AddNew(culprit->reasons, verdict.reasons);
    verdict.should_have = true;
    return verdict;
  }
  if (!trimmed.freed || !assessment.held || trimmed.in_part) return verdict;
  if (*assessment.held < kWorthTrimming) {
    AddNew({{Reason::kNothingReclaimable, ""}}, verdict.reasons);
    return verdict;
  }
  if (MayBeWrittenOver(trimmed)) {
    AddNew({{Reason::kGuestWrote, FormatByteSize(*trimmed.written)}}, verdict.reasons);
    return verdict;
  }
  verdict.should_have = true;
  if (culprit != nullptr) AddNew(culprit->reasons, verdict.reasons);
  const bool explained = has([](const Blocker& blocker) {
    const InChain in_chain = InChainOf(blocker.reason);
    return in_chain == InChain::kCulprit || in_chain == InChain::kUnknown;
  });
  if (explained) return verdict;
  const bool remembered = *trimmed.trimmed == 0 && HasOnlyExt4(chain, disk.xml.target);
  AddNew({{remembered ? Reason::kTrimRemembered : Reason::kUnexplained, ""}}, verdict.reasons);
  return verdict;
}

}  // namespace virt_reclaim
