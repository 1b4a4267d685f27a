#include "host/guestfs/offline_reader.h"

#include <guestfs.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/handle.h"
#include "base/status.h"
#include "host/guestfs/guestfs_files.h"
#include "host/guestfs/guestfs_lists.h"
#include "host/guestfs/initramfs_archive.h"

namespace virt_reclaim {
namespace {

using agent::DeviceIds;
using agent::Preflight;

// Filesystems that the files of guest-config/ lie on. Others stay unmounted: less to go wrong.
constexpr absl::string_view kNeededMounts[] = {"/", "/boot", "/boot/efi", "/efi", "/etc", "/usr"};
constexpr size_t kMaxFilesystems = 256;  // that are asked for their UUIDs

bool IsNeeded(absl::string_view mount_point) {
  return std::find(std::begin(kNeededMounts), std::end(kNeededMounts), mount_point) !=
         std::end(kNeededMounts);
}

// A failure of libguestfs, as the end of "the guest is off, and ...".
absl::Status Failed(guestfs_h* handle, absl::string_view what) {
  return Annotate(GuestfsStatus(handle, what), "its disks cannot be read");
}

absl::StatusOr<Guestfs> LaunchForReading(const std::vector<OfflineImage>& images) {
  VR_ASSIGN_OR_RETURN(Guestfs handle, CreateGuestfs());
  for (const OfflineImage& image : images) {
    if (guestfs_add_drive_opts(handle.get(), image.path.c_str(), GUESTFS_ADD_DRIVE_OPTS_READONLY, 1,
                               GUESTFS_ADD_DRIVE_OPTS_FORMAT, image.format.c_str(), -1) != 0) {
      return Failed(handle.get(), absl::StrCat("open '", image.path, "'"));
    }
  }
  if (guestfs_launch(handle.get()) != 0) {
    return Failed(handle.get(), "start libguestfs's appliance");
  }
  return handle;
}

std::string TakeString(char* text) {
  const Handle<char, free> owner(text);
  return owner == nullptr ? "" : owner.get();
}

// Why no operating system was found.
absl::Status NoSystem(guestfs_h* handle) {
  // An encrypted device is no filesystem to list_filesystems.
  for (const auto list : {guestfs_list_devices, guestfs_list_partitions, guestfs_lvs}) {
    const GuestfsList devices(list(handle));
    for (size_t i = 0; i < std::min(devices.size(), kMaxFilesystems); ++i) {
      const std::string type = TakeString(guestfs_vfs_type(handle, devices[i]));
      if (type == "crypto_LUKS" || type == "BitLocker") {
        return absl::FailedPreconditionError("its disks are encrypted");
      }
    }
  }
  return absl::FailedPreconditionError("no operating system was found on its disks");
}

// The one root filesystem.
absl::StatusOr<std::string> FindRoot(guestfs_h* handle) {
  const GuestfsList roots(guestfs_inspect_os(handle));
  if (!roots.ok()) return Failed(handle, "look for an operating system");
  if (roots.size() == 0) return NoSystem(handle);
  if (roots.size() > 1) {
    return absl::FailedPreconditionError(absl::StrCat(
        roots.size(), " operating systems are on its disks, and which one boots is not known"));
  }
  const std::string type = TakeString(guestfs_inspect_get_type(handle, roots[0]));
  if (type != "linux") {
    return absl::FailedPreconditionError(absl::StrCat("its system is ", type, ", not Linux"));
  }
  return std::string(roots[0]);
}

// Mounts what is needed, read-only; says which mount points there are now.
absl::StatusOr<std::vector<std::string>> MountAll(guestfs_h* handle, const std::string& root) {
  const GuestfsList list(guestfs_inspect_get_mountpoints(handle, root.c_str()));
  if (!list.ok()) return Failed(handle, "find its mount points");
  std::map<std::string, std::string> devices;  // sorted: "/" before "/boot" before "/boot/efi"
  for (size_t i = 0; i + 1 < list.size(); i += 2) {
    if (IsNeeded(list[i])) devices.emplace(list[i], list[i + 1]);
  }
  devices.emplace("/", root);
  std::vector<std::string> mounted;
  for (const auto& [mount_point, device] : devices) {
    if (guestfs_mount_ro(handle, device.c_str(), mount_point.c_str()) == 0) {
      mounted.push_back(mount_point);
    } else if (mount_point == "/") {
      return Failed(handle, "mount its root filesystem");
    }
  }
  return mounted;
}

// Filesystems that hold files we look for, by the guest's fstab, and are not mounted here: what is
// on them is unknown, not missing.
void ReportMissingMounts(const agent::ConfigFiles& files, const std::vector<std::string>& mounted,
                         Preflight& out) {
  const std::string fstab = files.Read("/etc/fstab").value_or("");
  for (const std::vector<absl::string_view>& fields : agent::TableLines(fstab, 2)) {
    if (!IsNeeded(fields[1])) continue;
    if (std::find(mounted.begin(), mounted.end(), fields[1]) == mounted.end() &&
        out.names.unread.size() < agent::kMaxPreflightEntries) {
      out.names.unread.push_back(absl::StrCat(fields[1], ": its filesystem could not be mounted"));
    }
  }
}

// What names the guest's devices for good. Only a guest with one disk: which of several is its
// /dev/vdb is a matter of PCI slots.
class Identifier {
 public:
  Identifier(guestfs_h* handle, size_t disks) : handle_(handle), disks_(disks) {}

  std::optional<DeviceIds> Identify(const std::string& path) {
    absl::string_view partition = path;
    if (disks_ != 1 || !absl::ConsumePrefix(&partition, "/dev/vda") ||
        !std::all_of(partition.begin(), partition.end(), absl::ascii_isdigit)) {
      return std::nullopt;
    }
    const GuestfsList blkid(guestfs_blkid(handle_, absl::StrCat("/dev/sda", partition).c_str()));
    if (!blkid.ok()) return std::nullopt;
    DeviceIds ids;
    for (size_t i = 0; i + 1 < blkid.size(); i += 2) {
      const absl::string_view key = blkid[i];
      if (key == "TYPE") ids.type = blkid[i + 1];
      if (key == "USAGE") ids.usage = blkid[i + 1];
      if (key == "UUID") ids.uuid = blkid[i + 1];
      if (key == "PART_ENTRY_UUID") ids.part_uuid = blkid[i + 1];
    }
    if (Uuids()[ids.uuid] > 1) ids.uuid.clear();
    return ids;
  }

 private:
  // How many filesystems have each UUID.
  std::map<std::string, int>& Uuids() {
    if (!uuids_.empty()) return uuids_;
    const GuestfsList filesystems(guestfs_list_filesystems(handle_));
    for (size_t i = 0; i < std::min(filesystems.size(), 2 * kMaxFilesystems); i += 2) {
      ++uuids_[TakeString(guestfs_vfs_uuid(handle_, filesystems[i]))];
    }
    return uuids_;
  }

  guestfs_h* handle_;
  size_t disks_;
  std::map<std::string, int> uuids_;
};

}  // namespace

absl::StatusOr<Preflight> ReadOfflineGuest(const std::vector<OfflineImage>& images) {
  VR_ASSIGN_OR_RETURN(const Guestfs handle, LaunchForReading(images));
  VR_ASSIGN_OR_RETURN(const std::string root, FindRoot(handle.get()));
  VR_ASSIGN_OR_RETURN(const std::vector<std::string> mounted, MountAll(handle.get(), root));
  const GuestfsFiles files(handle.get());
  Identifier identifier(handle.get(), images.size());
  Preflight out;
  agent::ReadConfiguration(
      files, /*running_release=*/"",
      [&](const std::string& path) { return identifier.Identify(path); },
      [&](const std::string& path) -> std::optional<std::string> {
        auto listing = ListInitramfsArchive(files.Open(path));
        // None is without an init: such an archive is not all that the kernel gets.
        if (!listing.ok() || !absl::StrContains(*listing, "init\n")) return std::nullopt;
        return *std::move(listing);
      },
      out);
  ReportMissingMounts(files, mounted, out);
  for (const std::string& path : files.unread()) {
    if (out.names.unread.size() < agent::kMaxPreflightEntries) out.names.unread.push_back(path);
  }
  if (out.names.boot_configs.empty()) {
    out.names.unread.push_back("the next boot's command line: no file of a boot loader was found");
  }
  return out;
}

}  // namespace virt_reclaim
