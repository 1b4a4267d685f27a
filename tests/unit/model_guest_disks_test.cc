#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/model/guest_disks.h"

namespace virt_reclaim {
namespace {

using testing::IsEmpty;
using testing::Pair;
using testing::UnorderedElementsAre;

GuestDevice DeviceAt(const std::string& name, const std::string& bus_path,
                     const std::string& scsi = "", const std::string& serial = "") {
  GuestDevice device;
  device.name = name;
  device.is_disk = true;
  device.size = 1000;
  device.bus_path = bus_path;
  device.scsi_address = scsi;
  device.serial = serial;
  return device;
}

GuestFacts Guest(const std::vector<GuestDevice>& devices) {
  GuestFacts guest;
  for (const GuestDevice& device : devices) {
    GuestFilesystem filesystem;
    filesystem.devices = {device};
    filesystem.size = 950;  // 50 are metadata
    filesystem.used = 100;
    filesystem.free = 850;
    guest.filesystems.push_back(filesystem);
  }
  return guest;
}

xml::Disk VirtioDisk(const std::string& target, uint32_t bus, uint32_t slot) {
  xml::Disk disk;
  disk.target = target;
  disk.bus = "virtio";
  disk.pci = xml::PciAddress{0, bus, slot, 0};
  return disk;
}

TEST(MatchGuestDisks, ByPciSlotOnI440fx) {
  xml::Domain domain;
  domain.disks = {VirtioDisk("vda", 0, 4), VirtioDisk("vdb", 0, 5)};
  // The guest names them the other way round.
  const GuestFacts guest = Guest({DeviceAt("vda", "pci0000:00/0000:00:05.0/virtio1"),
                                  DeviceAt("vdb", "pci0000:00/0000:00:04.0/virtio0")});
  EXPECT_THAT(MatchGuestDisks(domain, guest),
              UnorderedElementsAre(Pair("vda", "vdb"), Pair("vdb", "vda")));
}

xml::Disk DriveDisk(const std::string& target, const std::string& bus, uint32_t drive_bus,
                    uint32_t unit) {
  xml::Disk disk;
  disk.target = target;
  disk.bus = bus;
  disk.drive = xml::DriveAddress{0, drive_bus, 0, unit};
  return disk;
}

TEST(MatchGuestDisks, ByAtaPort) {
  xml::Domain domain;
  domain.controllers = {{"ide", "", 0, xml::PciAddress{0, 0, 1, 1}},
                        {"sata", "", 0, xml::PciAddress{0, 0, 0x1f, 2}}};
  domain.disks = {DriveDisk("hda", "ide", 0, 0), DriveDisk("hdb", "ide", 0, 1),
                  DriveDisk("hdc", "ide", 1, 0), DriveDisk("sda", "sata", 0, 0),
                  DriveDisk("sdb", "sata", 0, 1)};
  const auto device = [](const char* name, const char* path, const char* scsi, uint32_t port) {
    GuestDevice made = DeviceAt(name, path, scsi);
    made.ata_port = port;
    return made;
  };
  const GuestFacts guest =
      Guest({device("sda", "pci0000:00/0000:00:01.1/ata1/host0", "0:0:1:0", 1),
             device("sdb", "pci0000:00/0000:00:01.1/ata2/host1", "1:0:0:0", 2),
             device("sdc", "pci0000:00/0000:00:1f.2/ata4/host3", "3:0:0:0", 2),
             device("sdd", "pci0000:00/0000:00:05.0/ata9/host3", "3:0:0:0", 1),
             device("sde", "pci0000:00/0000:00:1f.2/ata3/host3", "3:0:0:0", 0)});
  EXPECT_THAT(MatchGuestDisks(domain, guest),
              UnorderedElementsAre(Pair("sda", "hdb"), Pair("sdb", "hdc"), Pair("sdc", "sdb")));
}

TEST(MatchGuestDisks, ByRootPortOnQ35WhereBusNumbersDiffer) {
  xml::Domain domain;
  domain.controllers = {{"pci", "pcie-root-port", 3, xml::PciAddress{0, 0, 2, 6}},
                        {"pci", "pcie-root-port", 7, xml::PciAddress{0, 0, 2, 2}}};
  domain.disks = {VirtioDisk("vda", 7, 0), VirtioDisk("vdb", 3, 0)};
  const GuestFacts guest = Guest({DeviceAt("vdx", "pci0000:00/0000:00:02.6/0000:04:00.0/virtio3")});
  EXPECT_THAT(MatchGuestDisks(domain, guest), UnorderedElementsAre(Pair("vdx", "vdb")));
}

TEST(MatchGuestDisks, ByScsiAddressBehindItsController) {
  xml::Domain domain;
  domain.controllers = {{"scsi", "virtio-scsi", 0, xml::PciAddress{0, 0, 6, 0}},
                        {"scsi", "virtio-scsi", 1, xml::PciAddress{0, 0, 7, 0}}};
  xml::Disk disk;
  disk.target = "sda";
  disk.bus = "scsi";
  disk.drive = xml::DriveAddress{1, 0, 0, 2};
  domain.disks = {disk};
  EXPECT_TRUE(MatchGuestDisks(
                  domain, Guest({DeviceAt(
                              "sda", "pci0000:00/0000:00:06.0/virtio0/host0/target0:0:0/0:0:0:2",
                              "0:0:0:2")}))
                  .empty());
  EXPECT_THAT(
      MatchGuestDisks(
          domain,
          Guest({DeviceAt("sdb", "pci0000:00/0000:00:07.0/virtio1/host1/target1:0:0/1:0:0:2",
                          "1:0:0:2")})),
      UnorderedElementsAre(Pair("sdb", "sda")));
}

TEST(MatchGuestDisks, BySerialCutTo20BytesOnVirtio) {
  xml::Domain domain;
  xml::Disk disk;
  disk.target = "vda";
  disk.bus = "virtio";
  disk.serial = "0123456789abcdefghijKLMNOP";
  domain.disks = {disk};
  EXPECT_THAT(MatchGuestDisks(domain, Guest({DeviceAt("vdz", "", "", "0123456789abcdefghij")})),
              UnorderedElementsAre(Pair("vdz", "vda")));
  EXPECT_TRUE(MatchGuestDisks(domain, Guest({DeviceAt("vdz", "", "", "")})).empty());
}

TEST(MatchGuestDisks, AnAddressSaysMoreThanASerial) {
  xml::Domain domain;
  domain.disks = {VirtioDisk("vda", 0, 4), VirtioDisk("vdb", 0, 5)};
  for (xml::Disk& disk : domain.disks) disk.serial = "clone";
  const GuestFacts guest = Guest({DeviceAt("vda", "pci0000:00/0000:00:05.0/virtio1", "", "clone"),
                                  DeviceAt("vdb", "pci0000:00/0000:00:04.0/virtio0", "", "clone")});
  EXPECT_THAT(MatchGuestDisks(domain, guest),
              UnorderedElementsAre(Pair("vda", "vdb"), Pair("vdb", "vda")));
}

TEST(MatchGuestDisks, ASerialThatSeveralHaveTellsNothing) {
  xml::Domain domain;
  domain.disks = {VirtioDisk("vda", 0, 4), VirtioDisk("vdb", 0, 5), VirtioDisk("vdc", 0, 6)};
  for (xml::Disk& disk : domain.disks) disk.serial = "clone";
  domain.disks[2].serial = "own";
  const std::string elsewhere = "pci0000:00/0000:00:1e.0/0000:01:01.0/virtio9";
  EXPECT_THAT(MatchGuestDisks(domain, Guest({DeviceAt("sda", elsewhere, "", "clone"),
                                             DeviceAt("sdb", elsewhere, "", "own")})),
              UnorderedElementsAre(Pair("sdb", "vdc")));
  // Whose address is known is not claimed by another's serial.
  EXPECT_THAT(MatchGuestDisks(domain, Guest({DeviceAt("sda", elsewhere, "", "own"),
                                             DeviceAt("sdb", "pci0000:00/0000:00:06.0/virtio1")})),
              UnorderedElementsAre(Pair("sdb", "vdc")));
  // Nor by two at once.
  EXPECT_THAT(MatchGuestDisks(domain, Guest({DeviceAt("sda", elsewhere, "", "own"),
                                             DeviceAt("sdb", elsewhere, "", "own")})),
              IsEmpty());
  // virtio cuts serials, and then they may be equal.
  domain.disks[0].serial = "01234567890123456789-a";
  domain.disks[1].serial = "01234567890123456789-b";
  EXPECT_THAT(
      MatchGuestDisks(domain, Guest({DeviceAt("sda", elsewhere, "", "01234567890123456789")})),
      IsEmpty());
}

TEST(MatchGuestDisks, BridgesThatPointAtThemselvesEnd) {
  xml::Domain domain;
  domain.controllers = {{"pci", "pcie-root-port", 1, xml::PciAddress{0, 1, 0, 0}}};
  domain.disks = {VirtioDisk("vda", 1, 0)};
  EXPECT_TRUE(
      MatchGuestDisks(domain, Guest({DeviceAt("vda", "pci0000:00/0000:00:00.0/0000:00:00.0")}))
          .empty());
}

TEST(GuestUseByTarget, SumsPerDiskAndCallsTheRestUnknown) {
  const GuestFacts guest = Guest({DeviceAt("vda", "")});
  const auto use = GuestUseByTarget({{"vda", "vda"}}, guest);
  ASSERT_EQ(use.size(), 1u);
  EXPECT_EQ(use.at("vda").used, 100u);
  EXPECT_EQ(use.at("vda").free, 850u);
  EXPECT_EQ(use.at("vda").unknown, 50u);
}

TEST(GuestUseByTarget, PartitionsNotMountedAreUnknown) {
  GuestFacts guest = Guest({DeviceAt("vda", "")});
  GuestDevice partition;
  partition.name = "vda1";
  partition.size = 600;
  partition.parents = {"vda"};
  guest.filesystems[0].size = 590;
  guest.filesystems[0].devices.insert(guest.filesystems[0].devices.begin(), partition);
  EXPECT_EQ(GuestUseByTarget({{"vda", "vda"}}, guest).at("vda").unknown, 410u);
}

TEST(GuestUseByTarget, FilesystemsOnSeveralDisksFreeNothingOfOne) {
  GuestFacts guest;
  GuestFilesystem filesystem;
  filesystem.devices = {DeviceAt("vda", ""), DeviceAt("vdb", "")};
  filesystem.free = 900;
  guest.filesystems = {filesystem};
  const auto use = GuestUseByTarget({{"vda", "vda"}, {"vdb", "vdb"}}, guest);
  EXPECT_EQ(use.at("vda").free, 0u);
  EXPECT_EQ(use.at("vdb").unknown, 1000u);
}

}  // namespace
}  // namespace virt_reclaim
