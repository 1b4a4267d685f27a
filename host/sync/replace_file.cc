#include "host/sync/replace_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "base/escape.h"
#include "base/io.h"
#include "base/status.h"
#include "host/punch/filesystem.h"
#include "host/sync/unfinished_mark.h"

namespace virt_reclaim::sync {
namespace {

constexpr size_t kMaxAttributes = 65536;  // XATTR_LIST_MAX and XATTR_SIZE_MAX, linux/limits.h

// Access lists and labels of SELinux are among them. What cannot be taken along is left out: they
// decide about access, and a new file is its owner's alone.
void TakeAttributes(int fd, int like) {
  std::vector<char> names(kMaxAttributes);
  const ssize_t length = flistxattr(like, names.data(), names.size());
  if (length <= 0) return;
  std::vector<char> value(kMaxAttributes);
  const absl::string_view list(names.data(), static_cast<size_t>(length));
  for (const absl::string_view name : absl::StrSplit(list, '\0', absl::SkipEmpty())) {
    const std::string key(name);
    if (key == kUnfinishedMark) continue;
    const ssize_t bytes = fgetxattr(like, key.c_str(), value.data(), value.size());
    if (bytes >= 0) fsetxattr(fd, key.c_str(), value.data(), static_cast<size_t>(bytes), 0);
  }
}

}  // namespace

void TakeOwnerAndMode(int fd, int like) {
  struct stat status;
  if (fstat(like, &status) != 0) return;
  constexpr mode_t kOwnersPart = 0700;
  constexpr mode_t kPermissions = 0777;
  const bool owned = fchown(fd, status.st_uid, status.st_gid) == 0;
  fchmod(fd, status.st_mode & (owned ? kPermissions : kOwnersPart));
}

absl::StatusOr<UniqueFd> MakeReplacement(const std::string& directory, int old) {
  if (old < 0) {
    UniqueFd fd(open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (fd.valid()) return fd;
    if (errno == EOPNOTSUPP || errno == EISDIR)
      return absl::UnimplementedError("its filesystem has no nameless files: not atomic");
    return ErrnoStatus(errno, absl::StrCat("make a file in '", Printable(directory), "'"));
  }
  struct stat status;
  if (fstat(old, &status) != 0) return ErrnoStatus(errno, "stat");
  if (status.st_nlink > 1) {
    return absl::FailedPreconditionError(
        "it has other names, which would keep the old content: not atomic");
  }
  VR_ASSIGN_OR_RETURN(UniqueFd fd, punch::MakeTemporary(directory, old));
  if (ioctl(fd.get(), FICLONE, old) != 0) {
    if (errno == EOPNOTSUPP || errno == EINVAL || errno == EXDEV || errno == ENOTTY)
      return absl::UnimplementedError("its filesystem has no reflinks: not atomic");
    return ErrnoStatus(errno, "reflink");
  }
  TakeOwnerAndMode(fd.get(), old);
  TakeAttributes(fd.get(), old);
  return fd;
}

absl::Status ReplaceFile(int fd, const std::string& directory, const std::string& path,
                         bool replace) {
  const std::string quoted = Quoted(path);
  if (fsync(fd) != 0) return ErrnoStatus(errno, "sync " + quoted);
  const std::string self = absl::StrCat("/proc/self/fd/", fd);
  if (!replace) {
    if (linkat(AT_FDCWD, self.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) == 0)
      return SyncDirectory(directory);
    if (errno == EEXIST) return absl::FailedPreconditionError(quoted + " is there meanwhile");
    return ErrnoStatus(errno, "name " + quoted);
  }
  // A name can only be put over another one by rename(2), so for a moment there are two. One that a
  // kill left behind has our mark, and is taken away first: it is always the same.
  const size_t slash = path.rfind('/');
  const std::string name = path.substr(slash == std::string::npos ? 0 : slash + 1);
  const std::string passing = absl::StrCat(directory, "/.", name.substr(0, 200), ".virt-reclaim");
  SetUnfinished(fd);
  for (int tries = 0; tries < 2; ++tries) {
    if (linkat(AT_FDCWD, self.c_str(), AT_FDCWD, passing.c_str(), AT_SYMLINK_FOLLOW) == 0) {
      if (rename(passing.c_str(), path.c_str()) == 0) {
        ClearUnfinished(fd);
        return SyncDirectory(directory);
      }
      const int error = errno;
      unlink(passing.c_str());
      return ErrnoStatus(error, "replace " + quoted);
    }
    if (errno != EEXIST || !IsUnfinished(passing)) break;
    unlink(passing.c_str());
  }
  return ErrnoStatus(errno, "name the new " + quoted);
}

}  // namespace virt_reclaim::sync
