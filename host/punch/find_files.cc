#include "host/punch/find_files.h"

#include <fts.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <set>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/handle.h"
#include "base/status.h"

namespace virt_reclaim::punch {
namespace {

// A block device is the same through any node of it.
using FileKey = std::tuple<bool, dev_t, ino_t>;

FileKey KeyOf(const struct stat& status) {
  if (S_ISBLK(status.st_mode)) return {true, status.st_rdev, 0};
  return {false, status.st_dev, status.st_ino};
}

int ByName(const FTSENT** one, const FTSENT** other) {
  return strcmp((*one)->fts_name, (*other)->fts_name);
}

}  // namespace

absl::Status FindFiles(std::span<const std::string> paths, const FindOptions& options,
                       const std::stop_token& stop,
                       const std::function<void(const std::string&)>& found,
                       const std::function<void(const std::string&, const absl::Status&)>& failed) {
  std::set<FileKey> seen;
  const auto once = [&](const std::string& path, const struct stat& status) {
    if (seen.insert(KeyOf(status)).second || options.every_name) found(path);
  };
  for (const std::string& path : paths) {
    if (stop.stop_requested()) return absl::CancelledError("stopped");
    struct stat status;
    if (stat(path.c_str(), &status) != 0) {
      failed(path, ErrnoStatus(errno, "stat " + Quoted(path)));
      continue;
    }
    if (S_ISREG(status.st_mode) || S_ISBLK(status.st_mode)) {
      once(path, status);
      continue;
    }
    if (!S_ISDIR(status.st_mode)) {
      failed(path, absl::FailedPreconditionError(Quoted(path) +
                                                 " is neither a regular file nor a block device"));
      continue;
    }
    if (!options.recursive) {
      failed(path, absl::InvalidArgumentError(
                       Quoted(path) + " is a directory; --recursive takes the files below it"));
      continue;
    }
    std::string root = path;
    char* roots[] = {root.data(), nullptr};
    const int flags =
        FTS_PHYSICAL | FTS_COMFOLLOW | FTS_NOCHDIR | (options.one_file_system ? FTS_XDEV : 0);
    const Handle<FTS, fts_close> tree(fts_open(roots, flags, ByName));
    if (tree == nullptr) {
      failed(path, ErrnoStatus(errno, "read " + Quoted(path)));
      continue;
    }
    while (const FTSENT* entry = fts_read(tree.get())) {
      if (stop.stop_requested()) return absl::CancelledError("stopped");
      const std::string name(entry->fts_path, entry->fts_pathlen);
      if (entry->fts_info == FTS_F && S_ISREG(entry->fts_statp->st_mode)) {
        once(name, *entry->fts_statp);
      } else if (entry->fts_info == FTS_DNR || entry->fts_info == FTS_ERR ||
                 entry->fts_info == FTS_NS) {
        failed(name, ErrnoStatus(entry->fts_errno, "read " + Quoted(name)));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace virt_reclaim::punch
