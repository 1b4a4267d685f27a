#include "host/policy/read_policy.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/io.h"
#include "base/status.h"
#include "host/policy/toml_reader.h"

namespace virt_reclaim::policy {
namespace {

constexpr size_t kMaxFileBytes = size_t{1} << 20;  // ten thousand rules

absl::Status AddFile(const std::string& file, bool must_exist, Policy& policy) {
  // What would be read as empty. A link to /dev/null is how a drop-in is taken out.
  struct stat status;
  if (stat(file.c_str(), &status) == 0 && (S_ISFIFO(status.st_mode) || S_ISBLK(status.st_mode)))
    return absl::InvalidArgumentError(absl::StrCat(TextOf({file, 1, 1}), ": not a regular file"));
  const auto text = ReadFile(file, kMaxFileBytes);
  if (absl::IsNotFound(text.status()) && !must_exist) return absl::OkStatus();
  if (absl::IsResourceExhausted(text.status()))
    return absl::InvalidArgumentError(
        absl::StrCat(TextOf({file, 1, 1}), ": the file has more than 1 MiB"));
  VR_RETURN_IF_ERROR(text.status());
  policy.files.push_back(file);
  return AddToml(file, *text, policy);
}

// The drop-ins in `directory`, by name. No such directory: none.
absl::StatusOr<std::vector<std::string>> DropIns(const std::string& directory) {
  std::vector<std::string> files;
  std::error_code error;
  std::filesystem::directory_iterator entries(directory, error);
  while (!error && entries != std::filesystem::directory_iterator()) {
    const std::string name = entries->path().filename().string();
    // What editors and package managers leave lying about begins with a dot, or ends otherwise.
    if (absl::EndsWith(name, ".toml") && !absl::StartsWith(name, "."))
      files.push_back(entries->path().string());
    entries.increment(error);
  }
  if (error && error.value() != ENOENT)
    return ErrnoStatus(error.value(), absl::StrCat("list '", Printable(directory), "'"));
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

absl::StatusOr<Policy> ReadPolicy(const std::string& path, bool must_exist) {
  Policy policy;
  VR_RETURN_IF_ERROR(AddFile(path, must_exist, policy));
  const std::string directory = std::filesystem::path(path).parent_path().string();
  VR_ASSIGN_OR_RETURN(const std::vector<std::string> drop_ins,
                      DropIns(directory.empty() ? "conf.d" : absl::StrCat(directory, "/conf.d")));
  for (const std::string& file : drop_ins)
    VR_RETURN_IF_ERROR(AddFile(file, /*must_exist=*/true, policy));
  return policy;
}

}  // namespace virt_reclaim::policy
