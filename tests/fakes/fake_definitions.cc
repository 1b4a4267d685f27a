// What a fake domain is made of: its XML, and the filesystems of its guest.
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tests/fakes/fake_world.h"

namespace virt_reclaim {

std::string Uuid(int number) {
  return absl::StrCat("11111111-2222-3333-4444-", 555555555000 + number);
}

std::string DomainXml(const std::string& name, const std::string& uuid, const std::string& machine,
                      const std::vector<FakeDisk>& disks, const std::string& channel_state) {
  std::string xml = absl::StrCat("<domain type='kvm'>\n  <name>", name, "</name>\n  <uuid>", uuid,
                                 "</uuid>\n  <os>\n    <type arch='x86_64' machine='", machine,
                                 "'>hvm</type>\n  </os>\n  <devices>\n");
  uint32_t slot = 5;
  for (const FakeDisk& disk : disks) {
    const std::string discard =
        disk.discard.empty() ? "" : absl::StrCat(" discard='", disk.discard, "'");
    absl::StrAppend(
        &xml, "    <disk type='file' device='disk'>\n      <driver name='qemu' type='raw'", discard,
        "/>\n      <source file='", disk.image, "'/>\n      <target dev='", disk.target, "' bus='",
        disk.bus, "'/>\n      <address type='pci' domain='0x0000' bus='0x00' slot='",
        absl::StrFormat("0x%02x", slot++), "' function='0x0'/>\n    </disk>\n");
  }
  if (!channel_state.empty()) {
    absl::StrAppend(&xml,
                    "    <controller type='virtio-serial' index='0'/>\n    <channel type='unix'>\n "
                    "     <target type='virtio' name='",
                    kAgentChannelName, "' state='", channel_state, "'/>\n    </channel>\n");
  }
  return xml + "  </devices>\n</domain>\n";
}

GuestFilesystem FilesystemOn(const std::string& disk, uint32_t slot, const std::string& mount_point,
                             uint64_t size, uint64_t used) {
  GuestFilesystem filesystem;
  filesystem.source = "/dev/" + disk;
  filesystem.type = "ext4";
  filesystem.mount_points = {mount_point};
  filesystem.size = size;
  filesystem.used = used;
  filesystem.free = size - used;
  filesystem.obstacle = GuestObstacle::kNone;
  GuestDevice device;
  device.name = disk;
  device.is_disk = true;
  device.size = size;
  device.bus_path = absl::StrFormat("pci0000:00/0000:00:%02x.0/virtio2", slot);
  filesystem.devices = {device};
  return filesystem;
}

}  // namespace virt_reclaim
