// punch: zero blocks of images become holes. A byte that was not read as zero is never punched.
//
// Three ways, chosen by what the image lies on (docs/punch.md):
// - kAtomic, XFS with reflink and btrfs: the kernel compares and punches in one step. Safe while
//   anybody writes; mtime and ctime stay; with `live` also for an image in use.
// - kPlain, other filesystems: fallocate(2) under the guard (host/guard). An image in use is
// refused;
//   who opens it meanwhile waits for one step at most, and we stop. mtime is put back.
// - kDevice, block devices: the same call, which discards; only while nobody else has the device.
//
// A verb is thin: FindFiles, and for each file Plan, then Measure (--dry-run) or Punch:
//
//   Puncher puncher(options, clock);
//   FindFiles(paths, find, stop, [&](const std::string& path) {
//     auto plan = puncher.Plan(path);                              // collect, assess, plan
//     auto result = dry_run ? puncher.Measure(*plan, progress, stop)
//                           : puncher.Punch(*plan, progress, stop);  // act, verify
//     ...
//   }, failed);
//
// Errors, for the exit status: Aborted is in use (names the holder), FailedPrecondition refused,
// Unimplemented a filesystem that cannot, all three before anything was read; others are failures.
// A result with `interrupted` or `cancelled` is partial: all that was punched until then is fine.
#ifndef VIRT_RECLAIM_HOST_PUNCH_PUNCH_H_
#define VIRT_RECLAIM_HOST_PUNCH_PUNCH_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "host/guard/image_identity.h"
#include "host/punch/filesystem.h"
#include "host/punch/pacer.h"
#include "host/punch/plan.h"

namespace virt_reclaim::punch {

enum class Way { kPlain, kAtomic, kDevice };

struct PunchOptions {
  bool live = false;            // also images in use, where that is safe
  bool unwritten = false;       // preallocated extents too
  bool release = true;          // btrfs: move what is left of extents, so that df sees the space
  bool keep_mtime = true;       // kPlain
  uint64_t min_hole_bytes = 0;  // shorter zero runs stay; 0: one allocation unit
  uint64_t max_bytes_per_second = 0;      // read, and on btrfs moved; 0: no limit
  std::optional<Way> way = std::nullopt;  // instead of choosing; for tests and benches
};

struct PunchPlan {
  std::string path;
  std::string directory;  // of the file behind all symbolic links
  ImageIdentity identity;
  Way way = Way::kPlain;
  FilesystemFacts filesystem;  // a device: its granularity in unit_bytes
  uint64_t size_bytes = 0;
  ReadPlan read;
};

struct PunchProgress {
  uint64_t done_bytes = 0;  // read; all of them while btrfs's extents are moved
  uint64_t total_bytes = 0;
  uint64_t punched_bytes = 0;
};

struct PunchResult {
  uint64_t read_bytes = 0;
  uint64_t zero_bytes = 0;     // read as zeroes, in runs that are long enough
  uint64_t punched_bytes = 0;  // of those; the rest was written meanwhile, or we stopped
  uint64_t holes = 0;          // calls
  uint64_t shared_bytes = 0;   // of zero_bytes: frees nothing until every sharer is punched
  uint64_t moved_bytes = 0;    // btrfs: copied so that extents are released
  // What df gets back from this file: allocation before minus after; on btrfs whole extents that
  // nothing refers to any more. Absent when not known (devices, btrfs without root, Measure).
  std::optional<uint64_t> freed_bytes;
  absl::Status release;      // btrfs: why nothing or not all was released
  bool interrupted = false;  // somebody opened the image: stopped, partial
  bool cancelled = false;    // the stop token: partial
  bool mtime_kept = true;
};

using ProgressCallback = std::function<void(const PunchProgress&)>;

// One thread. Keeps what it learnt about filesystems; no descriptor between calls.
class Puncher {
 public:
  Puncher(PunchOptions options, SteadyClock clock);

  // Looks at the image and decides. Opens it for reading only, and not at all when somebody holds a
  // lease on it; says Aborted when it is in use and `live` does not allow that.
  absl::StatusOr<PunchPlan> Plan(const std::string& path);

  // Reads what Punch would read and changes nothing.
  absl::StatusOr<PunchResult> Measure(const PunchPlan& plan, const ProgressCallback& progress,
                                      const std::stop_token& stop);

  // FailedPrecondition when the file is another one than planned, or (not live) was written since.
  // While it works on kPlain images this process must not open them. `progress` is called after
  // each window (16 MiB), from this thread.
  absl::StatusOr<PunchResult> Punch(const PunchPlan& plan, const ProgressCallback& progress,
                                    const std::stop_token& stop);

 private:
  absl::StatusOr<PunchResult> PunchGuarded(const PunchPlan& plan, const ProgressCallback& progress,
                                           const std::stop_token& stop);
  absl::StatusOr<PunchResult> PunchAtomically(const PunchPlan& plan,
                                              const ProgressCallback& progress,
                                              const std::stop_token& stop);

  PunchOptions options_;
  SteadyClock clock_;
  std::map<dev_t, FilesystemFacts> filesystems_;
};

// The calling thread, and what it starts from now on, asks the disk only when nobody else does
// (ioprio_set(2), the idle class; the disk's scheduler must know it: BFQ does).
absl::Status UseIdleIoPriority();

}  // namespace virt_reclaim::punch

#endif  // VIRT_RECLAIM_HOST_PUNCH_PUNCH_H_
