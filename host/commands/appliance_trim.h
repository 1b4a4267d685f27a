// What sparsify leaves to libguestfs's appliance: filesystems that the native engine does not know.
// Never those that it refused for their state or damage, as an appliance would not notice, or mend
// what is not its to mend; a journal that wants to be replayed only when told.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_APPLIANCE_TRIM_H_
#define VIRT_RECLAIM_HOST_COMMANDS_APPLIANCE_TRIM_H_

#include <cstddef>
#include <map>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "host/commands/services.h"
#include "host/sparsify/sparsify.h"

namespace virt_reclaim {

enum class SparsifyEngine {
  kAuto,        // native, and the appliance for what native does not know
  kNative,      // nothing else
  kLibguestfs,  // the appliance for all that it may touch
};
// By its word: "auto", "native", "libguestfs"; others, which nobody lets through, are auto. Pure.
SparsifyEngine SparsifyEngineOf(absl::string_view word);

// What of it the appliance is asked to do.
struct ApplianceRules {
  SparsifyEngine engine = SparsifyEngine::kAuto;
  bool replay = false;            // journals too, which writes to their filesystems
  bool strict = false;            // only what native has read whole, by checksums
  std::vector<std::string> zero;  // devices that become zeroes as a whole, whatever is on them
};

struct ApplianceJob {
  size_t filesystem = 0;  // index in the result
  std::string device;     // as libguestfs names it: /dev/sda1, /dev/GROUP/VOLUME
  bool zero = false;      // it becomes zeroes as a whole
};

// How libguestfs names where it lies; empty: it has no name there. Pure.
std::string DeviceOf(const freemap::Filesystem& found);

// Whether it lies on one of `devices`, by their very names, and is what libguestfs lists as a
// filesystem: no disk with partitions, no part of a volume group or RAID. Pure.
bool IsNamed(const freemap::Filesystem& found, const std::vector<std::string>& devices);

// Pure. Nothing is trimmed when a hibernated system, or anything else in a doubtful state, is on
// the disks.
std::vector<ApplianceJob> ApplianceJobs(const sparsify::SparsifyResult& result,
                                        const ApplianceRules& rules);

// Has them done on `disks`, all of one guest, which is off and in nobody's use: what became of
// each, by index of the filesystem. Cancelled. Blocks.
absl::StatusOr<std::map<size_t, absl::Status>> RunApplianceJobs(
    const Services& services, const std::vector<OfflineDisk>& disks,
    const std::vector<ApplianceJob>& jobs, const std::stop_token& stop);

// For who wants all by libguestfs: adds what it does not do of what native could. Pure.
void AddPassedOver(const sparsify::SparsifyResult& result,
                   std::map<size_t, absl::Status>& appliance);

// By which libguestfs's virt-sparsify ends with an error: its appliance does not start, or fails in
// the middle of a filesystem. One that cannot be mounted, or has no trim, it passes over; and where
// our program for it is not installed, native's word stands. OK: none of `appliance`, by index of
// the filesystem, is such a one. Pure.
absl::Status ApplianceFailure(const std::map<size_t, absl::Status>& appliance);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_APPLIANCE_TRIM_H_
