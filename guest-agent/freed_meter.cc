#include "guest-agent/freed_meter.h"

#include <sys/statfs.h>

#include <algorithm>
#include <cstring>

namespace virt_reclaim::agent {

FreedMeter::FreedMeter(Probe probe, std::chrono::milliseconds interval)
    : probe_(std::move(probe)), interval_(interval) {}

FreedMeter::Probe FreedMeter::StatfsProbe() {
  return [](const std::string& mount_point) -> std::optional<Space> {
    struct statfs status = {};
    if (statfs(mount_point.c_str(), &status) != 0) return std::nullopt;
    Space space;
    space.free_bytes = uint64_t{status.f_bfree} * static_cast<uint64_t>(status.f_frsize);
    static_assert(sizeof status.f_fsid == sizeof space.identity);
    memcpy(&space.identity, &status.f_fsid, sizeof space.identity);
    return space;
  };
}

void FreedMeter::Trimmed(const Filesystem& filesystem, const std::string& mount_point) {
  const std::lock_guard lock(mutex_);
  const auto space = probe_(mount_point);
  if (!space) {
    watched_.erase(KeyOf(filesystem));
    return;
  }
  // What was freed while it ran lies partly where the trim had been already.
  watched_[KeyOf(filesystem)] = {mount_point, space->identity,
                                 std::min(space->free_bytes, filesystem.free_bytes)};
  if (!sampler_.joinable())
    sampler_ = std::jthread([this](const std::stop_token& stop) { Run(stop); });
}

std::optional<uint64_t> FreedMeter::FreedSinceTrim(const Filesystem& filesystem) {
  const std::lock_guard lock(mutex_);
  const auto found = watched_.find(KeyOf(filesystem));
  if (found == watched_.end()) return std::nullopt;
  const auto free_now = Sample(found->second);
  if (free_now) return *free_now - found->second.lowest;
  watched_.erase(found);
  return std::nullopt;
}

std::optional<uint64_t> FreedMeter::Sample(Watched& watched) const {
  const auto space = probe_(watched.mount_point);
  if (!space || space->identity != watched.identity) return std::nullopt;
  watched.lowest = std::min(watched.lowest, space->free_bytes);
  return space->free_bytes;
}

void FreedMeter::SampleAll() {
  for (auto it = watched_.begin(); it != watched_.end();)
    it = Sample(it->second) ? std::next(it) : watched_.erase(it);
}

void FreedMeter::Run(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    stopped_.wait_for(lock, stop, interval_, [] { return false; });
    if (!stop.stop_requested()) SampleAll();
  }
}

}  // namespace virt_reclaim::agent
