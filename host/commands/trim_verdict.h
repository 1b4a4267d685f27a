// Why a disk that its guest has trimmed gave nothing back, and whether it should have: what exit
// status 4 stands on. Looks at the image's storage where that matters; changes nothing. Any thread.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_TRIM_VERDICT_H_
#define VIRT_RECLAIM_HOST_COMMANDS_TRIM_VERDICT_H_

#include <vector>

#include "host/commands/trim.h"
#include "host/model/discard_chain.h"

namespace virt_reclaim {

struct TrimVerdict {
  // What is known against the disk, and what is to be known of it. Empty: something came free, or
  // no filesystem of the guest was found on it.
  std::vector<Blocker> reasons;
  // A layer is known to drop discards, or the host still holds what the guest calls free. What
  // cannot be measured, what is not known and what is only to be remarked is nobody's fault.
  bool should_have = false;
};

// `disk` as it was before the trim, `trimmed` what came of it; `chain` needs no more than XML and
// guest.
TrimVerdict JudgeTrimmedDisk(const Services& services, const ChainFacts& chain,
                             const DiskFacts& disk, const TrimmedDisk& trimmed);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_TRIM_VERDICT_H_
