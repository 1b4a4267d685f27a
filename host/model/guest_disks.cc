#include "host/model/guest_disks.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace virt_reclaim {
namespace {

// More than any guest has; one can make up a hundred thousand, and each is compared with each of
// ours.
constexpr size_t kMaxGuestDisks = 4096;

// The way through PCI that the guest sees.
struct PciWay {
  std::vector<std::string> hops;  // "05.0": slot and function
  bool whole = false;  // from libvirt's bus 0 down; else what is above the first hop is not told
};

// Of a sysfs path. Below another root than 0000:00, a pci-expander-bus, the expander itself is no
// hop, and how it is reached is libvirt's to know.
PciWay PciWayOf(absl::string_view bus_path) {
  PciWay way;
  for (absl::string_view part : absl::StrSplit(bus_path, '/')) {
    if (part == "pci0000:00") way.whole = way.hops.empty();
    if (part.size() == 12 && part[4] == ':' && part[7] == ':' && part[10] == '.')
      way.hops.emplace_back(part.substr(8));
  }
  return way;
}

std::string SlotFunction(const xml::PciAddress& pci) {
  return absl::StrFormat("%02x.%x", pci.slot, pci.function);
}

// Slot and function of every hop from the root bus to `pci`. Guest bus numbers are the firmware's,
// not libvirt's, so only slots and functions can be compared: a device on libvirt's bus N sits
// below the pci controller with index N.
std::optional<std::vector<std::string>> HopsTo(const xml::Domain& domain,
                                               const xml::PciAddress& pci) {
  std::vector<std::string> hops{SlotFunction(pci)};
  uint32_t bus = pci.bus;
  for (int depth = 0; bus != 0; ++depth) {
    if (depth > 8) return std::nullopt;  // more bridges than any machine has: a loop
    const auto bridge = std::find_if(
        domain.controllers.begin(), domain.controllers.end(),
        [&](const auto& c) { return c.type == "pci" && c.index == bus && c.pci.has_value(); });
    if (bridge == domain.controllers.end()) return std::nullopt;
    hops.insert(hops.begin(), SlotFunction(*bridge->pci));
    bus = bridge->pci->bus;
  }
  return hops;
}

// What the guest says of a device's place, beside what libvirt says of a disk's.
enum class Place {
  kUntold,  // there is nothing to compare
  kOther,
  kAgrees,  // as far as it is told
  kSame,
};

Place PlaceOnPci(const xml::Domain& domain, const std::optional<xml::PciAddress>& pci,
                 const GuestDevice& device) {
  const PciWay way = PciWayOf(device.bus_path);
  const auto hops = pci ? HopsTo(domain, *pci) : std::nullopt;
  if (way.hops.empty() || !hops) return Place::kUntold;
  if (way.whole) return way.hops == *hops ? Place::kSame : Place::kOther;
  const bool is_end = way.hops.size() < hops->size() &&
                      std::equal(way.hops.rbegin(), way.hops.rend(), hops->rbegin());
  return is_end ? Place::kAgrees : Place::kOther;
}

Place PlaceOfPciDisk(const xml::Domain& domain, const xml::Disk& disk, const GuestDevice& device) {
  const Place place = PlaceOnPci(domain, disk.pci, device);
  // The end of a way is that of many devices.
  const bool other_kind = disk.bus == "virtio" && !absl::StrContains(device.bus_path, "/virtio");
  return place == Place::kAgrees && other_kind ? Place::kOther : place;
}

// Of the controller that the disk hangs on.
Place PlaceOfController(const xml::Domain& domain, const xml::Disk& disk,
                        const GuestDevice& device) {
  const auto controller = std::find_if(
      domain.controllers.begin(), domain.controllers.end(), [&](const xml::Controller& one) {
        return one.type == disk.bus && one.index == disk.drive->controller;
      });
  if (controller == domain.controllers.end()) return Place::kUntold;
  return PlaceOnPci(domain, controller->pci, device);
}

// Target and LUN of "host:channel:target:lun".
std::optional<std::pair<uint32_t, uint32_t>> ParseScsiAddress(absl::string_view text) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ':');
  uint32_t target = 0;
  uint32_t lun = 0;
  if (parts.size() != 4 || !absl::SimpleAtoi(parts[2], &target) ||
      !absl::SimpleAtoi(parts[3], &lun))
    return std::nullopt;
  return std::pair(target, lun);
}

// On its controller; empty: the guest does not say where there.
std::optional<bool> IsAtScsiAddress(const xml::Disk& disk, const GuestDevice& device) {
  const auto address = ParseScsiAddress(device.scsi_address);
  if (!address) return std::nullopt;
  const auto [target, lun] = *address;
  constexpr uint32_t kFlatSpace = 0x4000;  // virtio-scsi: LUN >= 256 in flat space addressing
  return target == disk.drive->target &&
         (lun == disk.drive->unit || lun == disk.drive->unit + kFlatSpace);
}

// libata shows each port as a SCSI host of its own; master and slave are its targets 0 and 1.
std::optional<bool> IsAtAtaPort(const xml::Disk& disk, const GuestDevice& device) {
  if (device.ata_port == 0) return std::nullopt;
  const uint32_t port = device.ata_port - 1;
  if (disk.bus == "sata") return disk.drive->unit == port;
  const auto address = ParseScsiAddress(device.scsi_address);
  if (!address) return std::nullopt;
  return disk.drive->bus == port && disk.drive->unit == address->first;
}

Place PlaceOfDriveDisk(const xml::Domain& domain, const xml::Disk& disk,
                       const GuestDevice& device) {
  std::optional<bool> is_there;
  if (disk.bus == "scsi") is_there = IsAtScsiAddress(disk, device);
  if (disk.bus == "sata" || disk.bus == "ide") is_there = IsAtAtaPort(disk, device);
  const Place controller = PlaceOfController(domain, disk, device);
  if (controller == Place::kOther || is_there == false) return Place::kOther;
  if (!is_there.has_value()) return Place::kUntold;
  return controller == Place::kSame ? Place::kSame : Place::kAgrees;
}

// libvirt's ports of USB are not the kernel's: the controller is all that can be compared.
Place PlaceOfUsbDisk(const xml::Domain& domain, const GuestDevice& device) {
  if (PciWayOf(device.bus_path).hops.empty()) return Place::kUntold;
  const bool below_one_of_ours =
      absl::StrContains(device.bus_path, "/usb") &&
      std::any_of(domain.controllers.begin(), domain.controllers.end(),
                  [&](const xml::Controller& one) {
                    const Place place = PlaceOnPci(domain, one.pci, device);
                    return one.type == "usb" && (place == Place::kSame || place == Place::kAgrees);
                  });
  return below_one_of_ours ? Place::kAgrees : Place::kOther;
}

Place PlaceOfDevice(const xml::Domain& domain, const xml::Disk& disk, const GuestDevice& device) {
  if (disk.pci) return PlaceOfPciDisk(domain, disk, device);
  if (disk.drive) return PlaceOfDriveDisk(domain, disk, device);
  if (disk.bus == "usb") return PlaceOfUsbDisk(domain, device);
  return Place::kUntold;
}

bool MatchesSerial(const xml::Disk& disk, const GuestDevice& device) {
  constexpr size_t kVirtioSerialBytes = 20;  // VIRTIO_BLK_ID_BYTES: longer ones are cut
  if (disk.serial.empty() || device.serial.empty()) return false;
  return device.serial == disk.serial ||
         (disk.bus == "virtio" && device.serial == disk.serial.substr(0, kVirtioSerialBytes));
}

// Null: it is at the address of none.
const xml::Disk* DiskAtAddressOf(const xml::Domain& domain, const GuestDevice& device) {
  const auto disk =
      std::find_if(domain.disks.begin(), domain.disks.end(), [&](const xml::Disk& candidate) {
        return PlaceOfDevice(domain, candidate, device) == Place::kSame;
      });
  return disk == domain.disks.end() ? nullptr : &*disk;
}

// Null: none has it, or several have.
const xml::Disk* OnlyDiskWithSerialOf(const xml::Domain& domain, const GuestDevice& device) {
  const xml::Disk* only = nullptr;
  for (const xml::Disk& disk : domain.disks) {
    if (!MatchesSerial(disk, device)) continue;
    if (only != nullptr) return nullptr;
    only = &disk;
  }
  return only;
}

// Each of them once, however many filesystems lie on it.
std::vector<const GuestDevice*> GuestDisksOf(const GuestFacts& guest) {
  std::vector<const GuestDevice*> disks;
  std::set<absl::string_view> seen;
  for (const GuestFilesystem& filesystem : guest.filesystems) {
    for (const GuestDevice& device : filesystem.devices) {
      if (!device.is_disk || seen.contains(device.name)) continue;
      if (seen.size() >= kMaxGuestDisks) return disks;
      seen.insert(device.name);
      disks.push_back(&device);
    }
  }
  return disks;
}

}  // namespace

std::vector<std::string> DisksOf(const GuestFilesystem& filesystem) {
  std::vector<std::string> disks;
  for (const GuestDevice& device : filesystem.devices) {
    if (device.is_disk) disks.push_back(device.name);
  }
  return disks;
}

std::map<std::string, std::string> MatchGuestDisks(const xml::Domain& domain,
                                                   const GuestFacts& guest) {
  const std::vector<const GuestDevice*> devices = GuestDisksOf(guest);
  std::map<std::string, std::string> matches;
  std::set<absl::string_view> taken;  // targets
  for (const GuestDevice* device : devices) {
    const xml::Disk* disk = DiskAtAddressOf(domain, *device);
    if (disk == nullptr) continue;
    matches[device->name] = disk->target;
    taken.insert(disk->target);
  }
  // Who has an address is known. A serial may be a clone's, too, or that of a disk which libvirt
  // does not know: it counts only with a part of an address, and none against it.
  std::map<absl::string_view, int> claims;  // by target, of guest disks without an address of ours
  std::vector<std::pair<const GuestDevice*, const xml::Disk*>> by_serial;
  for (const GuestDevice* device : devices) {
    if (matches.contains(device->name)) continue;
    const xml::Disk* disk = OnlyDiskWithSerialOf(domain, *device);
    if (disk == nullptr || taken.contains(disk->target) ||
        PlaceOfDevice(domain, *disk, *device) != Place::kAgrees)
      continue;
    ++claims[disk->target];
    by_serial.emplace_back(device, disk);
  }
  for (const auto& [device, disk] : by_serial) {
    if (claims[disk->target] == 1) matches[device->name] = disk->target;
  }
  return matches;
}

void MatchOnlyDisk(const xml::Domain& domain, const xml::Disk& disk, const GuestFacts& guest,
                   std::map<std::string, std::string>& matches) {
  const std::vector<const GuestDevice*> devices = GuestDisksOf(guest);
  const auto is_the_same = [&](const GuestDevice* device) {  // or another partition of it
    const GuestDevice& first = *devices.front();
    return device->bus_path == first.bus_path && device->scsi_address == first.scsi_address &&
           device->ata_port == first.ata_port && device->serial == first.serial &&
           PlaceOfDevice(domain, disk, *device) == Place::kAgrees;
  };
  if (!std::all_of(devices.begin(), devices.end(), is_the_same)) return;
  for (const GuestDevice* device : devices) matches.try_emplace(device->name, disk.target);
}

bool HasAddressOfADisk(const xml::Domain& domain, const GuestDevice& device) {
  return DiskAtAddressOf(domain, device) != nullptr;
}

uint64_t DiscardUnitOf(const std::map<std::string, std::string>& guest_to_target,
                       const GuestFacts& guest, const std::string& target) {
  for (const GuestFilesystem& filesystem : guest.filesystems) {
    for (const GuestDevice& device : filesystem.devices) {
      const auto found = guest_to_target.find(device.name);
      if (device.is_disk && found != guest_to_target.end() && found->second == target)
        return device.discard_granularity;
    }
  }
  return 0;
}

std::map<std::string, GuestDiskUse> GuestUseByTarget(
    const std::map<std::string, std::string>& guest_to_target, const GuestFacts& guest) {
  std::map<std::string, GuestDiskUse> use;
  std::map<std::string, uint64_t> disk_size;
  std::map<std::string, uint64_t> covered;
  for (const GuestFilesystem& filesystem : guest.filesystems) {
    const std::vector<std::string> disks = DisksOf(filesystem);
    for (const GuestDevice& device : filesystem.devices) {
      const auto target = guest_to_target.find(device.name);
      if (!device.is_disk || target == guest_to_target.end()) continue;
      GuestDiskUse& disk = use[target->second];
      disk_size[target->second] = device.size;
      // On several disks (LVM, RAID, btrfs): which part lies on which is not known, so nothing of
      // it counts as free here.
      if (disks.size() != 1) continue;
      disk.used += filesystem.used;
      disk.free += filesystem.free;
      covered[target->second] += filesystem.size;
      if (disk.obstacle == GuestObstacle::kUnknown || disk.obstacle == GuestObstacle::kNone) {
        disk.obstacle = filesystem.obstacle;
        disk.obstacle_device = filesystem.obstacle_device;
      }
    }
  }
  for (auto& [target, disk] : use) {
    const uint64_t size = disk_size[target];
    const uint64_t known = covered[target];
    disk.unknown = size > known ? size - known : 0;
  }
  return use;
}

}  // namespace virt_reclaim
