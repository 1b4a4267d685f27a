// The walk from a filesystem's device to its disks, and the verdict on it, for every way discards
// were seen to be dropped.
#include <gmock/gmock.h>
#include <sys/sysmacros.h>

#include "guest-agent/block_devices.h"
#include "tests/unit/agent_fixtures.h"

namespace virt_reclaim::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr uint64_t kVirtioMax = 2147483136;

DeviceChain Chain(const FakeSysfs& sysfs, std::vector<dev_t> tops) {
  return ReadDeviceChain(tops, sysfs.path());
}

std::vector<std::string> Names(const DeviceChain& chain) {
  std::vector<std::string> names;
  for (const BlockDevice& device : chain.devices) names.push_back(device.name);
  return names;
}

void ExpectVerdict(const DeviceChain& chain, Obstacle obstacle, const std::string& device) {
  const Verdict verdict = JudgeChain(chain);
  EXPECT_EQ(ObstacleName(verdict.obstacle), ObstacleName(obstacle));
  EXPECT_EQ(verdict.device, device);
}

// vda with vda1, the disk of most tests.
struct BlockDevicesTest : ::testing::Test {
  BlockDevicesTest() {
    sysfs.Disk("vda", "254:0", kVirtioMax);
    sysfs.Partition("vda", "vda1", "254:1");
  }
  FakeSysfs sysfs;
};

TEST_F(BlockDevicesTest, PlainPartition) {
  const DeviceChain chain = Chain(sysfs, {makedev(254, 1)});
  ASSERT_THAT(Names(chain), ElementsAre("vda1", "vda"));
  EXPECT_EQ(chain.tops, 1U);
  EXPECT_EQ(chain.devices[0].kind, DeviceKind::kPartition);
  EXPECT_EQ(chain.devices[0].start_bytes, 2048U * 512);
  EXPECT_EQ(chain.devices[0].size_bytes, 2048U * 512);
  EXPECT_EQ(chain.devices[0].discard_max_bytes, kVirtioMax);
  EXPECT_THAT(chain.devices[0].parents, ElementsAre("vda"));
  EXPECT_EQ(chain.devices[1].kind, DeviceKind::kDisk);
  EXPECT_EQ(chain.devices[1].bus_path, "pci0000:00/0000:00:05.0/virtio2");
  EXPECT_THAT(chain.devices[1].parents, IsEmpty());
  ExpectVerdict(chain, Obstacle::kNone, "");
}

TEST_F(BlockDevicesTest, PartitionThatStartsAtOddSector) {
  sysfs.Partition("vda", "vda2", "254:2", 1);
  EXPECT_EQ(Chain(sysfs, {makedev(254, 2)}).devices[0].start_bytes, 512U);
}

TEST_F(BlockDevicesTest, VirtioBlkWithoutDiscard) {
  sysfs.Disk("vdb", "254:16", 0);
  sysfs.Partition("vdb", "vdb1", "254:17");
  ExpectVerdict(Chain(sysfs, {makedev(254, 17)}), Obstacle::kDiskNotSupported, "vdb");
  ExpectVerdict(Chain(sysfs, {makedev(254, 16)}), Obstacle::kDiskNotSupported, "vdb");
}

TEST_F(BlockDevicesTest, LvmLinear) {
  sysfs.Mapper("dm-0", "253:0", kVirtioMax, "LVM-abc", {"vda1"}, "vg-root");
  const DeviceChain chain = Chain(sysfs, {makedev(253, 0)});
  EXPECT_THAT(Names(chain), ElementsAre("dm-0", "vda1", "vda"));
  EXPECT_EQ(chain.devices[0].kind, DeviceKind::kLvm);
  EXPECT_EQ(chain.devices[0].dm_name, "vg-root");
  EXPECT_EQ(chain.devices[0].dm_uuid, "LVM-abc");
  ExpectVerdict(chain, Obstacle::kNone, "");
}

// thin -> tpool -> tmeta and tdata -> disk
void MakeThin(FakeSysfs& sysfs, uint64_t thin, uint64_t pool) {
  sysfs.Mapper("dm-0", "253:0", kVirtioMax, "LVM-aaa-tmeta", {"vda1"});
  sysfs.Mapper("dm-1", "253:1", kVirtioMax, "LVM-bbb-tdata", {"vda1"});
  sysfs.Mapper("dm-2", "253:2", pool, "LVM-ccc-tpool", {"dm-0", "dm-1"});
  sysfs.Mapper("dm-3", "253:3", thin, "LVM-ddd", {"dm-2"});
}

TEST_F(BlockDevicesTest, ThinWithPassdown) {
  MakeThin(sysfs, uint64_t{16} << 30, kVirtioMax);
  const DeviceChain chain = Chain(sysfs, {makedev(253, 3)});
  EXPECT_THAT(Names(chain), ElementsAre("dm-3", "dm-2", "dm-0", "dm-1", "vda1", "vda"));
  ExpectVerdict(chain, Obstacle::kNone, "");
}

TEST_F(BlockDevicesTest, ThinWithoutPassdownLooksFineButThePoolDrops) {
  MakeThin(sysfs, uint64_t{16} << 30, 0);
  ExpectVerdict(Chain(sysfs, {makedev(253, 3)}), Obstacle::kLayerNotSupported, "dm-2");
}

TEST_F(BlockDevicesTest, ThinThatIgnoresDiscards) {
  MakeThin(sysfs, 0, 0);
  ExpectVerdict(Chain(sysfs, {makedev(253, 3)}), Obstacle::kLayerNotSupported, "dm-2");
}

TEST_F(BlockDevicesTest, ThinMetadataOnDiskWithoutDiscardDoesNotMatter) {
  sysfs.Disk("vdb", "254:16", 0);
  sysfs.Mapper("dm-0", "253:0", 0, "LVM-aaa-tmeta", {"vdb"});
  sysfs.Mapper("dm-1", "253:1", kVirtioMax, "LVM-bbb-tdata", {"vda1"});
  sysfs.Mapper("dm-2", "253:2", kVirtioMax, "LVM-ccc-tpool", {"dm-0", "dm-1"});
  ExpectVerdict(Chain(sysfs, {makedev(253, 2)}), Obstacle::kNone, "");
}

TEST_F(BlockDevicesTest, DmCrypt) {
  sysfs.Mapper("dm-0", "253:0", 0, "CRYPT-LUKS2-abc-root", {"vda1"}, "root");
  const DeviceChain chain = Chain(sysfs, {makedev(253, 0)});
  EXPECT_EQ(chain.devices[0].kind, DeviceKind::kDmCrypt);
  ExpectVerdict(chain, Obstacle::kDmCrypt, "dm-0");
}

TEST_F(BlockDevicesTest, DmCryptBelowLvmIsTheCulpritNotLvm) {
  sysfs.Mapper("dm-0", "253:0", 0, "CRYPT-LUKS2-abc-root", {"vda1"});
  sysfs.Mapper("dm-1", "253:1", 0, "LVM-abc", {"dm-0"});
  ExpectVerdict(Chain(sysfs, {makedev(253, 1)}), Obstacle::kDmCrypt, "dm-0");
}

TEST_F(BlockDevicesTest, DmCryptOverDiskWithoutDiscardBlamesTheDisk) {
  sysfs.Disk("vdb", "254:16", 0);
  sysfs.Mapper("dm-0", "253:0", 0, "CRYPT-LUKS2-abc-root", {"vdb"});
  ExpectVerdict(Chain(sysfs, {makedev(253, 0)}), Obstacle::kDiskNotSupported, "vdb");
}

TEST_F(BlockDevicesTest, MirrorWithOneLegWithoutDiscard) {
  sysfs.Disk("vdb", "254:16", 0);
  sysfs.Raid("md0", "9:0", kVirtioMax, {"vda1", "vdb"});
  const DeviceChain chain = Chain(sysfs, {makedev(9, 0)});
  EXPECT_EQ(chain.devices[0].kind, DeviceKind::kMd);
  EXPECT_EQ(chain.devices[0].md_level, "raid1");
  ExpectVerdict(chain, Obstacle::kPartial, "vdb");
}

TEST_F(BlockDevicesTest, RaidThatTakesNoDiscardsOverDisksThatDo) {
  sysfs.Disk("vdb", "254:16", kVirtioMax);
  sysfs.Raid("md0", "9:0", 0, {"vda1", "vdb"});
  ExpectVerdict(Chain(sysfs, {makedev(9, 0)}), Obstacle::kLayerNotSupported, "md0");
}

TEST_F(BlockDevicesTest, LoopNamesItsFile) {
  sysfs.Virtual("loop0", "7:0", kVirtioMax, {});
  sysfs.Set("loop0", "loop/backing_file", "/srv/disk image.raw\n");
  const DeviceChain chain = Chain(sysfs, {makedev(7, 0)});
  ASSERT_THAT(chain.devices, SizeIs(1));
  EXPECT_EQ(chain.devices[0].kind, DeviceKind::kLoop);
  EXPECT_EQ(chain.devices[0].backing_file, "/srv/disk image.raw");
  EXPECT_EQ(chain.devices[0].bus_path, "");
  ExpectVerdict(chain, Obstacle::kLoop, "loop0");
}

TEST_F(BlockDevicesTest, ScsiDiskSaysWhoItIs) {
  const std::string target = "pci0000:00/0000:00:06.0/virtio3/host2/target2:0:1/2:0:1:16385";
  sysfs.Disk("sda", "8:0", uint64_t{1} << 30, target);
  sysfs.tree().Link(sysfs.Directory("sda") + "/device", "devices/" + target);
  sysfs.tree().Write("devices/" + target + "/wwid", "t10.QEMU QEMU HARDDISK serial-1\n");
  sysfs.tree().Write("devices/" + target + "/vpd_pg80", std::string("\0\x80\0\x08serial-1", 12));
  const BlockDevice disk = Chain(sysfs, {makedev(8, 0)}).devices.at(0);
  EXPECT_EQ(disk.scsi_address, "2:0:1:16385");
  EXPECT_EQ(disk.wwid, "t10.QEMU QEMU HARDDISK serial-1");
  EXPECT_EQ(disk.serial, "serial-1");
  EXPECT_EQ(disk.bus_path, target);
}

TEST_F(BlockDevicesTest, AtaDiskKnowsItsPortOfItsController) {
  // The third port of the kernel's is the first of this controller.
  const std::string target = "pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0";
  sysfs.Disk("sda", "8:0", uint64_t{1} << 30, target);
  EXPECT_EQ(Chain(sysfs, {makedev(8, 0)}).devices.at(0).ata_port, 0U);
  sysfs.tree().Write("class/ata_port/ata3/port_no", "1\n");
  EXPECT_EQ(Chain(sysfs, {makedev(8, 0)}).devices.at(0).ata_port, 1U);
}

TEST_F(BlockDevicesTest, VirtioSerialAndNvme) {
  sysfs.Set("vda", "serial", "root-disk");  // virtio-blk ends it without a newline
  EXPECT_EQ(Chain(sysfs, {makedev(254, 0)}).devices.at(0).serial, "root-disk");
  sysfs.Disk("nvme0n1", "259:0", uint64_t{2} << 30, "pci0000:00/0000:00:07.0/nvme/nvme0");
  sysfs.Set("nvme0n1", "wwid", "nvme.1b36-71-51\n");
  const BlockDevice nvme = Chain(sysfs, {makedev(259, 0)}).devices.at(0);
  EXPECT_EQ(nvme.wwid, "nvme.1b36-71-51");
  EXPECT_EQ(nvme.bus_path, "pci0000:00/0000:00:07.0/nvme/nvme0");
}

TEST_F(BlockDevicesTest, BtrfsOnTwoDisksOneWithoutDiscard) {
  sysfs.Disk("vdb", "254:16", 0);
  sysfs.tree().Link("fs/btrfs/1234-abcd/devices/vda1", sysfs.Directory("vda1"));
  sysfs.tree().Link("fs/btrfs/1234-abcd/devices/vdb", sysfs.Directory("vdb"));
  const std::vector<dev_t> members = BtrfsMembers("1234-abcd", sysfs.path());
  EXPECT_THAT(members, ElementsAre(makedev(254, 1), makedev(254, 16)));
  const DeviceChain chain = Chain(sysfs, members);
  EXPECT_EQ(chain.tops, 2U);
  EXPECT_THAT(Names(chain), ElementsAre("vda1", "vdb", "vda"));
  ExpectVerdict(chain, Obstacle::kPartial, "vdb");
}

TEST_F(BlockDevicesTest, BtrfsUuidIsNoPath) {
  EXPECT_THAT(BtrfsMembers("../../dev/block", sysfs.path()), IsEmpty());
  EXPECT_THAT(BtrfsMembers("..", sysfs.path()), IsEmpty());
  EXPECT_THAT(BtrfsMembers("", sysfs.path()), IsEmpty());
  EXPECT_THAT(BtrfsMembers("none", sysfs.path()), IsEmpty());
}

TEST_F(BlockDevicesTest, SharedDiskIsListedOnce) {
  sysfs.Partition("vda", "vda2", "254:2");
  sysfs.Mapper("dm-0", "253:0", kVirtioMax, "LVM-abc", {"vda1", "vda2"});
  EXPECT_THAT(Names(Chain(sysfs, {makedev(253, 0)})), ElementsAre("dm-0", "vda1", "vda2", "vda"));
}

TEST_F(BlockDevicesTest, CycleEnds) {
  sysfs.Mapper("dm-0", "253:0", 0, "other", {});
  sysfs.Mapper("dm-1", "253:1", 0, "other", {"dm-0"});
  sysfs.AddSlave("dm-0", "dm-1");
  const DeviceChain chain = Chain(sysfs, {makedev(253, 0)});
  EXPECT_THAT(Names(chain), ElementsAre("dm-0", "dm-1"));
  EXPECT_NE(JudgeChain(chain).obstacle, Obstacle::kNone);
}

TEST_F(BlockDevicesTest, HugeGraphIsCut) {
  std::vector<std::string> slaves;
  for (unsigned i = 0; i < 200; ++i) {
    slaves.push_back("vdz" + std::to_string(i));
    sysfs.Disk(slaves.back(), "250:" + std::to_string(i), kVirtioMax);
  }
  sysfs.Raid("md0", "9:0", kVirtioMax, slaves);
  const DeviceChain chain = Chain(sysfs, {makedev(9, 0)});
  EXPECT_THAT(chain.devices, SizeIs(kMaxDevices));
  EXPECT_TRUE(chain.truncated);
}

TEST_F(BlockDevicesTest, WhatIsNotThere) {
  EXPECT_THAT(Chain(sysfs, {makedev(1, 1)}).devices, IsEmpty());
  EXPECT_THAT(Chain(sysfs, {}).devices, IsEmpty());
  EXPECT_EQ(JudgeChain(DeviceChain()).obstacle, Obstacle::kNone);
}

TEST_F(BlockDevicesTest, NonsenseInAttributes) {
  sysfs.Set("vda", "queue/discard_max_bytes", "-1\n");
  sysfs.Set("vda", "size", "many\n");
  sysfs.Set("vda", "serial", std::string(5000, 'x'));
  const BlockDevice disk = Chain(sysfs, {makedev(254, 0)}).devices.at(0);
  EXPECT_EQ(disk.discard_max_bytes, 0U);
  EXPECT_EQ(disk.size_bytes, 0U);
  EXPECT_LE(disk.serial.size(), 256U);
}

}  // namespace
}  // namespace virt_reclaim::agent
