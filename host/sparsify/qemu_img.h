// qemu-img, run for its effect or for what it says.
#ifndef VIRT_RECLAIM_HOST_SPARSIFY_QEMU_IMG_H_
#define VIRT_RECLAIM_HOST_SPARSIFY_QEMU_IMG_H_

#include <chrono>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/subprocess.h"

namespace virt_reclaim::sparsify {

inline constexpr char kQemuImg[] = "/usr/bin/qemu-img";

// `arguments` without the program, paths in them absolute; at most 1 MiB of what it prints. Errors
// as RunCommand. Any thread; blocks.
absl::StatusOr<CommandResult> TryQemuImg(std::vector<std::string> arguments,
                                         std::chrono::milliseconds deadline,
                                         const std::stop_token& stop);

// `arguments` without the program, paths in them absolute. Returns what it printed, at most 1 MiB.
// FailedPrecondition with its words when it ends with another status than 0; else as RunCommand.
// Any thread; blocks.
absl::StatusOr<std::string> RunQemuImg(std::vector<std::string> arguments,
                                       std::chrono::milliseconds deadline,
                                       const std::stop_token& stop);

}  // namespace virt_reclaim::sparsify

#endif  // VIRT_RECLAIM_HOST_SPARSIFY_QEMU_IMG_H_
