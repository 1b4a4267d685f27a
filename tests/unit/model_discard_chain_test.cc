// Every fault that can lie on the way of a discard, put there on purpose: explain has to name it,
// and first.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/byte_size.h"
#include "host/model/assessment.h"
#include "tests/unit/discard_chain_world.h"

namespace virt_reclaim {
namespace {

using testing::AnyOf;
using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;

TEST(DiscardChain, NothingStandsInTheWay) {
  World world;
  EXPECT_EQ(world.Culprit(), "");
  EXPECT_EQ(world.Judge().Verdict(), LayerVerdict::kOk);
  std::vector<std::string> layers;
  for (const Layer& layer : world.Judge().layers) layers.emplace_back(Name(layer.kind));
  EXPECT_THAT(layers, ElementsAre("filesystem", "guest-disk", "bus", "driver", "image", "storage"));
}

struct Fault {
  std::string name;
  std::function<void(World&)> make;
  std::string culprit;
};

void PutBelowRoot(World& world, GuestDevice device) {
  world.root().devices.insert(world.root().devices.begin(), std::move(device));
}

const std::vector<Fault> kFaults{
    {"DiscardIgnored", [](World& w) { w.xml().discard = "ignore"; },
     "driver drops discard-ignored"},
    {"DiscardNotSet", [](World& w) { w.xml().discard = ""; }, "driver drops discard-ignored"},
    {"MachineTooOld",
     [](World& w) {
       w.facts.live.machine = "pc-q35-3.1";
       w.root().devices = {GuestDisk("vda", 5, 0)};
     },
     "guest-disk drops machine-too-old"},
    {"MachineTooOldAndGuestNotKnown",
     [](World& w) {
       w.facts.live.machine = "pc-q35-3.1";
       w.facts.guest.reset();
     },
     "bus drops machine-too-old"},
    {"BusDrops",
     [](World& w) {
       w.xml().bus = "usb";
       w.facts.guest->filesystems.clear();
     },
     "bus drops bus-drops-discard"},
    {"GuestNotSupported", [](World& w) { w.root().devices = {GuestDisk("vda", 5, 0)}; },
     "guest-disk drops guest-not-supported"},
    {"DeviceDiscardOff",
     [](World& w) {
       w.root().devices = {GuestDisk("vda", 5, 0)};
       w.facts.qemu["vda"] = {false, ""};
     },
     "guest-disk drops device-discard-off"},
    {"DmCrypt",
     [](World& w) { PutBelowRoot(w, Device("dm-0", GuestDeviceKind::kDmCrypt, 0, {"vda"})); },
     "guest-device drops dm-crypt"},
    {"MdOfLevel5",
     [](World& w) { PutBelowRoot(w, Device("md0", GuestDeviceKind::kMd, 0, {"vda"})); },
     "guest-device drops guest-layer"},
    {"ThinPoolThatDropsBelowAThinVolumeThatTakes",
     [](World& w) {
       GuestDevice pool = Device("dm-3", GuestDeviceKind::kLvm, 0, {"dm-1", "dm-2"});
       pool.dm_uuid = "LVM-x-tpool";
       GuestDevice metadata = Device("dm-1", GuestDeviceKind::kLvm, kGiB, {"vda"});
       metadata.dm_uuid = "LVM-x-tmeta";
       GuestDevice data = Device("dm-2", GuestDeviceKind::kLvm, kGiB, {"vda"});
       data.dm_uuid = "LVM-x-tdata";
       PutBelowRoot(w, data);
       PutBelowRoot(w, metadata);
       PutBelowRoot(w, pool);
       PutBelowRoot(w, Device("dm-4", GuestDeviceKind::kLvm, kGiB, {"dm-3"}));
     },
     "guest-device drops guest-layer"},
    {"FilesystemNotSupported",
     [](World& w) { w.root().obstacle = GuestObstacle::kTypeNotSupported; },
     "filesystem drops filesystem-not-supported"},
    {"FilesystemReadOnly", [](World& w) { w.root().obstacle = GuestObstacle::kReadOnly; },
     "filesystem drops read-only"},
    {"DiskReadOnly",
     [](World& w) {
       w.xml().read_only = true;
       w.facts.guest.reset();
     },
     "driver drops read-only"},
    {"OneOfTwoFilesystemsReadOnly",
     [](World& w) {
       w.facts.guest->filesystems.push_back(Filesystem("/boot", {GuestDisk("vda", 5)}));
       w.root().obstacle = GuestObstacle::kReadOnly;
     },
     "filesystem partly read-only"},
    {"LoopDevice",
     [](World& w) {
       GuestDevice loop = Device("loop0", GuestDeviceKind::kLoop, kGiB, {});
       loop.backing_file = "/srv/images/inner";
       w.facts.guest->filesystems.push_back(Filesystem("/mnt/inner", {loop}));
       w.facts.guest->filesystems.back().obstacle = GuestObstacle::kLoop;
     },
     "guest-device partly loop-device"},
    {"InternalSnapshots",
     [](World& w) {
       w.xml().source.format = w.disk.chain.front().format = "qcow2";
       w.disk.chain.front().internal_snapshots = 1;
     },
     "image partly internal-snapshots"},
    {"Overlay",
     [](World& w) {
       w.disk.chain.push_back({"/images/base.raw", "raw", w.disk.usage, 1, 3});
     },
     "image partly overlay"},
    {"ImageFormat", [](World& w) { w.xml().source.format = "vmdk"; }, "image drops image-format"},
    {"StorageCannotPunch", [](World& w) { w.storage.punches = false; },
     "storage drops storage-cannot-punch"},
    {"BlockDeviceWithoutDiscards",
     [](World& w) {
       w.xml().source = {"block", "raw", "/dev/vg/lv"};
       w.disk.chain.clear();
       w.storage = {};
       w.storage.devices = {{"dm-7", "vg-lv", "LVM-x", {"sda"}, 0, 0}};
     },
     "storage drops storage-cannot-punch"},
    {"OneLegOfTheHostsRaidWithoutDiscards",
     [](World& w) {
       w.xml().source = {"block", "raw", "/dev/md0"};
       w.disk.chain.clear();
       w.storage = {};
       w.storage.devices = {{"md0", "", "", {"sda", "sdb"}, kGiB, 512},
                            {"sda", "", "", {}, kGiB, 512},
                            {"sdb", "", "", {}, 0, 0}};
     },
     "storage partly storage-cannot-punch"},
    {"NotADisk", [](World& w) { w.xml().device = "cdrom"; }, "bus drops not-a-disk"},
};

class FaultTest : public testing::TestWithParam<Fault> {};

TEST(DiscardChain, ADiskThatItsSerialNumberHelpedToFindIsSaidSo) {
  World world;
  EXPECT_EQ(world.LayerOf(LayerKind::kGuestDisk).detail.find("serial"), std::string::npos);
  world.xml().serial = world.root().devices[0].serial = "abc";
  world.root().devices[0].bus_path = "0000:04:00.0/virtio2";
  EXPECT_EQ(world.LayerOf(LayerKind::kGuestDisk).name, "");  // it cannot be on libvirt's bus 0
  world.facts.live.controllers.push_back({"pci", "pcie-root-port", 1, xml::PciAddress{0, 0, 2, 0}});
  world.xml().pci = xml::PciAddress{0, 1, 0, 0};
  const Layer disk = world.LayerOf(LayerKind::kGuestDisk);
  EXPECT_EQ(disk.name, "vda");
  EXPECT_THAT(disk.detail, testing::HasSubstr("serial number and a part of its address"));
}

TEST_P(FaultTest, IsNamedFirst) {
  World world;
  GetParam().make(world);
  EXPECT_EQ(world.Culprit(), GetParam().culprit);
}

// Whatever report has against a disk, explain has too: as a reason, or as a remark.
TEST_P(FaultTest, ReportSaysNothingElse) {
  World world;
  GetParam().make(world);
  const DiscardChain chain = world.Judge();
  std::vector<std::string> said;
  for (const Layer& layer : chain.layers) {
    for (const auto& list : {layer.reasons, layer.remarks}) {
      for (const std::string& code : Codes(list)) said.push_back(code);
    }
  }
  for (const std::string& code : Codes(Assess(world.facts.live, world.disk).blockers))
    EXPECT_THAT(said, Contains(code));
}

// A code says of a layer what the table of reasons says that it says.
TEST_P(FaultTest, CodesAreWhatTheTableSays) {
  World world;
  GetParam().make(world);
  for (const Layer& layer : world.Judge().layers) {
    const bool bad =
        layer.verdict == LayerVerdict::kDrops || layer.verdict == LayerVerdict::kPartly;
    if (bad) {
      ASSERT_FALSE(layer.reasons.empty()) << Name(layer.kind);
      EXPECT_EQ(InChainOf(layer.reasons.front().reason), InChain::kCulprit) << Name(layer.kind);
    }
    for (const Blocker& reason : layer.reasons) {
      EXPECT_THAT(InChainOf(reason.reason), AnyOf(InChain::kCulprit, InChain::kUnknown))
          << Code(reason.reason);
    }
    for (const Blocker& remark : layer.remarks)
      EXPECT_EQ(InChainOf(remark.reason), InChain::kRemark) << Code(remark.reason);
  }
}

// The table has no culprit that nothing can be blamed on.
TEST(DiscardChain, EveryCulpritOfTheTableIsMadeHere) {
  // APowerCycleThatIsMissing... makes the one; the other is the probe's (commands_explain_test).
  std::vector<std::string> made{"power-cycle-pending", "discard-not-proved"};
  for (const Fault& fault : kFaults)
    made.push_back(fault.culprit.substr(fault.culprit.rfind(' ') + 1));
  for (const ReasonText& reason : AllReasons()) {
    if (reason.in_chain == InChain::kCulprit) {
      EXPECT_THAT(made, Contains(std::string(reason.code)));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(DiscardChain, FaultTest, testing::ValuesIn(kFaults),
                         [](const auto& fault) { return fault.param.name; });

TEST(DiscardChain, OneLegOfARaidDropsForItsDiskOnly) {
  World world;
  world.facts.guest->filesystems = {
      Filesystem("/", {Device("md0", GuestDeviceKind::kMd, kGiB, {"vda", "vdb"}),
                       GuestDisk("vda", 5), GuestDisk("vdb", 6, 0)})};
  EXPECT_EQ(world.Culprit(), "");
  world.disk.xml = world.facts.live.disks.at(1);
  const DiscardChain other = JudgeDiscardChain(world.facts, world.disk, world.storage);
  EXPECT_EQ(other.FirstCulprit()->reasons.at(0).reason, Reason::kGuestNotSupported);
}

TEST(DiscardChain, AVolumeOverTwoDisksOfWhichOneTakesNone) {
  World world;
  world.facts.guest->filesystems = {
      Filesystem("/", {Device("dm-0", GuestDeviceKind::kLvm, 0, {"vda", "vdb"}),
                       GuestDisk("vda", 5), GuestDisk("vdb", 6, 0)})};
  world.root().obstacle = GuestObstacle::kLayerNotSupported;
  world.root().obstacle_device = "dm-0";
  // To the disk that takes them it is the volume that brings none, for the other's sake.
  EXPECT_EQ(world.Culprit(), "guest-device drops guest-layer");
  EXPECT_EQ(world.LayerOf(LayerKind::kGuestDevice).reasons.at(0).detail,
            "dm-0, LVM: no discards below in vdb");
  world.disk.xml = world.facts.live.disks.at(1);
  const DiscardChain other = JudgeDiscardChain(world.facts, world.disk, world.storage);
  EXPECT_EQ(other.FirstCulprit()->reasons.at(0).reason, Reason::kGuestNotSupported);
}

TEST(DiscardChain, CryptOverADiskThatTakesNoneIsNotToBlame) {
  World world;
  world.facts.live.machine = "pc-i440fx-3.1";
  world.root().devices = {Device("dm-0", GuestDeviceKind::kDmCrypt, 0, {"vda"}),
                          GuestDisk("vda", 5, 0)};
  EXPECT_EQ(world.Culprit(), "guest-disk drops machine-too-old");
  EXPECT_EQ(world.LayerOf(LayerKind::kGuestDevice).verdict, LayerVerdict::kUnknown);
}

TEST(DiscardChain, APowerCycleThatIsMissingIsSaidBeforeWhatItPutsRight) {
  World world;
  world.facts.saved = world.facts.live;
  world.xml().discard = "";
  EXPECT_EQ(world.Culprit(), "driver drops power-cycle-pending");
  EXPECT_THAT(Codes(world.LayerOf(LayerKind::kDriver).reasons),
              ElementsAre("power-cycle-pending", "discard-ignored"));
  // The other way round nothing is lost yet.
  std::swap(world.facts.live, *world.facts.saved);
  EXPECT_EQ(world.Culprit(), "");
  EXPECT_THAT(Codes(world.LayerOf(LayerKind::kDriver).remarks), ElementsAre("definition-pending"));
}

TEST(DiscardChain, QemuKnowsBetterThanTheMachineType) {
  World world;
  world.facts.guest.reset();
  world.facts.saved = world.facts.live;
  world.facts.qemu["vda"] = {false, ""};
  EXPECT_EQ(world.Culprit(), "bus drops device-discard-off") << "not power-cycle-pending";
  world.facts.live.machine = "pc-q35-questing";  // nobody knows it
  world.facts.saved->machine = "pc-q35-questing";
  EXPECT_EQ(world.Culprit(), "bus drops device-discard-off");
  world.facts.qemu["vda"] = {true, ""};
  EXPECT_EQ(world.LayerOf(LayerKind::kBus).verdict, LayerVerdict::kOk);
  world.facts.live.machine = world.facts.saved->machine = "pc-q35-3.1";
  EXPECT_EQ(world.Culprit(), "") << "switched on by hand";
  EXPECT_THAT(world.LayerOf(LayerKind::kBus).remarks, IsEmpty());
  world.facts.qemu["vda"] = {std::nullopt, "no such property"};
  EXPECT_EQ(world.Culprit(), "bus drops machine-too-old");
  EXPECT_THAT(world.LayerOf(LayerKind::kBus).detail, testing::HasSubstr("no such property"));
}

TEST(DiscardChain, AMachineTypeThatWaitsForAPowerCycle) {
  World world;
  world.facts.saved = world.facts.live;
  world.facts.live.machine = "pc-q35-3.1";
  world.root().devices = {GuestDisk("vda", 5, 0)};
  EXPECT_EQ(world.Culprit(), "guest-disk drops power-cycle-pending");
}

TEST(DiscardChain, WhatIsNotKnownIsNeitherGoodNorBad) {
  World world;
  world.facts.guest.reset();
  world.facts.guest_unknown = {{Reason::kNotRunning, "shut-off"}};
  EXPECT_EQ(world.Judge().Verdict(), LayerVerdict::kUnknown);
  EXPECT_THAT(Codes(world.Judge().layers.front().reasons), ElementsAre("not-running"));
  EXPECT_EQ(world.Culprit(), "");

  World other;
  other.facts.live.machine = "pc-q35-questing";
  EXPECT_EQ(other.LayerOf(LayerKind::kBus).verdict, LayerVerdict::kUnknown);
  EXPECT_EQ(other.Culprit(), "");

  World network;
  network.xml().source = {"network", "raw", "rbd:pool/image"};
  network.disk.chain.clear();
  network.storage = {};
  EXPECT_EQ(network.LayerOf(LayerKind::kImage).verdict, LayerVerdict::kUnknown);
  EXPECT_EQ(network.LayerOf(LayerKind::kStorage).verdict, LayerVerdict::kUnknown);

  World split;
  split.disk.chain.front().external_data = true;
  EXPECT_THAT(Codes(split.LayerOf(LayerKind::kImage).reasons), ElementsAre("image-unreadable"));
  EXPECT_EQ(split.Judge().Verdict(), LayerVerdict::kUnknown);
  split.disk.chain.front().data = DataFile{"/data/web.raw", 2, 3, true};
  EXPECT_THAT(Codes(split.LayerOf(LayerKind::kImage).reasons), testing::IsEmpty());
  EXPECT_THAT(split.LayerOf(LayerKind::kImage).remarks,
              ElementsAre(Blocker{Reason::kExternalDataFile, "/data/web.raw"}));
  EXPECT_EQ(split.Judge().Verdict(), LayerVerdict::kOk);
}

TEST(DiscardChain, RemarksDoNotMakeAVerdict) {
  World world;
  world.disk.chain.front().usage.allocation = kGiB;
  world.disk.chain.front().granularity = 2 * kMiB;
  world.root().discard_option = false;
  EXPECT_EQ(world.Judge().Verdict(), LayerVerdict::kOk);
  EXPECT_THAT(Codes(world.LayerOf(LayerKind::kImage).remarks),
              ElementsAre("thick-image", "large-clusters"));
  EXPECT_THAT(Codes(world.LayerOf(LayerKind::kFilesystem).remarks),
              ElementsAre("mounted-nodiscard"));
}

TEST(DiscardChain, AThinVolumeOfTheHostPassesWhateverItsPoolDoes) {
  World world;
  world.xml().source = {"block", "qcow2", "/dev/vg/thin"};
  world.disk.chain.clear();
  world.storage = {};
  world.storage.devices = {{"dm-7", "vg-thin", "LVM-x", {"dm-6"}, kGiB, 64 * kKiB},
                           {"dm-6", "vg-pool-tpool", "LVM-x-tpool", {"sda"}, 0, 0}};
  EXPECT_EQ(world.Culprit(), "");
  EXPECT_THAT(world.LayerOf(LayerKind::kStorage).detail, testing::HasSubstr("thin volume"));
  EXPECT_THAT(Codes(world.LayerOf(LayerKind::kImage).remarks),
              ElementsAre("block-device", "qcow2-on-block-device"));
}

World OnBlockDevice(std::vector<HostDevice> devices) {
  World world;
  world.xml().source = {"block", "raw", "/dev/host/device"};
  world.disk.chain.clear();
  world.storage = {};
  world.storage.devices = std::move(devices);
  return world;
}

TEST(DiscardChain, EveryLegBelowAHostsDeviceIsLookedAt) {
  World raid = OnBlockDevice({{"md0", "", "", {"sda1", "dm-2"}, kGiB, 512},
                              {"sda1", "", "", {}, kGiB, 512},
                              {"dm-2", "vg-leg", "LVM-y", {"sdb"}, 0, 0},
                              {"sdb", "", "", {}, 0, 0}});
  EXPECT_EQ(raid.Culprit(), "storage partly storage-cannot-punch");
  EXPECT_EQ(raid.LayerOf(LayerKind::kStorage).reasons.at(0).detail, "sdb, vg-leg (dm-2)");
  // What drops everything is named, and not what lies above it.
  World crypt = OnBlockDevice({{"dm-1", "vg-lv", "LVM-x", {"dm-0"}, 0, 0},
                               {"dm-0", "cryptpv", "CRYPT-LUKS2-x", {"sda"}, 0, 0},
                               {"sda", "", "", {}, kGiB, 512}});
  EXPECT_EQ(crypt.Culprit(), "storage drops storage-cannot-punch");
  EXPECT_EQ(crypt.LayerOf(LayerKind::kStorage).reasons.at(0).detail,
            "cryptpv (dm-0), dm-crypt without allow-discards");
  // Devices that stand in a circle end.
  World circle =
      OnBlockDevice({{"dm-1", "", "", {"dm-2"}, kGiB, 512}, {"dm-2", "", "", {"dm-1"}, kGiB, 512}});
  EXPECT_EQ(circle.Culprit(), "");
}

TEST(DiscardChain, LargeClustersMatterOnlyToAGuestThatDiscardsLess) {
  const auto remarks = [](uint64_t cluster, uint64_t guest_unit) {
    World world;
    world.disk.chain.front().granularity = cluster;
    world.root().devices.front().discard_granularity = guest_unit;
    return world.Judge().layers.end()[-2].remarks;
  };
  EXPECT_THAT(Codes(remarks(2 * kMiB, 0)), ElementsAre("large-clusters"));
  const auto small = remarks(2 * kMiB, 512);
  ASSERT_THAT(Codes(small), ElementsAre("large-clusters"));
  EXPECT_EQ(small[0].detail, "vda: 2.0 MiB, and the guest discards in units of 512 B");
  EXPECT_THAT(remarks(2 * kMiB, 2 * kMiB), IsEmpty());
  EXPECT_THAT(remarks(2 * kMiB, 4 * kMiB), IsEmpty());
  EXPECT_THAT(remarks(64 * kKiB, 512), IsEmpty());  // as nearly every image
}

TEST(DiscardChain, LargeChunksOfAThinPoolAreARemark) {
  World world = OnBlockDevice({{"dm-7", "vg-thin", "LVM-x", {"dm-6"}, kGiB, kMiB},
                               {"dm-6", "vg-pool-tpool", "LVM-x-tpool", {"sda"}, 0, 0},
                               {"sda", "", "", {}, 0, 0}});
  EXPECT_EQ(world.Culprit(), "");
  const Layer layer = world.LayerOf(LayerKind::kStorage);
  EXPECT_THAT(Codes(layer.remarks), ElementsAre("large-clusters"));
  EXPECT_EQ(layer.remarks.at(0).detail, "vg-thin (dm-7): chunks of 1.0 MiB");
  EXPECT_THAT(layer.detail, testing::HasSubstr("its pool passes nothing on"));
}

TEST(DiscardChain, TheVersionOfNfsIsShown) {
  World world;
  world.storage = {"nfs", "4.1", false, {}, ""};
  EXPECT_EQ(world.Culprit(), "storage drops storage-cannot-punch");
  EXPECT_EQ(world.LayerOf(LayerKind::kStorage).name, "nfs 4.1");
  EXPECT_THAT(world.LayerOf(LayerKind::kStorage).detail, testing::HasSubstr("from version 4.2 on"));
  world.storage = {"nfs", "4.2", true, {}, ""};
  EXPECT_EQ(world.Culprit(), "");
}

GuestDevice Loop(const std::string& name, const std::string& file, uint64_t discard_max = kGiB) {
  GuestDevice loop = Device(name, GuestDeviceKind::kLoop, discard_max, {});
  loop.backing_file = file;
  return loop;
}

// "vda1 ok; md0 drops guest-layer" of the guest's devices above the disk.
std::string DevicesOf(World& world) {
  std::vector<std::string> said;
  for (const Layer& layer : world.Judge().layers) {
    if (layer.kind != LayerKind::kGuestDevice) continue;
    said.push_back(absl::StrCat(layer.name, " ", Name(layer.verdict)));
    for (const std::string& code : Codes(layer.reasons)) absl::StrAppend(&said.back(), " ", code);
  }
  return absl::StrJoin(said, "; ");
}

TEST(DiscardChain, WhatLiesAboveALoopDeviceIsLookedAtToo) {
  World world;
  GuestDevice crypt = Device("dm-0", GuestDeviceKind::kDmCrypt, 0, {"loop0"});
  crypt.dm_name = "vault";
  auto& filesystems = world.facts.guest->filesystems;
  filesystems.push_back(Filesystem("/vault", {crypt, Loop("loop0", "/srv/vault.luks")}));
  filesystems.back().obstacle = GuestObstacle::kLoop;
  EXPECT_EQ(DevicesOf(world), "vault (dm-0) partly dm-crypt; loop0 partly loop-device");
  EXPECT_EQ(world.Judge().Verdict(), LayerVerdict::kPartly) << "the rest of the disk comes back";
  filesystems.back().devices.front().discard_max = kGiB;
  EXPECT_EQ(DevicesOf(world), "vault (dm-0) ok; loop0 partly loop-device");
}

TEST(DiscardChain, EveryLoopDeviceBelowAMirrorIsLookedAt) {
  World world;
  auto& filesystems = world.facts.guest->filesystems;
  filesystems.push_back(Filesystem("/b", {GuestDisk("vdb", 6)}));
  GuestDevice md = Device("md0", GuestDeviceKind::kMd, kGiB, {"loop0", "loop1", "loop2"});
  md.md_level = "raid1";
  filesystems.push_back(Filesystem(
      "/md", {md, Loop("loop0", "/b/0"), Loop("loop1", "/srv/1"), Loop("loop2", "/srv/2", 0)}));
  filesystems.back().obstacle = GuestObstacle::kLoop;
  // vda holds the second leg and the third, which is on a filesystem that knows no holes.
  EXPECT_EQ(DevicesOf(world),
            "md0 ok; loop1 partly loop-device; loop2 partly guest-layer loop-device");
  world.facts.live.disks.erase(world.facts.live.disks.begin());
  EXPECT_EQ(DevicesOf(world), "md0 ok; loop0 partly loop-device");
}

TEST(DiscardChain, ALoopDeviceInAFileOnALoopDevice) {
  World world;
  auto& filesystems = world.facts.guest->filesystems;
  filesystems.push_back(Filesystem("/a", {Loop("loop0", "/srv/a")}));
  filesystems.push_back(Filesystem("/a/b", {Loop("loop1", "/a/file")}));
  filesystems.push_back(Filesystem("/elsewhere", {Loop("loop2", "/gone/file")}));
  filesystems.push_back(Filesystem("/gone", {}));  // tmpfs
  EXPECT_EQ(DevicesOf(world), "loop0 partly loop-device; loop1 partly loop-device");
}

TEST(DiscardChain, ADiskWithoutFilesystemsAndImagesOfOthersAreLeftAlone) {
  World world;
  GuestDevice snap = Device("loop3", GuestDeviceKind::kLoop, kGiB, {});
  snap.backing_file = "/var/lib/snapd/core.snap";
  world.facts.guest->filesystems.push_back(Filesystem("/snap/core", {snap}));
  world.facts.guest->filesystems.back().obstacle = GuestObstacle::kTypeNotSupported;
  EXPECT_EQ(world.Culprit(), "");
  world.facts.guest->filesystems.clear();
  EXPECT_EQ(world.LayerOf(LayerKind::kFilesystem).verdict, LayerVerdict::kUnknown);
  // A guest can make its loop devices go in circles.
  GuestDevice loop = Device("loop0", GuestDeviceKind::kLoop, kGiB, {});
  loop.backing_file = "/a/file";
  GuestDevice other = Device("loop1", GuestDeviceKind::kLoop, kGiB, {});
  other.backing_file = "/b/file";
  world.facts.guest->filesystems = {Filesystem("/b", {loop}), Filesystem("/a", {other})};
  EXPECT_EQ(world.Culprit(), "");
}

}  // namespace
}  // namespace virt_reclaim
