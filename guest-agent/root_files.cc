#include "guest-agent/root_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/handle.h"
#include "base/status.h"

namespace virt_reclaim::agent {
namespace {

constexpr char kSelinuxAttribute[] = "security.selinux";
constexpr int kReadFlags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;

absl::StatusOr<std::string> ReadAll(int fd, const std::string& path, size_t max_bytes) {
  struct stat status {};
  if (fstat(fd, &status) != 0) return ErrnoStatus(errno, absl::StrCat("stat '", path, "'"));
  if (!S_ISREG(status.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat("'", path, "' is not a regular file"));
  }
  std::string content;
  char buffer[16384];
  while (true) {
    const ssize_t n = read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, absl::StrCat("read '", path, "'"));
    if (n == 0) return content;
    if (content.size() + static_cast<size_t>(n) > max_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("'", path, "' is longer than ", max_bytes, " bytes"));
    }
    content.append(buffer, static_cast<size_t>(n));
  }
}

absl::Status WriteAll(int fd, absl::string_view content, const std::string& path) {
  while (!content.empty()) {
    const ssize_t n = write(fd, content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, absl::StrCat("write '", path, "'"));
    content.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

std::string TemporaryName(const std::string& name) {
  uint64_t random = 0;
  static_cast<void>(getrandom(&random, sizeof random, 0) == ssize_t{sizeof random});
  // The dot and the suffix keep it out of every directory of drop-ins for the moment it is there.
  return absl::StrCat(".", name.substr(0, 200), ".", absl::Hex(random), ".dpkg-new");
}

}  // namespace

struct RootFiles::Place {
  UniqueFd directory;
  std::string name;
};

RootFiles::RootFiles(std::string root) : root_(std::move(root)) {}

absl::StatusOr<UniqueFd> RootFiles::Open(const std::string& path, int flags) const {
  const std::string what = absl::StrCat("open '", path, "'");
  if (is_real()) {
    UniqueFd fd(open(path.c_str(), flags | O_CLOEXEC));
    if (!fd.valid()) return ErrnoStatus(errno, what);
    return fd;
  }
  UniqueFd root(open(root_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root.valid()) return ErrnoStatus(errno, absl::StrCat("open '", root_, "'"));
  open_how how = {};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC);
  how.resolve = RESOLVE_IN_ROOT;
  UniqueFd fd(static_cast<int>(syscall(SYS_openat2, root.get(), path.c_str(), &how, sizeof how)));
  if (!fd.valid()) return ErrnoStatus(errno, what);
  return fd;
}

absl::StatusOr<RootFiles::Place> RootFiles::Find(const std::string& path) const {
  const size_t slash = path.rfind('/');
  Place place;
  place.name = path.substr(slash + 1);
  VR_ASSIGN_OR_RETURN(place.directory,
                      Open(slash == 0 ? "/" : path.substr(0, slash), O_RDONLY | O_DIRECTORY));
  return place;
}

bool RootFiles::Exists(const std::string& path) const { return Open(path, O_PATH).ok(); }

absl::StatusOr<std::string> RootFiles::Read(const std::string& path, size_t max_bytes) const {
  VR_ASSIGN_OR_RETURN(const UniqueFd fd, Open(path, kReadFlags));
  return ReadAll(fd.get(), path, max_bytes);
}

std::string RootFiles::ReadLink(const std::string& path) const {
  const auto place = Find(path);
  char target[PATH_MAX];
  if (!place.ok()) return "";
  const ssize_t n = readlinkat(place->directory.get(), place->name.c_str(), target, sizeof target);
  return n < 0 ? "" : std::string(target, static_cast<size_t>(n));
}

std::vector<std::string> RootFiles::List(const std::string& directory) const {
  std::vector<std::string> names;
  auto fd = Open(directory, O_RDONLY | O_DIRECTORY | O_NONBLOCK);
  if (!fd.ok()) return names;
  Handle<DIR, closedir> stream(fdopendir(fd->get()));
  if (stream == nullptr) return names;
  static_cast<void>(fd->Release());  // the stream's now
  while (names.size() < kMaxListedNames) {
    const dirent* entry = readdir(stream.get());
    if (entry == nullptr) break;
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<FileContent> RootFiles::ReadForEdit(const std::string& path) const {
  VR_ASSIGN_OR_RETURN(const Place place, Find(path));
  UniqueFd fd(openat(place.directory.get(), place.name.c_str(), kReadFlags | O_NOFOLLOW));
  if (!fd.valid() && errno == ELOOP) {
    return absl::FailedPreconditionError(absl::StrCat("'", path, "' is a symbolic link"));
  }
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("open '", path, "'"));
  FileContent file;
  VR_ASSIGN_OR_RETURN(file.content, ReadAll(fd.get(), path, kMaxConfigBytes));
  if (fstat(fd.get(), &file.status) != 0) {
    return ErrnoStatus(errno, absl::StrCat("stat '", path, "'"));
  }
  if (file.status.st_nlink > 1) {
    return absl::FailedPreconditionError(absl::StrCat("'", path, "' has more than one name"));
  }
  char label[1024];
  const ssize_t n = fgetxattr(fd.get(), kSelinuxAttribute, label, sizeof label);
  if (n > 0) file.selinux_label.assign(label, static_cast<size_t>(n));
  return file;
}

absl::Status RootFiles::Write(const std::string& path, absl::string_view content,
                              const FileContent& like, bool replace) const {
  VR_ASSIGN_OR_RETURN(const Place place, Find(path));
  const int directory = place.directory.get();
  const std::string temporary = TemporaryName(place.name);
  UniqueFd fd(openat(directory, temporary.c_str(),
                     O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("create a file beside '", path, "'"));
  auto remove = absl::MakeCleanup([&] { unlinkat(directory, temporary.c_str(), 0); });
  VR_RETURN_IF_ERROR(WriteAll(fd.get(), content, path));
  // The owner before the mode: a change of owner takes set-id bits away, and opens nothing.
  if (fchown(fd.get(), like.status.st_uid, like.status.st_gid) != 0 ||
      fchmod(fd.get(), like.status.st_mode & 07777) != 0) {
    return ErrnoStatus(errno, absl::StrCat("set owner and mode of '", path, "'"));
  }
  if (!like.selinux_label.empty() &&
      fsetxattr(fd.get(), kSelinuxAttribute, like.selinux_label.data(), like.selinux_label.size(),
                0) != 0) {
    return ErrnoStatus(errno, absl::StrCat("set the SELinux label of '", path, "'"));
  }
  if (fsync(fd.get()) != 0) return ErrnoStatus(errno, absl::StrCat("fsync '", path, "'"));
  if (replace) {
    if (renameat(directory, temporary.c_str(), directory, place.name.c_str()) != 0) {
      return ErrnoStatus(errno, absl::StrCat("rename to '", path, "'"));
    }
    std::move(remove).Cancel();
  } else if (linkat(directory, temporary.c_str(), directory, place.name.c_str(), 0) != 0) {
    return ErrnoStatus(errno, absl::StrCat("create '", path, "'"));  // EEXIST: AlreadyExists
  }
  if (fsync(directory) != 0) return ErrnoStatus(errno, absl::StrCat("fsync beside '", path, "'"));
  return absl::OkStatus();
}

absl::Status RootFiles::Remove(const std::string& path) const {
  VR_ASSIGN_OR_RETURN(const Place place, Find(path));
  if (unlinkat(place.directory.get(), place.name.c_str(), 0) != 0) {
    return ErrnoStatus(errno, absl::StrCat("remove '", path, "'"));
  }
  static_cast<void>(fsync(place.directory.get()));
  return absl::OkStatus();
}

absl::Status RootFiles::MakeDirectories(const std::string& path) const {
  for (size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    const std::string part = path.substr(0, slash);
    VR_ASSIGN_OR_RETURN(const Place place, Find(part));
    if (mkdirat(place.directory.get(), place.name.c_str(), 0755) != 0 && errno != EEXIST) {
      return ErrnoStatus(errno, absl::StrCat("mkdir '", part, "'"));
    }
    if (slash == std::string::npos) return absl::OkStatus();
  }
}

std::string ContentDigest(absl::string_view content) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : content) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  return absl::StrCat(absl::Hex(hash, absl::kZeroPad16), ".", content.size());
}

}  // namespace virt_reclaim::agent
