#include "guest-agent/pacing.h"

#include <algorithm>
#include <cstring>

namespace virt_reclaim::agent {
namespace {

using std::chrono::duration_cast;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;

constexpr milliseconds kUnnoticed{2};
constexpr milliseconds kLeastPause{5};
// Of the longest range that counts: a range that takes days does not overflow.
constexpr milliseconds kMostCounted{2000};
constexpr milliseconds kMostByRate{24LL * 3600 * 1000};
constexpr int kBackOffFactor = 10;
constexpr milliseconds kLeastBackOff{1000};
constexpr milliseconds kMostBackOff{10000};
// Measured: one program that reads at random and syncs its writes waits a fifth of the time when
// nothing is wrong, and more than half of it beside a trim.
constexpr uint64_t kPressedPercent = 40;

}  // namespace

milliseconds PauseAfter(const Pace& pace, nanoseconds took, uint64_t bytes) {
  milliseconds pause = pace.pause;
  if (pace.least_pause != nullptr) pause = std::max(pause, milliseconds(pace.least_pause->load()));
  if (pace.pause_percent > 0 && took >= kUnnoticed) {
    const nanoseconds counted = std::min<nanoseconds>(took, kMostCounted);
    pause =
        std::max(pause, std::clamp(duration_cast<milliseconds>(counted / 100 * pace.pause_percent),
                                   kLeastPause, kMaxPause));
  }
  pause = std::min(pause, kMaxPause);
  if (pace.bytes_per_second > 0) {
    const double seconds = static_cast<double>(bytes) / static_cast<double>(pace.bytes_per_second) -
                           std::chrono::duration<double>(took).count();
    const double most = std::chrono::duration<double>(kMostByRate).count();
    pause =
        std::max(pause, milliseconds(static_cast<int64_t>(std::clamp(seconds, 0.0, most) * 1000)));
  }
  return pause;
}

bool WorthWatching(const Pace& pace, nanoseconds took) {
  return pace.back_off && took >= kUnnoticed;
}

milliseconds MostBackOff(milliseconds pause) {
  return std::clamp(pause * kBackOffFactor, kLeastBackOff, kMostBackOff);
}

std::optional<uint64_t> ParsePressure(const char* text, size_t size) {
  constexpr char kLine[] = "some ";
  constexpr char kTotal[] = "total=";
  constexpr size_t kTotalLength = sizeof kTotal - 1;
  if (size < sizeof kLine - 1 || std::memcmp(text, kLine, sizeof kLine - 1) != 0)
    return std::nullopt;
  for (size_t i = 0; i + kTotalLength < size && text[i] != '\n'; ++i) {
    if (std::memcmp(text + i, kTotal, kTotalLength) != 0) continue;
    uint64_t total = 0;
    size_t at = i + kTotalLength;
    const size_t first = at;
    for (; at < size && text[at] >= '0' && text[at] <= '9' && at - first < 19; ++at)
      total = total * 10 + static_cast<uint64_t>(text[at] - '0');
    if (at == first || at == size || text[at] != '\n') return std::nullopt;
    return total;
  }
  return std::nullopt;
}

bool IsPressed(uint64_t waited_us, nanoseconds time) {
  const auto us = duration_cast<std::chrono::microseconds>(time).count();
  return us > 0 && waited_us / kPressedPercent >= static_cast<uint64_t>(us) / 100;
}

}  // namespace virt_reclaim::agent
