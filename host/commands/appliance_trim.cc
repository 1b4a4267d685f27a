#include "host/commands/appliance_trim.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace virt_reclaim {
namespace {

using freemap::Refusal;

// That a Linux kernel trims. NTFS is none of them: an appliance trims one that hibernates.
constexpr absl::string_view kTypes[] = {"ext2", "ext3", "ext4", "xfs",    "btrfs",
                                        "vfat", "f2fs", "jfs",  "nilfs2", "exfat"};
constexpr uint32_t kLetters = 26;  // /dev/sda to /dev/sdz

bool IsPlainName(absl::string_view name) {
  return !name.empty() && name[0] != '.' && name[0] != '-' &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
                  absl::StrContains("+_.-", c);
         });
}

bool IsForAppliance(const freemap::Filesystem& found, SparsifyEngine engine, bool replay) {
  if (std::find(std::begin(kTypes), std::end(kTypes), found.type) == std::end(kTypes)) return false;
  if (found.refusal == Refusal::kUnknown) return true;
  if (found.refusal == Refusal::kDirtyJournal) return replay;
  return found.refusal == Refusal::kNone && engine == SparsifyEngine::kLibguestfs;
}

}  // namespace

std::string DeviceOf(const freemap::Filesystem& found) {
  absl::string_view place = found.place;
  if (found.mapped) {
    const size_t slash = place.find('/');
    if (slash == absl::string_view::npos || !IsPlainName(place.substr(0, slash)) ||
        !IsPlainName(place.substr(slash + 1))) {
      return "";
    }
    return absl::StrCat("/dev/", place);
  }
  if (found.disk >= kLetters) return "";
  const std::string disk =
      absl::StrCat("/dev/sd", std::string(1, static_cast<char>('a' + found.disk)));
  if (place == "disk") return disk;
  if (!absl::ConsumePrefix(&place, "partition ")) return "";
  return absl::StrCat(disk, place);
}

std::vector<ApplianceJob> ApplianceJobs(const sparsify::SparsifyResult& result,
                                        SparsifyEngine engine, bool replay) {
  std::vector<ApplianceJob> jobs;
  if (engine == SparsifyEngine::kNative) return jobs;
  for (size_t i = 0; i < result.filesystems.size(); ++i) {
    const freemap::Filesystem& found = result.filesystems[i].found;
    if (found.refusal == Refusal::kState) return {};
    if (!IsForAppliance(found, engine, replay)) continue;
    if (const std::string device = DeviceOf(found); !device.empty()) jobs.push_back({i, device});
  }
  return jobs;
}

}  // namespace virt_reclaim
