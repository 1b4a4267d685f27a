#include "host/model/guest_disks.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace virt_reclaim {
namespace {

// More than any guest has; one can make up a hundred thousand, and each is compared with each of
// ours.
constexpr size_t kMaxGuestDisks = 4096;

// The "0000:00:05.0" components of a sysfs path, from the root complex down.
std::vector<std::string> PciChain(absl::string_view bus_path) {
  std::vector<std::string> chain;
  for (absl::string_view part : absl::StrSplit(bus_path, '/')) {
    if (part.size() == 12 && part[4] == ':' && part[7] == ':' && part[10] == '.')
      chain.emplace_back(part);
  }
  return chain;
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

bool SameHops(const std::vector<std::string>& guest_chain, const std::vector<std::string>& hops) {
  if (guest_chain.size() != hops.size()) return false;
  for (size_t i = 0; i < hops.size(); ++i) {
    if (absl::string_view(guest_chain[i]).substr(8) != hops[i]) return false;  // after "0000:00:"
  }
  return true;
}

bool MatchesPci(const xml::Domain& domain, const xml::Disk& disk, const GuestDevice& device) {
  if (!disk.pci) return false;
  const auto hops = HopsTo(domain, *disk.pci);
  return hops && SameHops(PciChain(device.bus_path), *hops);
}

// The disk's controller has the PCI address that the guest sees the device below.
bool IsBelowController(const xml::Domain& domain, const xml::Disk& disk,
                       const GuestDevice& device) {
  for (const xml::Controller& controller : domain.controllers) {
    if (controller.type != disk.bus || controller.index != disk.drive->controller ||
        !controller.pci)
      continue;
    const auto hops = HopsTo(domain, *controller.pci);
    return hops && SameHops(PciChain(device.bus_path), *hops);
  }
  return false;
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

// SCSI: the controller by its PCI address, the disk by target and unit.
bool MatchesScsi(const xml::Domain& domain, const xml::Disk& disk, const GuestDevice& device) {
  const auto address = ParseScsiAddress(device.scsi_address);
  if (disk.bus != "scsi" || !disk.drive || !address) return false;
  const auto [target, lun] = *address;
  constexpr uint32_t kFlatSpace = 0x4000;  // virtio-scsi: LUN >= 256 in flat space addressing
  if (target != disk.drive->target ||
      (lun != disk.drive->unit && lun != disk.drive->unit + kFlatSpace))
    return false;
  return IsBelowController(domain, disk, device);
}

// libata shows each port as a SCSI host of its own; master and slave are its targets 0 and 1.
bool MatchesAta(const xml::Domain& domain, const xml::Disk& disk, const GuestDevice& device) {
  if (!disk.drive || device.ata_port == 0) return false;
  const uint32_t port = device.ata_port - 1;
  if (disk.bus == "sata") {
    if (disk.drive->unit != port) return false;
  } else if (disk.bus == "ide") {
    const auto address = ParseScsiAddress(device.scsi_address);
    if (!address || disk.drive->bus != port || disk.drive->unit != address->first) return false;
  } else {
    return false;
  }
  return IsBelowController(domain, disk, device);
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
        return MatchesPci(domain, candidate, device) || MatchesScsi(domain, candidate, device) ||
               MatchesAta(domain, candidate, device);
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
  // Who has an address is known; a serial may be a clone's, too.
  std::map<absl::string_view, int> claims;  // by target, of guest disks without an address of ours
  std::vector<std::pair<const GuestDevice*, const xml::Disk*>> by_serial;
  for (const GuestDevice* device : devices) {
    if (matches.contains(device->name)) continue;
    const xml::Disk* disk = OnlyDiskWithSerialOf(domain, *device);
    if (disk == nullptr || taken.contains(disk->target)) continue;
    ++claims[disk->target];
    by_serial.emplace_back(device, disk);
  }
  for (const auto& [device, disk] : by_serial) {
    if (claims[disk->target] == 1) matches[device->name] = disk->target;
  }
  return matches;
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
