// Goes over the windows of a step plan with some threads, each: read, compare, write, punch.
#ifndef VIRT_RECLAIM_HOST_SYNC_COPIER_H_
#define VIRT_RECLAIM_HOST_SYNC_COPIER_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "host/punch/pacer.h"
#include "host/sync/destination.h"
#include "host/sync/digest.h"
#include "host/sync/source.h"
#include "host/sync/steps.h"

namespace virt_reclaim::sync {

// Four reads in flight are what a disk wants; more bring nothing (measured for punch).
inline constexpr int kThreads = 4;
// Of a file that is not cached: its pieces may be of many short runs, and each read waits for the
// disk, as each write does.
inline constexpr size_t kColdFileThreads = 8;

struct CopierOptions {
  uint64_t unit_bytes = kBlockBytes;  // what the copy's filesystem allocates at once
  // The copy's zeroes under a hole of the source are found by reading it: punching them anyway
  // would cost (a device), or is not possible.
  bool look_below_holes = false;
  bool clone = false;                 // refer to the source's blocks instead of writing them
  bool clone_unread = false;          // ... also where the copy has a hole, without a look
  bool digest = false;                // of all the source has
  uint64_t max_bytes_per_second = 0;  // read of the source; 0: no limit
  size_t threads = kThreads;
};

struct CopierCounts {
  uint64_t read_bytes = 0;       // of the source
  uint64_t compared_bytes = 0;   // of the copy
  uint64_t different_bytes = 0;  // to be written, or cloned
  uint64_t zeroed_bytes = 0;     // to be made zeroes or holes
};

class Copier {
 public:
  // `destination` null: only measures. `copy` is the copy's descriptor for reading, -1 when there
  // is none. All outlive the copier.
  Copier(Source& source, Destination* destination, int copy, std::string copy_name,
         const CopierOptions& options, const punch::SteadyClock& clock);

  // Ends early, with Aborted when somebody wants source or copy, Cancelled by `stop`, or with the
  // first error. `progress` hears the bytes read of the source and gone over of its holes, about
  // ten times a second, in this thread.
  absl::Status Run(const StepPlan& plan, const std::function<void(uint64_t)>& progress,
                   const std::stop_token& stop);

  CopierCounts counts() const;
  // The source's, when asked for.
  const WindowDigests& digests() const { return digests_; }
  // The end was because of the source.
  bool source_interrupted() const { return source_interrupted_; }

 private:
  struct Found;
  class Worker;

  void Work(const StepPlan& plan, const std::stop_token& stop);
  void Fail(const absl::Status& status);

  Source& source_;
  Destination* destination_;
  int copy_;
  std::string copy_name_;
  CopierOptions options_;
  const punch::SteadyClock& clock_;

  std::atomic<size_t> next_ = 0;
  std::atomic<uint64_t> gone_over_ = 0;
  std::atomic<uint64_t> read_ = 0, compared_ = 0, different_ = 0, zeroed_ = 0;
  std::atomic<bool> failed_ = false, source_interrupted_ = false, clone_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  int working_ = 0;        // guarded by mutex_
  absl::Status status_;    // guarded by mutex_
  WindowDigests digests_;  // guarded by mutex_
};

}  // namespace virt_reclaim::sync

#endif  // VIRT_RECLAIM_HOST_SYNC_COPIER_H_
