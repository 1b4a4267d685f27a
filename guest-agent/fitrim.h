// FITRIM (ioctl_fitrim in the kernel, fstrim(8) of util-linux) of one filesystem, range after
// range, in a child process: only a fatal signal stops the ioctl once it runs, so what may have to
// be stopped must be a process of its own. Any thread; the calling one blocks. The child does
// system calls only, for it is forked from a process with threads.
#ifndef VIRT_RECLAIM_GUEST_AGENT_FITRIM_H_
#define VIRT_RECLAIM_GUEST_AGENT_FITRIM_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <stop_token>

#include "absl/status/statusor.h"
#include "guest-agent/pacing.h"
#include "guest-agent/ranges.h"

namespace virt_reclaim::agent {

// After a stop: how long the range under way may still take before it is killed. With what the
// kernel needs to notice (measured: up to 240 ms on XFS) and the host to measure, a stop is over
// within a second.
inline constexpr std::chrono::milliseconds kStopGrace{400};

struct FitrimOptions {
  uint64_t minimum_bytes = 0;                       // fstrim_range.minlen
  Pace pace;                                        // between two ranges
  const char* pressure_file = "/proc/pressure/io";  // not there before Linux 4.20: no backing off
};

struct FitrimProgress {
  uint64_t position_bytes = 0;  // end of the last range
  uint64_t trimmed_bytes = 0;   // sum of what the kernel reported
  uint32_t chunks = 0;
};

struct FitrimOutcome {
  FitrimProgress progress;
  int error_number = 0;    // errno of the range that failed; the ranges after it were not tried
  bool cancelled = false;  // stopped before the last range
};

// The ioctl, replaceable in tests (the replacement runs in the child: system calls only). 0 or an
// errno; sets `length` to the bytes trimmed.
using FitrimCall = int (*)(int fd, uint64_t start, uint64_t& length, uint64_t minimum);
int KernelFitrim(int fd, uint64_t start, uint64_t& length, uint64_t minimum);

// Trims what `fd` (any file of the filesystem, opened for reading) lies on. `on_progress` is called
// after each range on this thread. Errors: no process or socket could be made, or the child died by
// itself.
absl::StatusOr<FitrimOutcome> RunFitrim(
    int fd, const RangePlan& plan, const FitrimOptions& options,
    const std::function<void(const FitrimProgress&)>& on_progress, const std::stop_token& stop,
    FitrimCall call = KernelFitrim);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_FITRIM_H_
