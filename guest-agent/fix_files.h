// Changes of the guest's files that can be taken back: each old content is kept beside the file,
// and a journal knows what was changed to what. Killed at any point, the journal still tells how to
// go back. One thread; Open keeps others out.
#ifndef VIRT_RECLAIM_GUEST_AGENT_FIX_FILES_H_
#define VIRT_RECLAIM_GUEST_AGENT_FIX_FILES_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"
#include "guest-agent/root_files.h"

namespace virt_reclaim::agent {

inline constexpr absl::string_view kFixDirectory = "/var/lib/virt-reclaim-agent";

class FixFiles {
 public:
  // Reads the journal. Aborted: another fix runs. FailedPrecondition: the journal is damaged.
  static absl::StatusOr<FixFiles> Open(const RootFiles& files);

  // Where the old content of `path` is kept.
  static std::string BackupPath(const std::string& path);

  // Replaces the file, whose content was `before`; when it was not there, creates it (`before`
  // empty and `is_new`). FailedPrecondition: it is not what it was, or there is a backup that this
  // journal did not make.
  absl::Status Change(const std::string& path, absl::string_view before, absl::string_view after,
                      bool is_new);

  // What Undo would put back, of files that nobody else has changed since.
  struct Kept {
    std::string path, before, now;  // whole contents
  };
  std::vector<Kept> KeptFiles() const;

  struct UndoResult {
    std::vector<std::string> restored;
    std::vector<std::string> refusals;  // "PATH: why"
  };
  // Puts back what nobody else has changed since, the last change first.
  UndoResult Undo();

  bool empty() const { return entries_.empty(); }

 private:
  struct Entry {
    std::string path;
    std::string backup;  // empty: the file was not there
    std::string before;  // digests
    std::string after;
  };

  FixFiles(const RootFiles& files, UniqueFd lock) : files_(files), lock_(std::move(lock)) {}
  absl::Status ReadJournal();
  absl::Status WriteJournal() const;
  absl::Status UndoOne(const Entry& entry);

  RootFiles files_;
  UniqueFd lock_;
  std::vector<Entry> entries_;
};

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_FIX_FILES_H_
