#include "host/guestfs/guestfs_files.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/handle.h"
#include "base/status.h"
#include "host/guestfs/guestfs_lists.h"

namespace virt_reclaim {
namespace {

// A reply of libguestfs has room for 4 MiB.
constexpr size_t kPieceBytes = size_t{1} << 20;
constexpr size_t kMaxUnread = 32;

}  // namespace

absl::StatusOr<Guestfs> CreateGuestfs() {
  Guestfs handle(guestfs_create());
  if (handle == nullptr) return absl::InternalError("libguestfs has no memory");
  guestfs_set_error_handler(handle.get(), nullptr, nullptr);
  if (getenv("LIBGUESTFS_BACKEND") == nullptr) guestfs_set_backend(handle.get(), "direct");
  return handle;
}

absl::Status GuestfsStatus(guestfs_h* handle, absl::string_view what) {
  const char* message = guestfs_last_error(handle);
  const int error = guestfs_last_errno(handle);
  // Below the first line is advice to whoever debugs libguestfs.
  const absl::string_view all = message == nullptr ? "libguestfs does not say why" : message;
  const std::string text = absl::StrCat(what, ": ", all.substr(0, all.find('\n')));
  if (error == 0) return absl::InternalError(text);
  return absl::Status(ErrnoStatus(error, what).code(), text);
}

absl::StatusOr<uint32_t> GuestfsFiles::Mode(const std::string& path) const {
  // Follows symbolic links inside of the guest's root, as the calls below do.
  const Handle<struct guestfs_statns, guestfs_free_statns> status(
      guestfs_statns(handle_, path.c_str()));
  if (status == nullptr) return GuestfsStatus(handle_, absl::StrCat("stat '", path, "'"));
  return static_cast<uint32_t>(status->st_mode);
}

bool GuestfsFiles::Exists(const std::string& path) const { return Mode(path).ok(); }

absl::Status GuestfsFiles::CheckRegular(const std::string& path) const {
  VR_ASSIGN_OR_RETURN(const uint32_t mode, Mode(path));
  if (S_ISREG(mode)) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("'", path, "' is not a regular file"));
}

absl::StatusOr<size_t> GuestfsFiles::ReadAt(const std::string& path, uint64_t offset, char* buffer,
                                            size_t size) const {
  size_t length = 0;
  const Handle<char, free> bytes(guestfs_pread(handle_, path.c_str(),
                                               static_cast<int>(std::min(size, kPieceBytes)),
                                               static_cast<int64_t>(offset), &length));
  if (bytes == nullptr) return GuestfsStatus(handle_, absl::StrCat("read '", path, "'"));
  if (length > size) return absl::InternalError(absl::StrCat("read '", path, "': too much"));
  std::memcpy(buffer, bytes.get(), length);
  return length;
}

absl::StatusOr<std::string> GuestfsFiles::Read(const std::string& path, size_t max_bytes) const {
  VR_RETURN_IF_ERROR(CheckRegular(path));
  std::string content;
  std::string piece(kPieceBytes, '\0');
  while (true) {
    VR_ASSIGN_OR_RETURN(const size_t n, ReadAt(path, content.size(), piece.data(), piece.size()));
    if (n == 0) return content;
    if (content.size() + n > max_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("'", path, "' is longer than ", max_bytes, " bytes"));
    }
    content.append(piece, 0, n);
  }
}

std::string GuestfsFiles::ReadLink(const std::string& path) const {
  const Handle<char, free> target(guestfs_readlink(handle_, path.c_str()));
  return target == nullptr ? "" : target.get();
}

std::vector<std::string> GuestfsFiles::List(const std::string& directory) const {
  std::vector<std::string> names;
  const auto mode = Mode(directory);
  if (!mode.ok() || !S_ISDIR(*mode)) return names;
  const GuestfsList list(guestfs_ls(handle_, directory.c_str()));
  if (!list.ok()) {
    if (unread_.size() < kMaxUnread) {
      unread_.push_back(absl::StrCat(directory, ": cannot be listed"));
    }
    return names;
  }
  for (const char* name : list) {
    if (name[0] != '.') names.emplace_back(name);
  }
  // Sorted before it is cut: the same names, however the filesystem lists them.
  std::sort(names.begin(), names.end());
  if (names.size() > agent::kMaxListedNames) names.resize(agent::kMaxListedNames);
  return names;
}

ByteSource GuestfsFiles::Open(const std::string& path) const {
  return [this, path, offset = uint64_t{0}](char* buffer,
                                            size_t size) mutable -> absl::StatusOr<size_t> {
    if (offset == 0) VR_RETURN_IF_ERROR(CheckRegular(path));
    VR_ASSIGN_OR_RETURN(const size_t n, ReadAt(path, offset, buffer, size));
    offset += n;
    return n;
  };
}

}  // namespace virt_reclaim
