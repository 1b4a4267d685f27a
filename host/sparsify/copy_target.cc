#include "host/sparsify/copy_target.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/io.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "host/guard/image_guard.h"
#include "host/guard/image_identity.h"

namespace virt_reclaim::sparsify {
namespace {

// As far as we may.
absl::Status TakeOwnerAndMode(int fd, const struct stat& like, const std::string& quoted) {
  mode_t mode = like.st_mode & 07777u;
  if (fchown(fd, like.st_uid, like.st_gid) != 0 &&
      fchown(fd, static_cast<uid_t>(-1), like.st_gid) != 0) {
    mode &= 0777u;  // a set-user-ID bit would be another one's
  }
  if (fchmod(fd, mode) != 0) return ErrnoStatus(errno, "set the mode of " + quoted);
  return absl::OkStatus();
}

// Under a name that nothing has yet. Where the filesystem cannot promise that (NFS, FUSE) the name
// is taken with an empty file first, which only one can make.
bool GiveNewName(const std::string& from, const std::string& to) {
  if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return true;
  if (errno != EINVAL && errno != ENOSYS) return false;
  const UniqueFd taken(open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!taken.valid()) return false;
  if (rename(from.c_str(), to.c_str()) == 0) return true;
  const int error = errno;
  unlink(to.c_str());
  errno = error;
  return false;
}

// Hours may have gone by since it was looked at: another file may be there, or a domain use it,
// which would go on writing to a file without a name.
absl::Status CheckStillUnused(const std::string& path, const struct stat& replaced,
                              const std::string& quoted) {
  struct stat now;
  if (lstat(path.c_str(), &now) != 0) return ErrnoStatus(errno, "look at " + quoted);
  if (!SameFile(IdentityOf(now), IdentityOf(replaced)))
    return absl::AbortedError(quoted + " is another file by now");
  GuardOptions asking;
  asking.intent = ImageIntent::kResize;
  const absl::Status unused = CheckUnused(path, asking);
  return absl::IsAborted(unused) ? unused : absl::OkStatus();
}

}  // namespace

absl::StatusOr<CopyTarget> CopyTarget::Make(const std::string& path) {
  CopyTarget target;
  std::error_code error;
  target.path_ = std::filesystem::absolute(path, error).string();
  if (error) return ErrnoStatus(error.value(), absl::StrCat("resolve '", Printable(path), "'"));
  target.temporary_path_ = target.path_;
  struct stat found;
  if (lstat(target.path_.c_str(), &found) == 0) {
    // What a link leads to is replaced, not the link; one that leads nowhere is qemu-img's.
    const std::filesystem::path real = std::filesystem::canonical(target.path_, error);
    if (error || stat(real.c_str(), &found) != 0 || !S_ISREG(found.st_mode) || found.st_nlink != 1)
      return target;
    target.path_ = target.temporary_path_ = real.string();
    target.replaced_ = found;
  }
  const std::string parent = std::filesystem::path(target.path_).parent_path().string();
  auto directory = TemporaryDirectory::Make(parent, ".virt-reclaim-copy-");
  if (!directory.ok()) {
    if (target.replaced_) return target;
    return directory.status();
  }
  target.directory_.emplace(*std::move(directory));
  target.temporary_path_ = target.directory_->path() + "/image";
  return target;
}

absl::Status CopyTarget::Publish() {
  const std::string quoted = Quoted(path_);
  // Not blocking, and no file of anything else: a pipe has nothing that could be synced.
  const UniqueFd fd(open(temporary_path_.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  struct stat written;
  if (!fd.valid() || fstat(fd.get(), &written) != 0) return ErrnoStatus(errno, "open " + quoted);
  if (directory_ && replaced_) VR_RETURN_IF_ERROR(TakeOwnerAndMode(fd.get(), *replaced_, quoted));
  const bool lasting = S_ISREG(written.st_mode) || S_ISBLK(written.st_mode);
  if (lasting && fsync(fd.get()) != 0) return ErrnoStatus(errno, "sync " + quoted);
  if (!directory_) return absl::OkStatus();
  if (replaced_) VR_RETURN_IF_ERROR(CheckStillUnused(path_, *replaced_, quoted));
  const bool named = replaced_ ? rename(temporary_path_.c_str(), path_.c_str()) == 0
                               : GiveNewName(temporary_path_, path_);
  if (!named) return ErrnoStatus(errno, "make " + quoted);
  directory_.reset();  // before the sync, so that it stays away as well
  return SyncDirectory(std::filesystem::path(path_).parent_path().string());
}

}  // namespace virt_reclaim::sparsify
