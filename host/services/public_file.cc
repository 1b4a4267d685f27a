#include "host/services/public_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/io.h"
#include "base/status.h"

namespace virt_reclaim {
namespace {

constexpr absl::Duration kForgotten = absl::Hours(1);
constexpr size_t kSuffix = 6;  // of mkostemp

// "NAME.a1B2c3", as WriteFileDurably calls its temporary files.
bool IsTemporary(absl::string_view name, absl::string_view of) {
  return absl::ConsumePrefix(&name, of) && absl::ConsumePrefix(&name, ".") &&
         name.size() == kSuffix && std::all_of(name.begin(), name.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c));
         });
}

void RemoveForgotten(const std::string& path, absl::Time now) {
  const std::filesystem::path file(path);
  const std::filesystem::path directory = file.has_parent_path() ? file.parent_path() : ".";
  std::error_code error;
  for (std::filesystem::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    if (!IsTemporary(entry->path().filename().string(), file.filename().string())) continue;
    struct stat st;
    const std::string name = entry->path().string();
    const bool forgotten = lstat(name.c_str(), &st) == 0 && S_ISREG(st.st_mode) &&
                           absl::FromTimeT(st.st_mtime) < now - kForgotten;
    if (forgotten) unlink(name.c_str());
  }
}

}  // namespace

absl::Status WritePublicFile(const std::string& path, absl::string_view content, absl::Time now) {
  struct stat st;
  // A rename would put a file in the place of /dev/stdout.
  if (lstat(path.c_str(), &st) == 0 && !S_ISREG(st.st_mode))
    return absl::InvalidArgumentError(absl::StrCat("'", path, "' is not a regular file"));
  VR_RETURN_IF_ERROR(WriteFileDurably(path, content, 0644));
  RemoveForgotten(path, now);
  return absl::OkStatus();
}

}  // namespace virt_reclaim
