// sync: a copy becomes equal to its source, in place and sparse. Only blocks that differ are
// written, what is zero now becomes a hole, holes are not read, and what the copy shares with
// snapshots of itself stays shared but for those blocks (docs/sync.md).
//
// A verb is thin: for each pair Plan, then Measure (--dry-run) or Sync:
//
//   Syncer syncer(options, clock);
//   auto plan = syncer.Plan(source, destination);                  // collect, assess, plan
//   if (plan->unchanged) ...                                       // the quick check
//   auto result = dry_run ? syncer.Measure(*plan, progress, stop)
//                         : syncer.Sync(*plan, progress, stop);    // act, verify
//
// Errors, for the exit status: Aborted is in use (names the holder), FailedPrecondition refused,
// Unimplemented what the filesystem cannot (--atomic); others are failures. A result that is not
// `complete` left a copy that is neither the old nor the new one (but for --atomic: the old one);
// it says so by its mark and its mtime, and the next run makes it whole.
#ifndef VIRT_RECLAIM_HOST_SYNC_SYNC_H_
#define VIRT_RECLAIM_HOST_SYNC_SYNC_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "host/guard/image_identity.h"
#include "host/punch/pacer.h"
#include "host/sync/destination.h"
#include "host/sync/source.h"
#include "host/sync/steps.h"

namespace virt_reclaim::sync {

struct SyncOptions {
  bool compare = false;           // also when size and mtime are equal
  bool atomic = false;            // the old copy stays until the new one is whole
  bool overwrite_device = false;  // a block device that looks like something
  bool verify = false;            // read back what was written
  // Of the sources' images: the content is copied that a guest would see, to raw copies. Empty:
  // each source is copied as the file it is.
  std::string format = {};
  bool reflink = true;                // on the same filesystem share blocks instead of writing them
  uint64_t max_bytes_per_second = 0;  // read of the source; 0: no limit
};

struct SyncPlan {
  std::string source;
  ImageIdentity source_identity;
  DestinationPlan destination;
  bool unchanged = false;  // size and mtime are equal: nothing was looked at, nothing is to be done
  bool unfinished = false;  // the copy has the mark of a run that did not end
};

struct SyncProgress {
  uint64_t done_bytes = 0;
  uint64_t total_bytes = 0;
};

struct SyncResult {
  uint64_t size_bytes = 0;       // of the source
  uint64_t read_bytes = 0;       // of the source
  uint64_t compared_bytes = 0;   // read of the copy
  uint64_t different_bytes = 0;  // had to be written
  uint64_t zeroed_bytes = 0;     // had to become holes
  uint64_t same_bytes = 0;       // shared by both already, not read
  uint64_t written_bytes = 0;
  uint64_t cloned_bytes = 0;
  uint64_t punched_bytes = 0;
  uint64_t verified_bytes = 0;                       // read back
  std::optional<std::string> digest = std::nullopt;  // of all that is not zero, when verified
  // Of a regular file that is complete: who writes to it from here on changes this.
  std::optional<int64_t> copy_mtime_ns = std::nullopt;
  bool complete = false;        // the copy is equal to the source; after Measure: would be
  bool changed = false;         // something of the copy was, but for its mtime
  bool source_changed = false;  // somebody wrote the source, or wants to: stopped
  bool interrupted = false;     // somebody wants the copy: stopped
  bool cancelled = false;       // the stop token
};

using ProgressCallback = std::function<void(const SyncProgress&)>;

// One thread; starts some of its own. No descriptor between calls.
class Syncer {
 public:
  Syncer(const SyncOptions& options, punch::SteadyClock clock)
      : options_(options), clock_(std::move(clock)) {}

  // Looks at both and decides. FailedPrecondition: they are the same file, a device is too small or
  // looks like something; Aborted: one is in use.
  absl::StatusOr<SyncPlan> Plan(const std::string& source, const std::string& destination);

  // Reads what Sync would read and changes nothing.
  absl::StatusOr<SyncResult> Measure(const SyncPlan& plan, const ProgressCallback& progress,
                                     const std::stop_token& stop);

  // FailedPrecondition when a file is another one than planned. While it works this process must
  // open neither.
  absl::StatusOr<SyncResult> Sync(const SyncPlan& plan, const ProgressCallback& progress,
                                  const std::stop_token& stop);

  // The same from any source. `only`: nothing else of it differs from the copy; null: anything may.
  absl::StatusOr<SyncResult> SyncFrom(Source& source, const DestinationPlan& plan,
                                      const std::vector<Range>* only,
                                      const ProgressCallback& progress,
                                      const std::stop_token& stop);
  absl::StatusOr<SyncResult> MeasureFrom(Source& source, const DestinationPlan& plan,
                                         const std::vector<Range>* only,
                                         const ProgressCallback& progress,
                                         const std::stop_token& stop);

  // Of a copy alone: what Plan finds out about it. `source_bytes`: what must fit on a device.
  absl::StatusOr<DestinationPlan> PlanDestination(const std::string& path, uint64_t source_bytes);

 private:
  absl::StatusOr<std::unique_ptr<Source>> OpenSource(const std::string& path,
                                                     const ImageIdentity& planned) const;
  absl::Status Copy(Source& source, Destination& destination, const std::vector<Range>* only,
                    const ProgressCallback& progress, const std::stop_token& stop,
                    SyncResult& result);

  SyncOptions options_;
  punch::SteadyClock clock_;
};

}  // namespace virt_reclaim::sync

#endif  // VIRT_RECLAIM_HOST_SYNC_SYNC_H_
