// How much of a filesystem was freed since its last trim, from samples of statfs(2): no disk is
// read for it. What was in use at the lowest of the samples and is not now, was written and freed
// in between, so that it is allocated on the host and free in the guest.
#ifndef VIRT_RECLAIM_GUEST_AGENT_FREED_METER_H_
#define VIRT_RECLAIM_GUEST_AGENT_FREED_METER_H_

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "guest-agent/filesystems.h"

namespace virt_reclaim::agent {

// Any thread. It sleeps until a filesystem has been trimmed, and then wakes once in `interval`.
class FreedMeter {
 public:
  struct Space {
    uint64_t free_bytes = 0;
    uint64_t identity = 0;  // changes when another filesystem is mounted there
  };
  using Probe = std::function<std::optional<Space>(const std::string& mount_point)>;

  explicit FreedMeter(Probe probe = StatfsProbe(),
                      std::chrono::milliseconds interval = std::chrono::minutes(1));
  ~FreedMeter() = default;
  FreedMeter(const FreedMeter&) = delete;
  FreedMeter& operator=(const FreedMeter&) = delete;

  // All that is free there was trimmed; `filesystem` is as it was when that began.
  void Trimmed(const Filesystem& filesystem, const std::string& mount_point);

  // Bytes, about. Empty: not trimmed since this agent started, or not mounted there
  // any more.
  std::optional<uint64_t> FreedSinceTrim(const Filesystem& filesystem);

  static Probe StatfsProbe();

 private:
  struct Watched {
    std::string mount_point;
    uint64_t identity = 0;
    uint64_t lowest = 0;  // free bytes
  };
  using Key = std::pair<dev_t, std::string>;  // the device and the UUID of a filesystem

  static Key KeyOf(const Filesystem& filesystem) { return {filesystem.device, filesystem.uuid}; }
  // What is free there now; empty when it is not that filesystem any more. The mutex is held.
  std::optional<uint64_t> Sample(Watched& watched) const;
  void SampleAll();
  void Run(const std::stop_token& stop);

  const Probe probe_;
  const std::chrono::milliseconds interval_;
  std::mutex mutex_;
  std::condition_variable_any stopped_;
  std::map<Key, Watched> watched_;
  std::jthread sampler_;  // from the first trim on; the last member: it ends first
};

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_FREED_METER_H_
