// `virt-reclaim sync SRC... DST`: copies become equal to their sources, in place and sparse
// (host/sync). Needs no hypervisor.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_SYNC_FILES_H_
#define VIRT_RECLAIM_HOST_COMMANDS_SYNC_FILES_H_

#include <functional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "host/model/outcome.h"
#include "host/sync/sync.h"

namespace virt_reclaim {

struct SyncFilesOptions {
  std::vector<std::string> sources;  // files, devices, and directories where `recursive`
  std::string
      destination;  // a file or device for one file; a directory for many, or for what is below one
  bool recursive = false;
  bool one_file_system = false;  // below a directory stay on its filesystem
  bool idle = false;             // ask the disk only when nobody else does
  sync::SyncOptions engine;
};

// One file to copy, or what stands in its way already.
struct SyncAction {
  std::string source, destination;
  // Directories to make before, the outermost first, each beside the one it is like.
  struct Directory {
    std::string path, like;
  };
  std::vector<Directory> directories;
  std::string link_to;      // the source is another name of one copied before: to here
  uint64_t allocation = 0;  // bytes of the source, for the progress
  bool asked_for = false;   // named, not found below a directory
  absl::Status error;
};

struct SyncedFile {
  std::string source, destination;
  Outcome outcome;
  bool unchanged = false;  // by the quick check
  bool linked = false;     // another name of a copy made before
  // Of a domain's disk: what was written since the last run is not known any more, so that all of
  // it was looked at.
  bool checkpoint_lost = false;
  sync::SyncResult result;
};

// Sums over all files.
struct SyncTotal {
  size_t files = 0, unchanged = 0;
  uint64_t read = 0, different = 0, zeroed = 0, written = 0, cloned = 0, punched = 0;
};
SyncTotal TotalOf(const std::vector<SyncedFile>& files);

struct SyncFilesProgress {
  absl::string_view path;
  size_t file = 0, files = 0;         // from 1
  uint64_t done = 0, allocation = 0;  // bytes, of all files
};

// What goes where. Reads directories only. InvalidArgument: the destination is no directory and
// must be one, two sources would go to one name; Cancelled.
absl::StatusOr<std::vector<SyncAction>> FindSyncActions(const SyncFilesOptions& options,
                                                        const std::stop_token& stop);

enum class SyncMode {
  kMeasure,  // read, and say what would be written
  kSync,
};
// One file after the other; a stop request ends it after the step under way.
std::vector<SyncedFile> SyncFiles(const SyncFilesOptions& options,
                                  const std::vector<SyncAction>& actions, SyncMode mode,
                                  const punch::SteadyClock& clock,
                                  const std::function<void(const SyncFilesProgress&)>& progress,
                                  const std::stop_token& stop);

// What became of one copy, as an outcome. `status`: of the engine.
void SetSyncOutcome(const absl::Status& status, const sync::SyncResult& result, Outcome& outcome);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_SYNC_FILES_H_
