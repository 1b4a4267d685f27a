#include "host/cli/run_directory.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace virt_reclaim {

absl::StatusOr<RunDirectory> RunDirectory::Choose(const std::string& wanted, bool writable,
                                                  const char* runtime) {
  RunDirectory chosen(wanted);
  if (wanted != kRootsRunDirectory || writable) return chosen;
  struct stat status;
  if (runtime != nullptr && *runtime == '/' && stat(runtime, &status) == 0 &&
      S_ISDIR(status.st_mode) && status.st_uid == geteuid()) {
    chosen.path_ = absl::StrCat(runtime, "/virt-reclaim");
    return chosen;
  }
  const char* parent = getenv("TMPDIR");
  VR_ASSIGN_OR_RETURN(
      TemporaryDirectory temporary,
      TemporaryDirectory::Make(parent == nullptr || *parent == '\0' ? "/tmp" : parent,
                               "virt-reclaim-run-"));
  chosen.path_ = temporary.path();
  chosen.temporary_.emplace(std::move(temporary));
  return chosen;
}

absl::StatusOr<RunDirectory> RunDirectory::Choose(const std::string& wanted) {
  const bool writable = geteuid() == 0 || access(kRootsRunDirectory, W_OK | X_OK) == 0;
  return Choose(wanted, writable, getenv("XDG_RUNTIME_DIR"));
}

}  // namespace virt_reclaim
