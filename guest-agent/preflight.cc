#include "guest-agent/preflight.h"

#include <sys/utsname.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <span>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "base/status.h"

namespace virt_reclaim::agent {
namespace {

constexpr size_t kMaxScannedDevices = 4096;
constexpr size_t kMaxListingBytes = size_t{8} << 20;
// A zstd archive of 100 MiB takes a slow guest seconds.
constexpr std::chrono::seconds kListingDeadline{60};

// What is in the archive, by the lister of the tool that made it: it knows the compressions.
std::optional<std::string> ListByProgram(const PreflightSources& sources,
                                         const std::string& initramfs) {
  for (const absl::string_view name : {"lsinitramfs", "lsinitrd", "lsinitcpio"}) {
    const std::string program = FindProgram(sources.files, name);
    if (program.empty()) continue;
    CommandLimits limits;
    limits.deadline = kListingDeadline;
    limits.max_output_bytes = kMaxListingBytes;
    auto result = sources.run({program, initramfs}, limits);
    if (!result.ok() || result->exit_status != 0 || result->truncated) return std::nullopt;
    // lsinitramfs of a damaged archive ends with 0 and half a list; none is without an init.
    if (!absl::StrContains(result->output, "init")) return std::nullopt;
    return std::move(result->output);
  }
  return std::nullopt;
}

bool HasBootMount(const Filesystem& filesystem, absl::string_view mount_point) {
  const auto& points = filesystem.mount_points;
  return std::find(points.begin(), points.end(), mount_point) != points.end();
}

// dm-crypt, LVM and md devices, whether something is mounted on them or not.
void ReadLayers(const std::string& sysfs, Preflight& out) {
  for (const dev_t number : AllBlockDevices(kMaxScannedDevices, sysfs)) {
    const DeviceChain chain = ReadDeviceChain(std::span(&number, 1), sysfs);
    if (chain.devices.empty()) continue;
    const BlockDevice& device = chain.devices.front();
    if (device.kind != DeviceKind::kDmCrypt && device.kind != DeviceKind::kMd) continue;
    std::vector<std::string> members;
    bool members_take = true;
    bool known = !device.parents.empty();
    for (const std::string& parent : device.parents) {
      const auto found =
          std::find_if(chain.devices.begin(), chain.devices.end(),
                       [&](const BlockDevice& below) { return below.name == parent; });
      known = known && found != chain.devices.end();
      if (found == chain.devices.end()) continue;
      members.push_back(found->name);
      members_take = members_take && found->discard_max_bytes > 0;
    }
    DiscardSetting passes = DiscardSetting::kEnabled;
    if (device.discard_max_bytes == 0 || !members_take) passes = DiscardSetting::kDisabled;
    if (!known) passes = DiscardSetting::kUnknown;
    if (device.kind == DeviceKind::kMd) {
      if (out.raid_arrays.size() == kMaxPreflightEntries) {
        out.truncated = true;
        continue;
      }
      out.raid_arrays.push_back({device.name, device.md_level, std::move(members), passes});
      continue;
    }
    // Over a disk that takes none it has none to pass, whatever its flag says: not known.
    if (known && !members_take) passes = DiscardSetting::kUnknown;
    if (out.crypt_devices.size() == kMaxPreflightEntries) {
      out.truncated = true;
      continue;
    }
    out.crypt_devices.push_back({device.name, device.dm_name, passes, DiscardSetting::kUnknown});
  }
}

void ReadMountIdentities(const FilesystemList& list, Preflight& out) {
  out.truncated = out.truncated || list.truncated;
  for (const Filesystem& filesystem : list.filesystems) {
    if (filesystem.chain.devices.empty()) continue;
    if (out.mounts.size() == kMaxPreflightEntries) {
      out.truncated = true;
      break;
    }
    MountIdentity identity = {filesystem.source, filesystem.uuid, filesystem.type,
                              filesystem.mount_points, DiscardSetting::kUnknown};
    if (HasOption(filesystem.options, "discard")) {
      identity.discard_option = DiscardSetting::kEnabled;
    }
    if (HasOption(filesystem.options, "nodiscard")) {
      identity.discard_option = DiscardSetting::kDisabled;
    }
    out.mounts.push_back(std::move(identity));
    if (!HasBootMount(filesystem, "/") && !HasBootMount(filesystem, "/boot") &&
        !HasBootMount(filesystem, "/boot/efi")) {
      continue;
    }
    for (const std::string& disk : filesystem.Disks()) {
      if (std::find(out.boot_disks.begin(), out.boot_disks.end(), disk) == out.boot_disks.end()) {
        out.boot_disks.push_back(disk);
      }
    }
  }
}

}  // namespace

PreflightSources RealPreflightSources() {
  PreflightSources sources;
  utsname names = {};
  if (uname(&names) == 0) sources.kernel_release = names.release;
  sources.read_filesystems = [] { return ReadFilesystems(RealProbes()); };
  sources.identify = IdentifyRealDevice;
  sources.run = RunCommand;
  return sources;
}

absl::StatusOr<Preflight> ReadPreflight(const PreflightSources& sources) {
  VR_ASSIGN_OR_RETURN(const FilesystemList list, sources.read_filesystems());
  Preflight out;
  const auto boot_id = sources.files.Read("/proc/sys/kernel/random/boot_id", 256);
  out.boot_id = std::string(absl::StripAsciiWhitespace(boot_id.ok() ? *boot_id : ""));
  ReadLayers(sources.sysfs, out);
  ReadConfiguration(
      sources.files, sources.kernel_release, sources.identify,
      [&](const std::string& path) { return ListByProgram(sources, path); }, out);
  ReadMountIdentities(list, out);
  return out;
}

}  // namespace virt_reclaim::agent
