// How long a trim rests between two ranges, so that others get at their disks. A punch on the host
// holds up all I/O to its image for as long as it takes, so that a rest in proportion to the range
// before it bounds the share of time in which others wait. Pure, and async-signal-safe: the trim's
// child process uses it.
#ifndef VIRT_RECLAIM_GUEST_AGENT_PACING_H_
#define VIRT_RECLAIM_GUEST_AGENT_PACING_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace virt_reclaim::agent {

inline constexpr std::chrono::milliseconds kMaxPause{60000};
inline constexpr uint32_t kMaxPausePercent = 10000;

struct Pace {
  std::chrono::milliseconds pause{0};  // at least, after every range; at most kMaxPause
  uint32_t pause_percent = 0;          // of what the range took; at most kMaxPausePercent
  uint64_t bytes_per_second = 0;       // of what the filesystem says it trimmed; 0: no limit
  bool back_off = false;               // rest on while others wait for their disks
  // Milliseconds at least, after every range, which may change meanwhile (shared_pause.h); null: 0.
  const std::atomic<uint32_t>* least_pause = nullptr;
};

// The rest after a range that took `took` and trimmed `bytes`. A range that nobody noticed (below 2
// ms) asks for none by its percentage; of a longer one its first 2 s count. What the rate asks for
// is kept up to a day, all else up to kMaxPause.
std::chrono::milliseconds PauseAfter(const Pace& pace, std::chrono::nanoseconds took,
                                     uint64_t bytes);

// Whether the rest after such a range is to be watched for others who wait.
bool WorthWatching(const Pace& pace, std::chrono::nanoseconds took);
// A watched rest is at least so long, else it tells nothing.
inline constexpr std::chrono::milliseconds kLeastWatch{20};
// How long all watched rests after one range may last together: a guest that is always busy is
// trimmed all the same.
std::chrono::milliseconds MostBackOff(std::chrono::milliseconds pause);

// From /proc/pressure/io: the microseconds in which somebody waited ("some ... total="). Empty when
// `text` is something else.
std::optional<uint64_t> ParsePressure(const char* text, size_t size);
// Whether others wait for their disks so much that the trim does not go on. Not to be asked of a
// time in which the trim itself was at work: its own wait is in there.
bool IsPressed(uint64_t waited_us, std::chrono::nanoseconds time);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_PACING_H_
