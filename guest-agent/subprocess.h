// A program of the guest's, run for its output or its effect: an argv and no shell, an environment
// of two variables, no input, a deadline and a bound on what it prints. Any thread; the calling one
// blocks.
#ifndef VIRT_RECLAIM_GUEST_AGENT_SUBPROCESS_H_
#define VIRT_RECLAIM_GUEST_AGENT_SUBPROCESS_H_

#include <chrono>
#include <cstddef>
#include <functional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace virt_reclaim::agent {

struct CommandLimits {
  std::chrono::milliseconds deadline{30000};
  size_t max_output_bytes = size_t{64} << 10;
  bool keep_end = false;  // of a longer output: its end, as errors stand there; else its beginning
  std::stop_token stop;
};

struct CommandResult {
  int exit_status = -1;  // -1: a signal ended it
  std::string output;    // stdout and stderr together
  bool truncated = false;
};

// `arguments[0]` is a path. Errors: it could not be started; DeadlineExceeded and Cancelled: it and
// every process of its group were killed.
absl::StatusOr<CommandResult> RunCommand(const std::vector<std::string>& arguments,
                                         const CommandLimits& limits);

// RunCommand, or what stands for it in tests.
using CommandRunner = std::function<absl::StatusOr<CommandResult>(
    const std::vector<std::string>& arguments, const CommandLimits& limits)>;

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_SUBPROCESS_H_
