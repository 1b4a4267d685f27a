// Whether holes can be punched into files of a filesystem: tried, and looked at.
#ifndef VIRT_RECLAIM_HOST_SERVICES_HOLE_TRIAL_H_
#define VIRT_RECLAIM_HOST_SERVICES_HOLE_TRIAL_H_

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"

namespace virt_reclaim {

// `size` bytes of which no filesystem makes fewer by compressing them; the same at each call.
std::string IncompressibleBytes(size_t size);

// Punches the first `size` bytes of a file: 0, or an errno. For tests.
using PunchCall = int (*)(int fd, size_t size);
int KernelPunch(int fd, size_t size);

// Writes 256 KiB to the empty file `fd`, syncs, and punches them out again. True: the file occupies
// less than before; or, where what it occupies is not told at once (ZFS), the filesystem says that
// it did. False: it says that it cannot. Unavailable: it says that it did, and the file occupies
// what it did before, which some that lie behind a network or FUSE come to tell later, and some
// never. Any other error: the trial could not be made.
absl::StatusOr<bool> TryHole(int fd, PunchCall punch = KernelPunch);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_HOLE_TRIAL_H_
