// Where a trim that was cut short goes on the next time. The guest's word throughout: a position
// that makes no sense costs nobody but this guest anything. Pure; any thread.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_TRIM_POSITION_H_
#define VIRT_RECLAIM_HOST_COMMANDS_TRIM_POSITION_H_

#include <optional>
#include <vector>

#include "host/model/facts.h"
#include "host/model/trim_record.h"
#include "host/services/guest_agent.h"

namespace virt_reclaim {

// Where to begin; empty: at the beginning, also when that filesystem has gone or is another one.
std::optional<GuestTrimPosition> StartOf(const std::optional<TrimRecord>& last,
                                         const GuestFacts& guest);

// Where to go on after a trim that had come to `reached` and had these filesystems behind it.
TrimRecordPosition PositionOf(const GuestTrimProgress& reached,
                              const std::vector<GuestTrim>& finished, const GuestFacts& guest);

// Whether a trim that began at `start` has gone through it from end to end, with whatever result.
bool WasGoneThrough(const GuestFilesystem& filesystem,
                    const std::optional<GuestTrimPosition>& start,
                    const std::vector<GuestTrim>& finished);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_TRIM_POSITION_H_
