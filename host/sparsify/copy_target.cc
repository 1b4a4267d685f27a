#include "host/sparsify/copy_target.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"

namespace virt_reclaim::sparsify {

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
  if (!directory_) return absl::OkStatus();
  if (replaced_) {
    // As far as we may.
    if (chown(temporary_path_.c_str(), replaced_->st_uid, replaced_->st_gid) != 0 &&
        chown(temporary_path_.c_str(), static_cast<uid_t>(-1), replaced_->st_gid) != 0) {
      replaced_->st_mode &= 0777u;  // a set-user-ID bit would be another one's
    }
    if (chmod(temporary_path_.c_str(), replaced_->st_mode & 07777u) != 0)
      return ErrnoStatus(errno, absl::StrCat("set the mode of '", Printable(path_), "'"));
  }
  if (rename(temporary_path_.c_str(), path_.c_str()) != 0)
    return ErrnoStatus(errno, absl::StrCat("make '", Printable(path_), "'"));
  directory_.reset();
  return absl::OkStatus();
}

}  // namespace virt_reclaim::sparsify
