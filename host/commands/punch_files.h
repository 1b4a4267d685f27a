// `virt-reclaim punch FILE|DIR...`: zero blocks of images and backups become holes (host/punch).
// Needs no hypervisor.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_PUNCH_FILES_H_
#define VIRT_RECLAIM_HOST_COMMANDS_PUNCH_FILES_H_

#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "host/model/outcome.h"
#include "host/punch/find_files.h"
#include "host/punch/punch.h"

namespace virt_reclaim {

struct PunchFilesOptions {
  std::vector<std::string> paths;  // files, and directories where `find` says recursive
  punch::FindOptions find;
  punch::PunchOptions engine;
  bool idle = false;  // ask the disk only when nobody else does
};

// One file to look at, or what stands in its way already.
struct PunchAction {
  std::string path;
  uint64_t allocation = 0;  // bytes, for the progress
  bool asked_for = false;   // named, not found below a directory
  absl::Status error;
};

struct PunchedFile {
  std::string path;
  Outcome outcome;
  std::optional<punch::Way> way;  // empty: nothing was decided
  uint64_t size = 0;
  punch::Skipped skipped;
  punch::PunchResult result;
};

// Sums over all files; freed of those of which it is known.
struct PunchTotal {
  size_t files = 0;
  uint64_t read = 0, zero = 0, punched = 0, freed = 0;
  bool freed_known = true;  // of at least one of the files that got holes
};
PunchTotal TotalOf(const std::vector<PunchedFile>& files);

// What its numbers say, as reasons; and whether somebody ended it.
void AddRemarks(PunchedFile& file);

struct PunchFilesProgress {
  absl::string_view path;
  size_t file = 0, files = 0;         // from 1
  uint64_t done = 0, allocation = 0;  // bytes, of all files
};

// Each file once. Reads directories only. Cancelled.
absl::StatusOr<std::vector<PunchAction>> FindPunchActions(const PunchFilesOptions& options,
                                                          const std::stop_token& stop);

// That nothing came free is said of files only when that is so of all together: a run over a
// thousand backups that frees something is no alarm because one of them is shared. PunchFiles does
// it for its own; who calls that several times does it for all.
void MarkNothingFreed(std::vector<PunchedFile>& files);

enum class PunchMode {
  kMeasure,  // read, and say what would be punched
  kPunch,
};
// One file after the other; a stop request ends it after the step under way.
std::vector<PunchedFile> PunchFiles(const PunchFilesOptions& options,
                                    const std::vector<PunchAction>& actions, PunchMode mode,
                                    const punch::SteadyClock& clock,
                                    const std::function<void(const PunchFilesProgress&)>& progress,
                                    const std::stop_token& stop);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_PUNCH_FILES_H_
