// A trim of several filesystems, one after the other: choosing, opening, FITRIM, and what its
// errors mean. The service and the command line both use it. Any thread; the calling one blocks.
#ifndef VIRT_RECLAIM_GUEST_AGENT_TRIMMER_H_
#define VIRT_RECLAIM_GUEST_AGENT_TRIMMER_H_

#include <chrono>
#include <cstdint>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "guest-agent/filesystems.h"
#include "guest-agent/fitrim.h"

namespace virt_reclaim::agent {

struct TrimOptions {
  uint64_t minimum_bytes = 0;
  uint64_t chunk_bytes = 0;  // 0: as each filesystem likes it
  Pace pace;
};

// The numbers are those of agent.proto's TrimResult.
enum class TrimResult { kDone = 1, kSkipped = 2, kFailed = 3, kCancelled = 4 };

// Where an earlier trim ended.
struct TrimPosition {
  std::string mount_point;    // any of the filesystem's, as the contract writes it; empty: none
  uint64_t offset_bytes = 0;  // in it
  bool after = false;         // it was trimmed to its end
};

struct TrimTarget {
  Filesystem filesystem;
  std::string mount_point;   // the one that is opened
  bool named = false;        // by the user: tried even where the automatic choice would not
  uint64_t start_bytes = 0;  // what lies before was trimmed before
};

struct TrimFinished {
  TrimResult result = TrimResult::kDone;
  FitrimProgress progress;
  int error_number = 0;
  std::chrono::nanoseconds elapsed{0};
  Verdict verdict;
};

// Told what happens, on the trimming thread.
class TrimObserver {
 public:
  virtual ~TrimObserver() = default;
  virtual void OnStarted(const TrimTarget& target, uint32_t index, uint32_t count) = 0;
  virtual void OnProgress(const TrimTarget& target, uint32_t index,
                          const FitrimProgress& progress) = 0;
  virtual void OnFinished(const TrimTarget& target, uint32_t index,
                          const TrimFinished& finished) = 0;
};

struct TrimTotals {
  uint32_t done = 0;
  uint32_t skipped = 0;
  uint32_t failed = 0;
  bool cancelled = false;
  std::chrono::nanoseconds elapsed{0};
};

// The filesystems of the named mount points, each once, in that order; with no names every
// filesystem that is not purely the kernel's (those with an obstacle are skipped with it later).
// NotFound: a name that is no mount point.
absl::StatusOr<std::vector<TrimTarget>> ChooseTargets(const FilesystemList& list,
                                                      const std::vector<std::string>& mount_points);

// Leaves out what was trimmed before `start`. A filesystem that is not there any more, or the end
// of the last one: everything stays.
void BeginAt(const TrimPosition& start, std::vector<TrimTarget>& targets);

// True when the target is not even tried: its obstacle stands for sure, or it was not named and has
// one.
bool WillBeSkipped(const TrimTarget& target);

// InvalidArgument when an option is out of range (pause, minimum or chunk).
absl::Status CheckTrimOptions(const TrimOptions& options);

// An error of one filesystem is its own outcome; the others go on, except after an I/O error: then
// they are reported as cancelled, since their disk may be the next. `stop` ends after the range
// under way (fitrim.h).
TrimTotals TrimAll(const std::vector<TrimTarget>& targets, const TrimOptions& options,
                   TrimObserver& observer, const std::stop_token& stop,
                   FitrimCall call = KernelFitrim);

// What `error_number` of a FITRIM on `filesystem` means.
Verdict ExplainTrimError(const Filesystem& filesystem, int error_number);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_TRIMMER_H_
