// What ends a trim by itself: for the good of everybody else on the storage an I/O error of one of
// the domain's disks on the host, and a storage that this very trim fills up; for the good of
// others who work on the domain a job that begins meanwhile.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_TRIM_WATCH_H_
#define VIRT_RECLAIM_HOST_COMMANDS_TRIM_WATCH_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "host/commands/collect.h"
#include "host/model/trim_record.h"

namespace virt_reclaim {

// From its making to its end. The facts and the services outlive it.
class TrimWatch {
 public:
  TrimWatch(const Services& services, const DomainFacts& facts, const std::stop_token& stop);

  // Once a second from here to End, on a thread of its own, whatever the trim tells of itself:
  // looks at the storages (a trim writes, too: metadata of images and filesystems), when `jobs` at
  // what libvirt is at with the domain, and calls `also`, which may be empty. A question that is
  // not answered is asked again a second later, and stops nothing. Not OK: there is no such thread.
  absl::Status Begin(bool jobs, std::function<void()> also);
  // How far the trim has come. Any thread.
  void At(TrimRecordPosition place);
  // How far it had come when libvirt was last seen at nothing with the domain: what the guest trims
  // while QEMU copies a disk, QEMU drops (tests/contract/qemu_test.py). Empty: nowhere. Any thread.
  std::optional<TrimRecordPosition> place();
  // Of the caller's stop, of trouble and of a job.
  std::stop_token token() const { return ended_.get_token(); }
  // No news from here on; waits for a look under way.
  void End();
  // The first trouble: its storages are to be left alone. Any thread.
  std::optional<Blocker> trouble();
  // What began with the domain. Any thread.
  std::optional<Blocker> job();

 private:
  void LookAtStorage();
  void LookForJobs();
  void Stop(std::optional<Blocker>& why, Blocker blocker);
  // What the images occupy beside what the guest has written since it started; only differences
  // of it mean something.
  std::optional<int64_t> Overhead() const;

  const Services& services_;
  const DomainFacts& facts_;
  std::stop_source ended_;
  std::stop_callback<std::function<void()>> forward_;
  std::mutex mutex_;
  std::optional<Blocker> trouble_, job_;
  std::optional<TrimRecordPosition> at_, place_;
  const std::optional<int64_t> overhead_before_;
  std::unique_ptr<ErrorWatch> errors_;
  std::unique_ptr<Beat> beat_;  // ends first
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_TRIM_WATCH_H_
