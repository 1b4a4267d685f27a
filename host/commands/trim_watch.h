// What ends a trim by itself, for the good of everybody else on the storage: an I/O error of one of
// the domain's disks on the host, and a storage that this very trim fills up.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_TRIM_WATCH_H_
#define VIRT_RECLAIM_HOST_COMMANDS_TRIM_WATCH_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "host/commands/collect.h"

namespace virt_reclaim {

// From its making to its end. The facts and the services outlive it.
class TrimWatch {
 public:
  TrimWatch(const Services& services, const DomainFacts& facts, const std::stop_token& stop);

  // Of the caller's stop and of trouble.
  std::stop_token token() const { return trouble_.get_token(); }
  // Looks at the storages, once a second at most. A trim writes, too: metadata of images and
  // filesystems. Called by the trimming thread.
  void LookAtStorage();
  // No news from the hypervisor from here on.
  void End();
  // The first trouble. Any thread.
  std::optional<Blocker> trouble();

 private:
  void Stop(Blocker blocker);
  // What the images occupy beside what the guest has written since it started; only differences
  // of it mean something.
  std::optional<int64_t> Overhead() const;

  const Services& services_;
  const DomainFacts& facts_;
  std::stop_source trouble_;
  std::stop_callback<std::function<void()>> forward_;
  std::mutex mutex_;
  std::optional<Blocker> first_;
  std::optional<int64_t> overhead_before_;
  absl::Time looked_ = absl::InfinitePast();
  std::unique_ptr<ErrorWatch> errors_;  // ends first
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_TRIM_WATCH_H_
