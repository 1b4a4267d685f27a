#include "host/cli/virt_sparsify_tmp.h"

#include <sys/stat.h>
#include <sys/statvfs.h>

#include <cstdlib>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/escape.h"

namespace virt_reclaim {
namespace {

std::optional<mode_t> ModeOf(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0) return std::nullopt;
  return status.st_mode;
}

absl::StatusOr<std::string> StandardDirectory() {
  const char* set = getenv("TMPDIR");
  std::string directory = set == nullptr || *set == '\0' ? "/tmp" : set;
  if (ModeOf(directory)) return directory;
  return absl::NotFoundError(
      absl::StrCat("libguestfs error: converting path to absolute path: TMPDIR: ", directory,
                   ": realpath: No such file or directory"));
}

absl::Status CheckPrebuilt(const std::string& file, ImageStore& images) {
  const auto wrong = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("--tmp prebuilt:file: ", file, ": ", what));
  };
  if (!ModeOf(file)) return wrong("file does not exist");
  const auto header = images.ReadHeader(file, "");
  if (!header.ok()) return header.status();
  if (header->format != "qcow2") return wrong("file format is not qcow2");
  if (!header->backing) return wrong("file does not have backing file");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<VirtSparsifyTmp> ChooseTmp(const std::string& tmp, ImageStore& images) {
  VirtSparsifyTmp chosen;
  absl::string_view file = tmp;
  const auto mode = ModeOf(tmp);
  if (mode && S_ISDIR(*mode)) {
    chosen.directory = tmp;
    return chosen;
  }
  if (mode && S_ISBLK(*mode)) {
    chosen.device = tmp;
  } else if (absl::ConsumePrefix(&file, "prebuilt:")) {
    chosen.prebuilt = std::string(file);
    if (const absl::Status checked = CheckPrebuilt(chosen.prebuilt, images); !checked.ok())
      return checked;
  } else if (!tmp.empty()) {
    return absl::InvalidArgumentError(
        "--tmp parameter must point to a directory, block device or prebuilt file");
  }
  auto directory = StandardDirectory();
  if (!directory.ok()) return directory.status();
  chosen.directory = *std::move(directory);
  return chosen;
}

std::string TooLittleSpace(const std::string& directory, uint64_t needed) {
  struct statvfs room;
  if (statvfs(directory.c_str(), &room) != 0) return "";
  const uint64_t free = uint64_t{room.f_bavail} * room.f_frsize;
  if (needed <= free) return "";
  return absl::StrFormat(R"(There may not be enough free space on %s.
You may need to set TMPDIR to point to a directory with more free space.

Max needed: %s.  Free: %s.  May need another %s.

Note this is an overestimate.  If the guest disk is full of data
then not as much free space would be required.

You can ignore this warning or change it to a hard failure using the
--check-tmpdir=(ignore|continue|warn|fail) option.  See virt-sparsify(1).
)",
                         Printable(directory), HumanSize(needed), HumanSize(free),
                         HumanSize(needed - free));
}

std::string HumanSize(uint64_t bytes) {
  constexpr absl::string_view kUnits = "KMGTPE";
  constexpr double kStep = 1024;
  if (bytes < 1024) return absl::StrCat(bytes);
  double size = static_cast<double>(bytes) / kStep;
  size_t unit = 0;
  // Rounded up to the next unit it would read "1024M".
  while (size >= kStep - 0.5 && unit + 1 < kUnits.size()) {
    size /= kStep;
    ++unit;
  }
  return absl::StrFormat("%.*f%c", size < 9.95 ? 1 : 0, size, kUnits[unit]);
}

}  // namespace virt_reclaim
