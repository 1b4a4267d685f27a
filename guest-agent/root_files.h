// The guest's own files, read and replaced below a root directory, so that tests run on a tree and
// not on the machine. What stands in place of a file may be anything: a FIFO, a device, a symbolic
// link in a circle, 10 MiB. Any thread.
#ifndef VIRT_RECLAIM_GUEST_AGENT_ROOT_FILES_H_
#define VIRT_RECLAIM_GUEST_AGENT_ROOT_FILES_H_

#include <sys/stat.h>

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"
#include "guest-config/config_files.h"

namespace virt_reclaim::agent {

// A regular file with what a replacement must keep.
struct FileContent {
  std::string content;
  struct stat status {};
  std::string selinux_label;  // empty: none
};

// Paths are absolute and lie below the root; symbolic links are followed inside of it.
class RootFiles : public ConfigFiles {
 public:
  explicit RootFiles(std::string root = "/");

  const std::string& root() const { return root_; }
  bool is_real() const { return root_ == "/"; }

  bool Exists(const std::string& path) const override;
  using ConfigFiles::Read;
  absl::StatusOr<std::string> Read(const std::string& path, size_t max_bytes) const override;
  std::string ReadLink(const std::string& path) const override;
  std::vector<std::string> List(const std::string& directory) const override;

  // For editing: FailedPrecondition for a symbolic link and for a file with more than one name,
  // which a rename would tear apart.
  absl::StatusOr<FileContent> ReadForEdit(const std::string& path) const;
  // Whole or not at all: temporary file, fsync, rename, fsync of the directory. `like` gives mode,
  // owner and label. With `replace` false AlreadyExists when there is one.
  absl::Status Write(const std::string& path, absl::string_view content, const FileContent& like,
                     bool replace) const;
  absl::Status Remove(const std::string& path) const;
  // mkdir -p, mode 0755.
  absl::Status MakeDirectories(const std::string& path) const;

  // Opens as openat2 with RESOLVE_IN_ROOT does. ErrnoStatus.
  absl::StatusOr<UniqueFd> Open(const std::string& path, int flags) const;

 private:
  struct Place;  // an open directory and a name in it
  absl::StatusOr<Place> Find(const std::string& path) const;

  std::string root_;
};

// FNV-1a, 64 bits, in hex: notices changes, not attacks.
std::string ContentDigest(absl::string_view content);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_ROOT_FILES_H_
