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

// Behind a bridge, of which a guest tells only what lies behind it.
xml::Domain TwoBehindPorts() {
  xml::Domain domain;
  domain.controllers = {{"pci", "pcie-root-port", 1, xml::PciAddress{0, 0, 2, 0}},
                        {"pci", "pcie-root-port", 2, xml::PciAddress{0, 0, 2, 1}}};
  domain.disks = {VirtioDisk("vda", 1, 0), VirtioDisk("vdb", 2, 0)};
  domain.disks[0].serial = "one";
  domain.disks[1].serial = "two";
  return domain;
}
constexpr char kBehindABridge[] = "0000:07:00.0/virtio";

TEST(MatchGuestDisks, BySerialAndAPartOfAnAddress) {
  const xml::Domain domain = TwoBehindPorts();
  EXPECT_THAT(MatchGuestDisks(domain, Guest({DeviceAt("vdx", kBehindABridge, "", "two"),
                                             DeviceAt("vdy", "0000:08:00.0/virtio", "", "one")})),
              UnorderedElementsAre(Pair("vdx", "vdb"), Pair("vdy", "vda")));
  // As much as that says of another kind of device, on another slot, or without a serial.
  for (const GuestDevice& other :
       {DeviceAt("nvme0n1", "0000:07:00.0", "", "two"), DeviceAt("vdx", kBehindABridge),
        DeviceAt("vdx", "0000:07:01.0/virtio", "", "two"),
        DeviceAt("vdx", "0000:03:02.1/0000:07:01.0/virtio1", "", "two")})
    EXPECT_THAT(MatchGuestDisks(domain, Guest({other})), IsEmpty()) << other.bus_path;
}

TEST(MatchGuestDisks, ASerialAloneTellsNothing) {
  xml::Domain domain = TwoBehindPorts();
  EXPECT_THAT(MatchGuestDisks(domain, Guest({DeviceAt("vda", "", "", "one")})), IsEmpty());
  // What libvirt says no address of.
  domain.disks[0].pci.reset();
  EXPECT_THAT(MatchGuestDisks(domain, Guest({DeviceAt("vda", kBehindABridge, "", "one")})),
              IsEmpty());
}

// A disk of a storage network, or one plugged in since, with a serial that was copied.
TEST(MatchGuestDisks, NoSerialOutweighsAnAddress) {
  xml::Domain domain = TwoBehindPorts();
  domain.controllers.push_back({"scsi", "virtio-scsi", 0, xml::PciAddress{0, 0, 6, 0}});
  domain.controllers.push_back({"scsi", "virtio-scsi", 1, xml::PciAddress{0, 0, 7, 0}});
  xml::Disk scsi;
  scsi.target = "sda";
  scsi.bus = "scsi";
  scsi.serial = "three";
  scsi.drive = xml::DriveAddress{1, 0, 0, 2};
  domain.disks.push_back(scsi);
  for (const GuestDevice& elsewhere :
       {DeviceAt("vdx", "pci0000:00/0000:00:02.2/0000:03:00.0/virtio1", "", "two"),
        DeviceAt("vdx", "pci0000:00/0000:00:09.0/virtio1", "", "two"),
        // The same target and LUN on the other controller, another LUN on its own.
        DeviceAt("sda", "pci0000:00/0000:00:06.0/virtio0/host0/target0:0:0/0:0:0:2", "0:0:0:2",
                 "three"),
        DeviceAt("sda", "pci0000:00/0000:00:07.0/virtio0/host0/target0:0:0/0:0:0:3", "0:0:0:3",
                 "three")})
    EXPECT_THAT(MatchGuestDisks(domain, Guest({elsewhere})), IsEmpty()) << elsewhere.bus_path;
}

TEST(MatchGuestDisks, ByScsiAddressAndSerialWhereTheControllerIsNotTold) {
  xml::Domain domain;
  domain.controllers = {{"pci", "pcie-root-port", 1, xml::PciAddress{0, 0, 2, 0}},
                        {"scsi", "virtio-scsi", 0, xml::PciAddress{0, 1, 0, 0}}};
  xml::Disk disk;
  disk.target = "sda";
  disk.bus = "scsi";
  disk.serial = "own";
  disk.drive = xml::DriveAddress{0, 0, 0, 2};
  domain.disks = {disk};
  const auto match = [&](const char* path, const char* address, const char* serial) {
    return MatchGuestDisks(domain, Guest({DeviceAt("sdx", path, address, serial)}));
  };
  EXPECT_THAT(match("0000:01:00.0", "0:0:0:2", "own"), UnorderedElementsAre(Pair("sdx", "sda")));
  EXPECT_THAT(match("", "0:0:0:2", "own"), UnorderedElementsAre(Pair("sdx", "sda")));
  EXPECT_THAT(match("0000:01:00.0", "0:0:0:2", ""), IsEmpty());
  EXPECT_THAT(match("0000:01:00.0", "0:0:0:1", "own"), IsEmpty());
  EXPECT_THAT(match("0000:01:01.0", "0:0:0:2", "own"), IsEmpty());
  EXPECT_THAT(match("0000:01:00.0", "", "own"), IsEmpty());
}

// Slots below an expander bus are those of below the root bus again.
TEST(MatchGuestDisks, BelowAnExpanderBusIsNotBelowTheRootBus) {
  xml::Domain domain;
  domain.controllers = {{"pci", "pcie-expander-bus", 1, xml::PciAddress{0, 0, 3, 0}},
                        {"pci", "pcie-root-port", 2, xml::PciAddress{0, 1, 1, 0}},
                        {"pci", "pcie-root-port", 3, xml::PciAddress{0, 0, 1, 0}}};
  domain.disks = {VirtioDisk("vda", 3, 0), VirtioDisk("vdb", 2, 0)};
  const std::string below_expander = "pci0000:40/0000:40:01.0/0000:41:00.0/virtio1";
  EXPECT_THAT(MatchGuestDisks(domain, Guest({DeviceAt("vdx", below_expander)})), IsEmpty());
  domain.disks[0].serial = "on-root";
  domain.disks[1].serial = "on-expander";
  EXPECT_THAT(MatchGuestDisks(domain, Guest({DeviceAt("vdx", below_expander, "", "on-expander")})),
              UnorderedElementsAre(Pair("vdx", "vdb")));
  EXPECT_THAT(MatchGuestDisks(domain, Guest({DeviceAt("vdx", below_expander, "", "on-root")})),
              IsEmpty());
}

TEST(MatchGuestDisks, OnUsbBySerialBelowAControllerOfTheDomain) {
  xml::Domain domain;
  domain.controllers = {{"usb", "qemu-xhci", 0, xml::PciAddress{0, 0, 4, 0}},
                        {"virtio-serial", "", 0, xml::PciAddress{0, 0, 5, 0}}};
  xml::Disk disk;
  disk.target = "sda";
  disk.bus = "usb";
  disk.serial = "stick";
  domain.disks = {disk};
  const auto match = [&](const char* path, const char* serial) {
    return MatchGuestDisks(domain, Guest({DeviceAt("sdx", path, "2:0:0:0", serial)}));
  };
  constexpr char kPath[] = "pci0000:00/0000:00:04.0/usb1/1-1/1-1:1.0/host2/target2:0:0/2:0:0:0";
  EXPECT_THAT(match(kPath, "stick"), UnorderedElementsAre(Pair("sdx", "sda")));
  EXPECT_THAT(match(kPath, ""), IsEmpty());
  EXPECT_THAT(match("pci0000:00/0000:00:05.0/usb1/1-1/host2", "stick"), IsEmpty());
  EXPECT_THAT(match("pci0000:00/0000:00:04.0/host2", "stick"), IsEmpty());
  EXPECT_THAT(match("platform/usb1/host2", "stick"), IsEmpty());
}

TEST(MatchOnlyDisk, WhatTheGuestSeesElsewhereIsNotIt) {
  xml::Domain domain = TwoBehindPorts();
  domain.disks.pop_back();
  const auto match = [&](const std::vector<GuestDevice>& devices) {
    std::map<std::string, std::string> matches;
    MatchOnlyDisk(domain, domain.disks[0], Guest(devices), matches);
    return matches;
  };
  EXPECT_THAT(match({DeviceAt("vda1", kBehindABridge), DeviceAt("vda2", kBehindABridge)}),
              UnorderedElementsAre(Pair("vda1", "vda"), Pair("vda2", "vda")));
  EXPECT_THAT(match({}), IsEmpty());
  EXPECT_THAT(match({DeviceAt("sda", "")}), IsEmpty());  // as of a storage network
  EXPECT_THAT(match({DeviceAt("nvme0n1p1", "0000:07:00.0")}), IsEmpty());
  EXPECT_THAT(match({DeviceAt("vda", "pci0000:00/0000:00:05.0/virtio")}), IsEmpty());
  EXPECT_THAT(match({DeviceAt("vda1", kBehindABridge), DeviceAt("vdb1", "0000:08:00.0/virtio")}),
              IsEmpty());
  EXPECT_THAT(match({DeviceAt("vda1", kBehindABridge), DeviceAt("sda", "")}), IsEmpty());
}

TEST(MatchGuestDisks, BySerialCutTo20BytesOnVirtio) {
  xml::Domain domain = TwoBehindPorts();
  domain.disks[0].serial = "0123456789abcdefghijKLMNOP";
  EXPECT_THAT(
      MatchGuestDisks(domain, Guest({DeviceAt("vdz", kBehindABridge, "", "0123456789abcdefghij")})),
      UnorderedElementsAre(Pair("vdz", "vda")));
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
  xml::Domain domain = TwoBehindPorts();
  domain.controllers.push_back({"pci", "pcie-root-port", 3, xml::PciAddress{0, 0, 2, 2}});
  domain.disks.push_back(VirtioDisk("vdc", 3, 0));
  for (xml::Disk& disk : domain.disks) disk.serial = "clone";
  domain.disks[2].serial = "own";
  const std::string here = kBehindABridge;
  EXPECT_THAT(MatchGuestDisks(domain, Guest({DeviceAt("vdx", here, "", "clone"),
                                             DeviceAt("vdy", here, "", "own")})),
              UnorderedElementsAre(Pair("vdy", "vdc")));
  // Whose address is known is not claimed by another's serial.
  const std::string of_vdc = "pci0000:00/0000:00:02.2/0000:03:00.0/virtio1";
  EXPECT_THAT(
      MatchGuestDisks(domain, Guest({DeviceAt("vdx", here, "", "own"), DeviceAt("vdy", of_vdc)})),
      UnorderedElementsAre(Pair("vdy", "vdc")));
  // Nor by two at once.
  EXPECT_THAT(MatchGuestDisks(domain, Guest({DeviceAt("vdx", here, "", "own"),
                                             DeviceAt("vdy", here, "", "own")})),
              IsEmpty());
  // virtio cuts serials, and then they may be equal.
  domain.disks[0].serial = "01234567890123456789-a";
  domain.disks[1].serial = "01234567890123456789-b";
  EXPECT_THAT(MatchGuestDisks(domain, Guest({DeviceAt("vdx", here, "", "01234567890123456789")})),
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
