// A program run for its output or its effect: an argv and no shell, an environment of two variables
// and those that are asked for, no input, a deadline and a bound on what it prints. It has a
// process group of its own, which ends with it when it is stopped, and dies with the thread that
// started it. Any thread; the calling one blocks.
#ifndef VIRT_RECLAIM_BASE_SUBPROCESS_H_
#define VIRT_RECLAIM_BASE_SUBPROCESS_H_

#include <chrono>
#include <cstddef>
#include <functional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace virt_reclaim {

struct CommandLimits {
  std::chrono::milliseconds deadline{30000};
  size_t max_output_bytes = size_t{64} << 10;
  bool keep_end = false;  // of a longer output: its end, as errors stand there; else its beginning
  bool fail_when_full = false;   // ResourceExhausted instead of a truncated output
  bool separate_errors = false;  // stderr goes to CommandResult::errors and not to `output`
  // Before it is killed it has this long to end by SIGTERM and clean up.
  std::chrono::milliseconds grace{0};
  std::vector<std::string> environment;  // further variables, "NAME=value"
  std::stop_token stop;
};

struct CommandResult {
  int exit_status = -1;  // -1: a signal ended it
  std::string output;    // stdout and stderr together
  bool truncated = false;
  std::string errors{};  // the end of stderr, at most 4 KiB, when it is separate
};

// `arguments[0]` is a path. Errors: it could not be started; DeadlineExceeded, Cancelled and
// ResourceExhausted: it and every process of its group were killed, and it is gone, unless it did
// not die within two seconds (a dead disk).
absl::StatusOr<CommandResult> RunCommand(const std::vector<std::string>& arguments,
                                         const CommandLimits& limits);

// RunCommand, or what stands for it in tests.
using CommandRunner = std::function<absl::StatusOr<CommandResult>(
    const std::vector<std::string>& arguments, const CommandLimits& limits)>;

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_BASE_SUBPROCESS_H_
