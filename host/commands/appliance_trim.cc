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
constexpr absl::Duration kApplianceTimeout = absl::Hours(1);
constexpr uint32_t kLetters = 26;  // /dev/sda to /dev/sdz

bool IsPlainName(absl::string_view name) {
  return !name.empty() && name[0] != '.' && name[0] != '-' &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
                  absl::StrContains("+_.-", c);
         });
}

bool IsForAppliance(const freemap::Filesystem& found, const ApplianceRules& rules) {
  if (std::find(std::begin(kTypes), std::end(kTypes), found.type) == std::end(kTypes)) return false;
  // Whether the map of a filesystem that was not read has checksums, nobody knows.
  if (found.refusal == Refusal::kUnknown) return !rules.strict;
  if (found.refusal == Refusal::kDirtyJournal) return rules.replay && !rules.strict;
  return found.refusal == Refusal::kNone && rules.engine == SparsifyEngine::kLibguestfs;
}

bool IsDoubtful(const sparsify::SparsifyResult& result) {
  return std::any_of(
      result.filesystems.begin(), result.filesystems.end(),
      [](const auto& filesystem) { return filesystem.found.refusal == Refusal::kState; });
}

}  // namespace

SparsifyEngine SparsifyEngineOf(absl::string_view word) {
  if (word == "native") return SparsifyEngine::kNative;
  if (word == "libguestfs") return SparsifyEngine::kLibguestfs;
  return SparsifyEngine::kAuto;
}

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

bool IsNamed(const freemap::Filesystem& found, const std::vector<std::string>& devices) {
  if (absl::EndsWith(found.type, "_member") || (found.type.empty() && found.place == "disk"))
    return false;
  const std::string device = DeviceOf(found);
  return !device.empty() && std::find(devices.begin(), devices.end(), device) != devices.end();
}

void AddPassedOver(const sparsify::SparsifyResult& result,
                   std::map<size_t, absl::Status>& appliance) {
  const char* why =
      IsDoubtful(result) ? "nothing is trimmed beside a doubtful state" : "it does not trim this";
  for (size_t i = 0; i < result.filesystems.size(); ++i) {
    if (result.filesystems[i].found.refusal == Refusal::kNone)
      appliance.emplace(i, absl::UnimplementedError(why));
  }
}

std::vector<ApplianceJob> ApplianceJobs(const sparsify::SparsifyResult& result,
                                        const ApplianceRules& rules) {
  std::vector<ApplianceJob> jobs;
  const bool doubtful = IsDoubtful(result);
  for (size_t i = 0; i < result.filesystems.size(); ++i) {
    const freemap::Filesystem& found = result.filesystems[i].found;
    const std::string device = DeviceOf(found);
    if (IsNamed(found, rules.zero)) {
      jobs.push_back({i, device, true});
    } else if (rules.engine != SparsifyEngine::kNative && !doubtful && !device.empty() &&
               IsForAppliance(found, rules)) {
      jobs.push_back({i, device});
    }
  }
  return jobs;
}

absl::StatusOr<std::map<size_t, absl::Status>> RunApplianceJobs(
    const Services& services, const std::vector<OfflineDisk>& disks,
    const std::vector<ApplianceJob>& jobs, const std::stop_token& stop) {
  std::vector<OfflineJob> wanted;
  for (const ApplianceJob& job : jobs) wanted.push_back({job.device, job.zero});
  const auto done = services.offline_guest == nullptr
                        ? absl::UnimplementedError("virt-reclaim-guestfs is not installed")
                        : services.offline_guest->Trim(disks, wanted, kApplianceTimeout, stop);
  if (absl::IsCancelled(done.status())) return done.status();
  std::map<size_t, absl::Status> statuses;
  for (size_t i = 0; i < jobs.size(); ++i) {
    absl::Status status = done.ok() ? (*done)[i] : done.status();
    // What was named is not passed over.
    if (jobs[i].zero && !status.ok()) status = absl::FailedPreconditionError(status.message());
    statuses[jobs[i].filesystem] = status;
  }
  return statuses;
}

absl::Status ApplianceFailure(const std::map<size_t, absl::Status>& appliance) {
  for (const auto& [filesystem, status] : appliance) {
    if (!status.ok() && !absl::IsUnavailable(status) && !absl::IsUnimplemented(status))
      return status;
  }
  return absl::OkStatus();
}

}  // namespace virt_reclaim
