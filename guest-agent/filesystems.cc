#include "guest-agent/filesystems.h"

#include <sys/sysmacros.h>

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "base/status.h"

namespace virt_reclaim::agent {
namespace {

bool OneOf(absl::string_view word, std::initializer_list<absl::string_view> list) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

bool IsFuse(absl::string_view type) {
  return type == "fuse" || type == "fuseblk" || type.substr(0, 5) == "fuse.";
}

// Beside what libmount knows: filesystems whose answers come from another machine or another
// process.
bool IsNetwork(const Mount& mount) {
  return mount.network ||
         OneOf(mount.type, {"ceph", "9p", "virtiofs", "vboxsf", "lustre", "glusterfs", "afs",
                            "smb3", "fuse.glusterfs", "fuse.sshfs", "fuse.s3fs", "fuse.rclone"});
}

// Filesystems on a disk without a FITRIM: read-only images and the ones never taught it
// (ioctl_fitrim users in Linux 6.x).
bool IsKnownWithoutTrim(absl::string_view type) {
  return OneOf(type, {"squashfs", "iso9660", "udf", "erofs", "cramfs", "romfs", "minix", "hfs",
                      "hfsplus", "ufs", "reiserfs", "befs", "qnx4", "qnx6", "sysv", "affs"});
}

std::vector<dev_t> TopDevices(const Mount& mount, const std::string& uuid,
                              const SystemProbes& probes) {
  if (major(mount.device) != 0) return {mount.device};
  return uuid.empty() ? std::vector<dev_t>() : BtrfsMembers(uuid, probes.sysfs);
}

Verdict JudgeFilesystem(const Filesystem& filesystem, const Mount& mount) {
  if (mount.type == "autofs") return {Obstacle::kAutofs, ""};
  if (IsNetwork(mount)) return {Obstacle::kNetwork, ""};
  if (filesystem.chain.devices.empty()) return {Obstacle::kNoDevice, ""};
  if (IsKnownWithoutTrim(mount.type)) return {Obstacle::kTypeNotSupported, ""};
  if (filesystem.read_only) return {Obstacle::kReadOnly, ""};
  return JudgeChain(filesystem.chain);
}

Filesystem ReadFilesystem(const MountTable& table, const MountGroup& group,
                          const SystemProbes& probes, bool& truncated) {
  const Mount& mount = table.mounts[group.front()];
  Filesystem filesystem;
  filesystem.source = mount.source;
  filesystem.type = mount.type;
  filesystem.device = mount.device;
  filesystem.read_only = mount.read_only;
  filesystem.options = mount.options;
  for (const size_t i : group) {
    if (filesystem.mount_points.size() == kMaxMountPoints) {
      truncated = true;
      break;
    }
    filesystem.mount_points.push_back(table.mounts[i].target);
    filesystem.mount_roots.push_back(WholeRoot(table.mounts[i]));
  }
  const bool remote = IsNetwork(mount) || IsFuse(mount.type) || mount.type == "autofs";
  if (!remote) {
    if (mount.type == "btrfs") filesystem.uuid = probes.btrfs_uuid(mount.target);
    filesystem.chain = ReadDeviceChain(TopDevices(mount, filesystem.uuid, probes), probes.sysfs);
    if (const auto space = probes.space(mount.target)) {
      filesystem.size_bytes = space->size_bytes;
      filesystem.used_bytes = space->used_bytes;
      filesystem.free_bytes = space->free_bytes;
    }
  } else if (mount.type == "fuseblk") {
    filesystem.chain = ReadDeviceChain(TopDevices(mount, "", probes), probes.sysfs);
  }
  truncated = truncated || filesystem.chain.truncated;
  if (filesystem.uuid.empty() && !filesystem.chain.devices.empty()) {
    const BlockDevice& top = filesystem.chain.devices.front();
    filesystem.uuid = probes.device_uuid(top.number, top.name);
  }
  filesystem.verdict = JudgeFilesystem(filesystem, mount);
  return filesystem;
}

}  // namespace

std::vector<std::string> Filesystem::Disks() const {
  std::vector<std::string> names;
  for (const BlockDevice& below : chain.devices) {
    if (below.kind == DeviceKind::kDisk) names.push_back(below.name);
  }
  return names;
}

absl::StatusOr<FilesystemList> ReadFilesystems(const SystemProbes& probes) {
  VR_ASSIGN_OR_RETURN(const MountTable table, ReadMounts(probes.mountinfo));
  FilesystemList list;
  list.truncated = table.truncated;
  // What lies on disks first: when the limit cuts, it cuts tmpfs and the like.
  std::vector<MountGroup> groups = GroupByFilesystem(table);
  std::stable_partition(groups.begin(), groups.end(), [&](const MountGroup& group) {
    return !table.mounts[group.front()].pseudo;
  });
  for (const MountGroup& group : groups) {
    if (list.filesystems.size() == kMaxFilesystems) {
      list.truncated = true;
      break;
    }
    list.filesystems.push_back(ReadFilesystem(table, group, probes, list.truncated));
  }
  return list;
}

}  // namespace virt_reclaim::agent
