// The cage of virt-reclaim-freemap: what reads hostile bytes can read its descriptors, write its
// answer, and nothing else - no file, no socket, no child, little memory, little time.
#ifndef VIRT_RECLAIM_HOST_FREEMAP_SANDBOX_H_
#define VIRT_RECLAIM_HOST_FREEMAP_SANDBOX_H_

#include <cstdint>
#include <span>

#include "absl/status/status.h"

namespace virt_reclaim::freemap {

inline constexpr uint64_t kMaxMemoryBytes = uint64_t{384} << 20;  // of address space
inline constexpr uint64_t kMaxCpuSeconds = 60;
inline constexpr uint64_t kMaxFileBytes = uint64_t{6} << 20;  // of the scratch file

// Locks this process in, for good: gives up root (user and groups become nobody's), forbids new
// privileges, all of the filesystem (landlock), memory, time and size of files (rlimits), and every
// system call that reading descriptors does not need (seccomp). Opening files fails with EPERM,
// because libraries try it and live without; anything else forbidden kills the process. Fails
// closed, but for landlock, which not every kernel has: seccomp forbids the same. Before any
// thread, after all descriptors are open; the process dies with its parent from now on.
// It may write to stdout, to the memory file `scratch` (negative: none) up to kMaxFileBytes, and to
// the `sockets` through which it asks for what it reads.
absl::Status EnterSandbox(int scratch, std::span<const int> sockets = {});

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_SANDBOX_H_
