#include "xml-tools/filter.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/io.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "xml-tools/domain.h"

namespace virt_reclaim::xml {
namespace {

// ReadFile opens without blocking, which a pipe with a slow writer does not bear.
absl::StatusOr<std::string> ReadStandardInput() {
  std::string text;
  char buffer[16384];
  while (text.size() <= kMaxXmlBytes) {
    const ssize_t n = read(STDIN_FILENO, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "read standard input");
    if (n == 0) return text;
    text.append(buffer, static_cast<size_t>(n));
  }
  return absl::InvalidArgumentError(absl::StrCat("longer than ", kMaxXmlBytes, " bytes"));
}

absl::Status WriteAll(int fd, absl::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "write");
    text.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ReadText(const std::string& file) {
  if (file == "-") return ReadStandardInput();
  absl::StatusOr<std::string> text = ReadFile(file, kMaxXmlBytes);
  if (absl::IsResourceExhausted(text.status())) {
    return absl::InvalidArgumentError(absl::StrCat("longer than ", kMaxXmlBytes, " bytes"));
  }
  return text;
}

absl::Status ReplaceText(const std::string& file, const std::string& before,
                         const std::string& after) {
  char resolved[PATH_MAX];
  if (realpath(file.c_str(), resolved) == nullptr)
    return ErrnoStatus(errno, absl::StrCat("resolve '", Printable(file), "'"));
  const std::string path = resolved, backup = path + ".bak";
  struct stat status = {};
  if (stat(resolved, &status) != 0)
    return ErrnoStatus(errno, absl::StrCat("stat '", Printable(path), "'"));
  if (!S_ISREG(status.st_mode)) return absl::FailedPreconditionError("not a regular file");
  if (access(backup.c_str(), F_OK) == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("the backup '", Printable(backup), "' exists already"));
  }
  VR_ASSIGN_OR_RETURN(const std::string now, ReadFile(path, kMaxXmlBytes));
  if (now != before) return absl::FailedPreconditionError("the file was changed meanwhile");
  const mode_t mode = status.st_mode & 07777;
  VR_RETURN_IF_ERROR(WriteFileDurably(backup, before, mode));
  return WriteFileDurably(path, after, mode);
}

absl::string_view BaseName(absl::string_view file) {
  const size_t slash = file.rfind('/');
  return slash == absl::string_view::npos ? file : file.substr(slash + 1);
}

absl::Status WriteBeside(const std::string& directory, const std::string& file,
                         const std::string& text) {
  const std::string path = absl::StrCat(directory, "/", BaseName(file));
  struct stat input = {}, output = {};
  if (stat(file.c_str(), &input) != 0)
    return ErrnoStatus(errno, absl::StrCat("stat '", Printable(file), "'"));
  if (lstat(path.c_str(), &output) == 0) {
    if (!S_ISREG(output.st_mode)) {
      return absl::FailedPreconditionError(
          absl::StrCat("'", Printable(path), "' is no regular file"));
    }
    if (input.st_dev == output.st_dev && input.st_ino == output.st_ino)
      return absl::FailedPreconditionError("the output would be the input itself");
  }
  std::string temporary = path + ".XXXXXX";
  const UniqueFd fd(mkostemp(temporary.data(), O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("create '", Printable(temporary), "'"));
  absl::Status status = WriteAll(fd.get(), text);
  if (status.ok() && fchmod(fd.get(), input.st_mode & 07777) != 0)
    status = ErrnoStatus(errno, "chmod");
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0)
    status = ErrnoStatus(errno, "rename");
  if (status.ok()) return status;
  unlink(temporary.c_str());
  return Annotate(status, absl::StrCat("write '", Printable(path), "'"));
}

}  // namespace virt_reclaim::xml
