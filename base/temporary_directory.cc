#include "base/temporary_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace virt_reclaim {
namespace {

namespace fs = std::filesystem;

constexpr absl::string_view kRandom = "XXXXXX";
constexpr int kTries = 10;  // against one that takes ours for a killed one's
constexpr int kDirectory = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

std::vector<fs::path> EntriesOf(const std::string& directory) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (fs::directory_iterator at(directory, error), end; !error && at != end; at.increment(error))
    entries.push_back(at->path());
  return entries;
}

bool IsStill(int fd, const std::string& path) {
  struct stat opened;
  struct stat named;
  return fstat(fd, &opened) == 0 && lstat(path.c_str(), &named) == 0 &&
         opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

// What is in it goes through the descriptor: nobody can put another directory in its place.
void Remove(int fd, const std::string& path) {
  std::error_code ignored;
  for (const fs::path& entry : EntriesOf(absl::StrCat("/proc/self/fd/", fd)))
    fs::remove_all(entry, ignored);
  if (IsStill(fd, path)) rmdir(path.c_str());
}

// Of processes of this user that were killed.
void RemoveLeft(const std::string& parent, absl::string_view prefix) {
  for (const fs::path& entry : EntriesOf(parent)) {
    const std::string name = entry.filename().string();
    if (!absl::StartsWith(name, prefix) || name.size() != prefix.size() + kRandom.size()) continue;
    const UniqueFd fd(open(entry.c_str(), kDirectory));
    struct stat status;
    if (!fd.valid() || fstat(fd.get(), &status) != 0 || status.st_uid != geteuid() ||
        (status.st_mode & 0777u) != 0700u) {
      continue;
    }
    if (flock(fd.get(), LOCK_EX | LOCK_NB) == 0) Remove(fd.get(), entry.string());
  }
}

}  // namespace

absl::StatusOr<TemporaryDirectory> TemporaryDirectory::Make(const std::string& parent,
                                                            absl::string_view prefix) {
  std::error_code error;
  const std::string absolute = fs::absolute(parent, error).string();
  if (error) return ErrnoStatus(error.value(), absl::StrCat("resolve '", parent, "'"));
  RemoveLeft(absolute, prefix);
  for (int i = 0; i < kTries; ++i) {
    std::string path =
        absl::StrCat(absolute, absl::EndsWith(absolute, "/") ? "" : "/", prefix, kRandom);
    if (mkdtemp(path.data()) == nullptr)
      return ErrnoStatus(errno, absl::StrCat("create a directory '", path, "'"));
    UniqueFd fd(open(path.c_str(), kDirectory));
    if (!fd.valid()) continue;
    // Where directories cannot be locked (NFS) nobody takes one for left behind either.
    if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) continue;
    if (IsStill(fd.get(), path)) return TemporaryDirectory(std::move(fd), std::move(path));
  }
  return absl::AbortedError(
      absl::StrCat("directories in '", absolute, "' vanish as soon as they are made"));
}

TemporaryDirectory::~TemporaryDirectory() {
  if (fd_.valid()) Remove(fd_.get(), path_);
}

}  // namespace virt_reclaim
