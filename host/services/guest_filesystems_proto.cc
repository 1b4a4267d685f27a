#include "host/services/guest_filesystems_proto.h"

#include <algorithm>

#include "base/escape.h"

namespace virt_reclaim {
namespace {

namespace v1 = virt_reclaim::agent::v1;

// The contract's limits again: the guest may not keep to them.
constexpr int kMaxPerFilesystem = 64;

GuestDeviceKind FromProto(v1::BlockDeviceKind kind) {
  switch (kind) {
    case v1::BLOCK_DEVICE_KIND_DISK:
      return GuestDeviceKind::kDisk;
    case v1::BLOCK_DEVICE_KIND_PARTITION:
      return GuestDeviceKind::kPartition;
    case v1::BLOCK_DEVICE_KIND_DM_CRYPT:
      return GuestDeviceKind::kDmCrypt;
    case v1::BLOCK_DEVICE_KIND_LVM:
      return GuestDeviceKind::kLvm;
    case v1::BLOCK_DEVICE_KIND_DM_OTHER:
      return GuestDeviceKind::kDmOther;
    case v1::BLOCK_DEVICE_KIND_MD:
      return GuestDeviceKind::kMd;
    case v1::BLOCK_DEVICE_KIND_LOOP:
      return GuestDeviceKind::kLoop;
    default:
      return GuestDeviceKind::kUnknown;
  }
}

GuestDevice FromProto(const v1::BlockDevice& proto) {
  GuestDevice device;
  device.name = Printable(proto.name(), kMaxGuestNameBytes);
  for (int i = 0; i < std::min(proto.parents_size(), kMaxPerFilesystem); ++i) {
    device.parents.push_back(Printable(proto.parents(i), kMaxGuestNameBytes));
  }
  device.is_disk = proto.kind() == v1::BLOCK_DEVICE_KIND_DISK;
  device.size = proto.size_bytes();
  device.discard_max = proto.discard_max_bytes();
  device.serial = Printable(proto.serial(), kMaxGuestNameBytes);
  device.wwid = Printable(proto.wwid(), kMaxGuestNameBytes);
  device.bus_path = Printable(proto.bus_path());
  device.scsi_address = Printable(proto.scsi_address(), kMaxGuestNameBytes);
  device.ata_port = proto.ata_port();
  device.kind = FromProto(proto.kind());
  device.discard_granularity = proto.discard_granularity_bytes();
  device.dm_name = Printable(proto.dm_name(), kMaxGuestNameBytes);
  device.dm_uuid = Printable(proto.dm_uuid(), kMaxGuestNameBytes);
  device.md_level = Printable(proto.md_level(), kMaxGuestNameBytes);
  device.backing_file = Printable(proto.backing_file());
  return device;
}

GuestFilesystem FromProto(const v1::Filesystem& proto) {
  GuestFilesystem filesystem;
  filesystem.source = Printable(proto.source());
  filesystem.type = Printable(proto.type(), kMaxGuestNameBytes);
  filesystem.uuid = Printable(proto.uuid(), kMaxGuestNameBytes);
  for (int i = 0; i < std::min(proto.mount_points_size(), kMaxPerFilesystem); ++i) {
    filesystem.mount_points.push_back(Printable(proto.mount_points(i)));
  }
  if (proto.mount_roots_size() == proto.mount_points_size()) {
    for (size_t i = 0; i < filesystem.mount_points.size(); ++i)
      filesystem.mount_roots.push_back(Printable(proto.mount_roots(static_cast<int>(i))));
  }
  filesystem.size = proto.size_bytes();
  filesystem.used = std::min(proto.used_bytes(), proto.size_bytes());
  filesystem.free = std::min(proto.free_bytes(), proto.size_bytes());
  if (proto.has_freed_since_trim_bytes())
    filesystem.freed_since_trim = std::min(proto.freed_since_trim_bytes(), proto.size_bytes());
  for (int i = 0; i < std::min(proto.devices_size(), kMaxPerFilesystem); ++i) {
    filesystem.devices.push_back(FromProto(proto.devices(i)));
  }
  filesystem.obstacle = virt_reclaim::FromProto(proto.obstacle());
  filesystem.obstacle_device = Printable(proto.obstacle_device(), kMaxGuestNameBytes);
  if (proto.discard_option() == v1::DISCARD_SETTING_ENABLED) filesystem.discard_option = true;
  if (proto.discard_option() == v1::DISCARD_SETTING_DISABLED) filesystem.discard_option = false;
  return filesystem;
}

}  // namespace

GuestObstacle FromProto(v1::TrimObstacle obstacle) {
  switch (obstacle) {
    case v1::TRIM_OBSTACLE_NONE:
      return GuestObstacle::kNone;
    case v1::TRIM_OBSTACLE_READ_ONLY:
      return GuestObstacle::kReadOnly;
    case v1::TRIM_OBSTACLE_NO_DEVICE:
      return GuestObstacle::kNoDevice;
    case v1::TRIM_OBSTACLE_NETWORK:
      return GuestObstacle::kNetwork;
    case v1::TRIM_OBSTACLE_LOOP:
      return GuestObstacle::kLoop;
    case v1::TRIM_OBSTACLE_AUTOFS:
      return GuestObstacle::kAutofs;
    case v1::TRIM_OBSTACLE_TYPE_NOT_SUPPORTED:
      return GuestObstacle::kTypeNotSupported;
    case v1::TRIM_OBSTACLE_DISK_NOT_SUPPORTED:
      return GuestObstacle::kDiskNotSupported;
    case v1::TRIM_OBSTACLE_DM_CRYPT:
      return GuestObstacle::kDmCrypt;
    case v1::TRIM_OBSTACLE_LAYER_NOT_SUPPORTED:
      return GuestObstacle::kLayerNotSupported;
    case v1::TRIM_OBSTACLE_PARTIAL:
      return GuestObstacle::kPartial;
    default:
      return GuestObstacle::kUnknown;
  }
}

std::vector<GuestFilesystem> FromProto(const v1::ListFilesystemsResponse& proto) {
  std::vector<GuestFilesystem> filesystems;
  for (int i = 0; i < std::min(proto.filesystems_size(), kMaxGuestFilesystems); ++i)
    filesystems.push_back(FromProto(proto.filesystems(i)));
  return filesystems;
}

}  // namespace virt_reclaim
