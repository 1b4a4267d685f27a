#include "host/sync/checkpoint_note.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/escape.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "host/guard/image_identity.h"
#include "host/sync/unfinished_mark.h"

namespace virt_reclaim::sync {
namespace {

constexpr char kNote[] = "user.virt_reclaim.checkpoint";
constexpr size_t kMostBytes = 512;

// "<checkpoint> <size> <mtime>": what the copy looked like then.
std::string NoteFor(const std::string& name, const struct stat& status) {
  const ImageIdentity identity = IdentityOf(status);
  return absl::StrCat(name, " ", identity.size_bytes, " ", identity.mtime_ns);
}

}  // namespace

absl::Status NoteCheckpoint(const std::string& path, const std::string& name, int64_t mtime_ns) {
  const std::string quoted = Quoted(path);
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat status;
  if (!fd.valid() || fstat(fd.get(), &status) != 0) return ErrnoStatus(errno, "open " + quoted);
  if (IdentityOf(status).mtime_ns != mtime_ns)
    return absl::FailedPreconditionError(quoted + " was written meanwhile");
  const std::string note = NoteFor(name, status);
  if (fsetxattr(fd.get(), kNote, note.data(), note.size(), 0) != 0 || fsync(fd.get()) != 0)
    return ErrnoStatus(errno, "note the checkpoint on " + quoted);
  return absl::OkStatus();
}

std::string NotedCheckpoint(const std::string& path) {
  char value[kMostBytes];
  struct stat status;
  const ssize_t length = getxattr(path.c_str(), kNote, value, sizeof value);
  if (length <= 0 || IsUnfinished(path) || stat(path.c_str(), &status) != 0 ||
      !S_ISREG(status.st_mode)) {
    return "";
  }
  const std::string note(value, static_cast<size_t>(length));
  std::string name = note.substr(0, note.find(' '));
  return NoteFor(name, status) == note ? name : "";
}

}  // namespace virt_reclaim::sync
