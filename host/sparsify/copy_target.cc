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

// Under a name that nothing has yet, where the filesystem can promise that.
bool GiveNewName(const std::string& from, const std::string& to) {
  if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return true;
  return (errno == EINVAL || errno == ENOSYS) && rename(from.c_str(), to.c_str()) == 0;
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
  const std::string quoted = absl::StrCat("'", Printable(path_), "'");
  // Not blocking, and no file of anything else: a pipe has nothing that could be synced.
  const UniqueFd fd(open(temporary_path_.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  struct stat written;
  if (!fd.valid() || fstat(fd.get(), &written) != 0) return ErrnoStatus(errno, "open " + quoted);
  if (directory_ && replaced_) VR_RETURN_IF_ERROR(TakeOwnerAndMode(fd.get(), *replaced_, quoted));
  const bool lasting = S_ISREG(written.st_mode) || S_ISBLK(written.st_mode);
  if (lasting && fsync(fd.get()) != 0) return ErrnoStatus(errno, "sync " + quoted);
  if (!directory_) return absl::OkStatus();
  const bool named = replaced_ ? rename(temporary_path_.c_str(), path_.c_str()) == 0
                               : GiveNewName(temporary_path_, path_);
  if (!named) return ErrnoStatus(errno, "make " + quoted);
  directory_.reset();  // before the sync, so that it stays away as well
  return SyncDirectory(std::filesystem::path(path_).parent_path().string());
}

}  // namespace virt_reclaim::sparsify
