#include "host/sparsify/qemu_img.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "base/escape.h"
#include "base/status.h"

namespace virt_reclaim::sparsify {

absl::StatusOr<CommandResult> TryQemuImg(std::vector<std::string> arguments,
                                         std::chrono::milliseconds deadline,
                                         const std::stop_token& stop) {
  arguments.insert(arguments.begin(), kQemuImg);
  CommandLimits limits;
  limits.deadline = deadline;
  limits.max_output_bytes = size_t{1} << 20;
  limits.separate_errors = true;
  limits.stop = stop;
  return RunCommand(arguments, limits);
}

absl::StatusOr<std::string> RunQemuImg(std::vector<std::string> arguments,
                                       std::chrono::milliseconds deadline,
                                       const std::stop_token& stop) {
  constexpr size_t kMaxReasonBytes = size_t{1} << 10;
  VR_ASSIGN_OR_RETURN(CommandResult result, TryQemuImg(std::move(arguments), deadline, stop));
  if (result.exit_status == 0) return std::move(result.output);
  return absl::FailedPreconditionError(
      Printable(absl::StripAsciiWhitespace(result.errors), kMaxReasonBytes));
}

}  // namespace virt_reclaim::sparsify
