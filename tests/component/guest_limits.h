// What the tests of a guest that attacks measure: time and this process's memory. One thread.
#ifndef VIRT_RECLAIM_TESTS_COMPONENT_GUEST_LIMITS_H_
#define VIRT_RECLAIM_TESTS_COMPONENT_GUEST_LIMITS_H_

#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"

namespace virt_reclaim {

inline constexpr absl::Duration kDeadline = absl::Seconds(2);
inline constexpr absl::Duration kGrace = absl::Milliseconds(500);
inline constexpr int64_t kMemoryLimitKiB = 64 * 1024;

// Shadow memory and slowness make the numbers meaningless; crashes still count.
#if defined(VIRT_RECLAIM_SANITIZE_ADDRESS) || defined(VIRT_RECLAIM_SANITIZE_THREAD)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

// A line of /proc/PID/status in KiB, by default of this process: VmRSS now, VmHWM at its highest.
inline int64_t StatusKiB(absl::string_view key, pid_t pid = getpid()) {
  std::ifstream status(absl::StrCat("/proc/", pid, "/status"));
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(std::string(key) + ":", 0) != 0) continue;
    const std::vector<std::string> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    int64_t value = 0;
    if (words.size() > 1 && absl::SimpleAtoi(words[1], &value)) return value;
  }
  return 0;
}

inline void ResetPeak() { std::ofstream("/proc/self/clear_refs") << "5"; }

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_TESTS_COMPONENT_GUEST_LIMITS_H_
