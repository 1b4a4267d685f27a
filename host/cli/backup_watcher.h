// A process that waits for the end of this one, and when that did not say good-bye (SIGKILL, a
// crash; or a job it could not end) calls `virt-reclaim sync --clean`: libvirt's backup jobs
// outlive who began them.
#ifndef VIRT_RECLAIM_HOST_CLI_BACKUP_WATCHER_H_
#define VIRT_RECLAIM_HOST_CLI_BACKUP_WATCHER_H_

#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "host/cli/options.h"

namespace virt_reclaim {

// What is called then, without the program's own name: `line` is that of the sync. A domain or a
// directory may begin with a dash.
std::vector<std::string> CleanWords(const CommandLine& line);

// Waits for a byte, or the end of `pipe`: false, as when it cannot be read (an unneeded call of
// --clean is refused, and does no harm). May be called between fork and exec.
bool SaidGoodBye(int pipe);

// Make it before there are threads: it forks. Where it cannot be made there is none; then the next
// run clears away.
class BackupWatcher {
 public:
  explicit BackupWatcher(const CommandLine& line);
  // Says good-bye, but after Leave().
  ~BackupWatcher();
  // A job is left: the end of this program is to be taken for that of one that was killed.
  void Leave() { left_ = true; }
  BackupWatcher(const BackupWatcher&) = delete;
  BackupWatcher& operator=(const BackupWatcher&) = delete;

 private:
  UniqueFd pipe_;
  bool left_ = false;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_BACKUP_WATCHER_H_
