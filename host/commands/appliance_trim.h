// What sparsify leaves to libguestfs's appliance: filesystems that the native engine does not know.
// Never those that it refused for their state or damage, as an appliance would not notice, or mend
// what is not its to mend; a journal that wants to be replayed only when told.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_APPLIANCE_TRIM_H_
#define VIRT_RECLAIM_HOST_COMMANDS_APPLIANCE_TRIM_H_

#include <cstddef>
#include <string>
#include <vector>

#include "host/sparsify/sparsify.h"

namespace virt_reclaim {

enum class SparsifyEngine {
  kAuto,        // native, and the appliance for what native does not know
  kNative,      // nothing else
  kLibguestfs,  // the appliance for all that it may touch
};

struct ApplianceJob {
  size_t filesystem = 0;  // index in the result
  std::string device;     // as libguestfs names it: /dev/sda1, /dev/GROUP/VOLUME
};

// How libguestfs names where it lies; empty: it has no name there. Pure.
std::string DeviceOf(const freemap::Filesystem& found);

// Pure. Empty when a hibernated system, or anything else in a doubtful state, is on the disks.
std::vector<ApplianceJob> ApplianceJobs(const sparsify::SparsifyResult& result,
                                        SparsifyEngine engine, bool replay);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_APPLIANCE_TRIM_H_
