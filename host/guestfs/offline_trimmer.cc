#include "host/guestfs/offline_trimmer.h"

#include <guestfs.h>

#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/handle.h"
#include "base/status.h"
#include "host/guestfs/guestfs_files.h"

namespace virt_reclaim {
namespace {

absl::StatusOr<Guestfs> LaunchForTrim(const std::vector<OfflineImage>& images) {
  VR_ASSIGN_OR_RETURN(Guestfs handle, CreateGuestfs());
  // Its QEMU must be our child, so that who looks after the images can tell it from others,
  // whatever LIBGUESTFS_BACKEND says; libvirt would give them another owner besides.
  if (guestfs_set_backend(handle.get(), "direct") != 0)
    return GuestfsStatus(handle.get(), "choose libguestfs's backend");
  for (const OfflineImage& image : images) {
    // "enable": fails where discards would be dropped.
    if (guestfs_add_drive_opts(handle.get(), image.path.c_str(), GUESTFS_ADD_DRIVE_OPTS_FORMAT,
                               image.format.c_str(), GUESTFS_ADD_DRIVE_OPTS_DISCARD, "enable",
                               -1) != 0) {
      return GuestfsStatus(handle.get(), absl::StrCat("open '", image.path, "'"));
    }
  }
  if (guestfs_launch(handle.get()) != 0)
    return GuestfsStatus(handle.get(), "start libguestfs's appliance");
  return handle;
}

// btrfs goes on with a balance that was paused, at each mount that does not forbid it (btrfs(5)).
const char* OptionsFor(guestfs_h* handle, const std::string& device) {
  const Handle<char, free> type(guestfs_vfs_type(handle, device.c_str()));
  return type != nullptr && strcmp(type.get(), "btrfs") == 0 ? "discard,skip_balance" : "discard";
}

absl::Status Trim(guestfs_h* handle, const std::string& device) {
  if (guestfs_mount_options(handle, OptionsFor(handle, device), device.c_str(), "/") != 0)
    return absl::UnavailableError(GuestfsStatus(handle, "mount").message());
  absl::Status status;
  if (guestfs_fstrim(handle, "/", -1) != 0) status = GuestfsStatus(handle, "trim");
  if (guestfs_umount_all(handle) != 0 && status.ok()) status = GuestfsStatus(handle, "unmount");
  return status;
}

absl::Status Zero(guestfs_h* handle, const std::string& device) {
  if (guestfs_zero_device(handle, device.c_str()) != 0) return GuestfsStatus(handle, "zero");
  // Zeroes it is; that they take no space is all that can fail now.
  if (guestfs_blkdiscard(handle, device.c_str()) != 0) return GuestfsStatus(handle, "discard");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<TrimmedDevice>> TrimOfflineGuest(const std::vector<OfflineImage>& images,
                                                            const std::vector<DeviceJob>& jobs) {
  VR_ASSIGN_OR_RETURN(const Guestfs handle, LaunchForTrim(images));
  std::vector<TrimmedDevice> trimmed;
  for (const DeviceJob& job : jobs) {
    trimmed.push_back(
        {job.device, job.zero ? Zero(handle.get(), job.device) : Trim(handle.get(), job.device)});
  }
  // Flushes; an error of a delayed write comes here.
  if (guestfs_shutdown(handle.get()) != 0)
    return GuestfsStatus(handle.get(), "shut the appliance down");
  return trimmed;
}

}  // namespace virt_reclaim
