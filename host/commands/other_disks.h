// The other disks of a guest of which one image file is named: one of them may hold the memory of a
// guest that sleeps, which may be newer than all of its disks.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_OTHER_DISKS_H_
#define VIRT_RECLAIM_HOST_COMMANDS_OTHER_DISKS_H_

#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "host/commands/services.h"
#include "host/model/reason.h"

namespace virt_reclaim {

struct OtherDisks {
  std::vector<sparsify::DiskSpec> specs;  // those that can be read
  std::vector<std::string> not_known;     // the others: "web vdb", printable
};

// Of all domains in `users`, without the image at `path` itself. Looks at definitions and headers.
OtherDisks FindOtherDisks(const Services& services, const std::vector<DomainSummary>& users,
                          const std::string& path);

// FailedPrecondition: a hibernated system is on one of `disks` or of `others`, all of one guest.
// Only reads. What cannot be read is added to `remarks`. Cancelled. One thread; blocks.
absl::Status CheckAwake(const Services& services, const std::vector<sparsify::DiskSpec>& disks,
                        const OtherDisks& others, const sparsify::SparsifyOptions& options,
                        const std::stop_token& stop, std::vector<Blocker>& remarks);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_OTHER_DISKS_H_
