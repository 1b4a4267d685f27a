// Filesystems: mounts, devices and space together, and what stands in the way of a trim.
#include <gmock/gmock.h>

#include "guest-agent/filesystems.h"
#include "guest-agent/trimmer.h"
#include "tests/unit/agent_fixtures.h"

namespace virt_reclaim::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

struct FilesystemsTest : ::testing::Test {
  FilesystemsTest() {
    sysfs.Disk("vda", "254:0", 4096);
    sysfs.Partition("vda", "vda1", "254:1");
    probes.sysfs = sysfs.path();
    probes.space = [this](const std::string& mount_point) {
      asked.push_back(mount_point);
      return SpaceUsage{1000, 400, 600};
    };
    probes.btrfs_uuid = [](const std::string&) { return "1234-abcd"; };
    probes.device_uuid = [](dev_t, const std::string& name) { return "uuid-of-" + name; };
  }
  FilesystemList Read(const std::string& mountinfo) {
    probes.mountinfo = sysfs.tree().Write("mountinfo", mountinfo);
    const auto list = ReadFilesystems(probes);
    EXPECT_TRUE(list.ok()) << list.status();
    return list.ok() ? *list : FilesystemList();
  }
  Obstacle ObstacleOf(const std::string& line) {
    const FilesystemList list = Read("1 0 " + line + "\n");
    EXPECT_THAT(list.filesystems, SizeIs(1));
    return list.filesystems.at(0).verdict.obstacle;
  }

  FakeSysfs sysfs;
  SystemProbes probes;
  std::vector<std::string> asked;
};

TEST_F(FilesystemsTest, PutsTogetherWhatIsKnown) {
  const FilesystemList list =
      Read("1 0 254:1 / / rw - ext4 /dev/vda1 rw\n2 1 254:1 /srv /srv rw - ext4 /dev/vda1 rw\n");
  ASSERT_THAT(list.filesystems, SizeIs(1));
  const Filesystem& root = list.filesystems[0];
  EXPECT_EQ(root.source, "/dev/vda1");
  EXPECT_EQ(root.uuid, "uuid-of-vda1");
  EXPECT_THAT(root.mount_points, ElementsAre("/", "/srv"));
  EXPECT_THAT(root.mount_roots, ElementsAre("/", ""));
  EXPECT_EQ(root.size_bytes, 1000U);
  EXPECT_EQ(root.used_bytes, 400U);
  EXPECT_EQ(root.free_bytes, 600U);
  EXPECT_THAT(root.Disks(), ElementsAre("vda"));
  EXPECT_EQ(root.verdict.obstacle, Obstacle::kNone);
  EXPECT_FALSE(list.truncated);
}

TEST_F(FilesystemsTest, Obstacles) {
  EXPECT_EQ(ObstacleOf("254:1 / / rw - ext4 /dev/vda1 rw"), Obstacle::kNone);
  EXPECT_EQ(ObstacleOf("254:1 / / ro - ext4 /dev/vda1 ro"), Obstacle::kReadOnly);
  EXPECT_EQ(ObstacleOf("254:1 / / ro - squashfs /dev/vda1 ro"), Obstacle::kTypeNotSupported);
  EXPECT_EQ(ObstacleOf("0:30 / / rw - tmpfs tmpfs rw"), Obstacle::kNoDevice);
  EXPECT_EQ(ObstacleOf("0:30 / / rw - overlay overlay rw"), Obstacle::kNoDevice);
  EXPECT_EQ(ObstacleOf("0:30 / / rw - nfs4 server:/x rw"), Obstacle::kNetwork);
  EXPECT_EQ(ObstacleOf("0:30 / / rw - cifs //server/x rw"), Obstacle::kNetwork);
  EXPECT_EQ(ObstacleOf("0:30 / / rw - virtiofs tag rw"), Obstacle::kNetwork);
  EXPECT_EQ(ObstacleOf("0:30 / / rw - fuse.sshfs host: rw"), Obstacle::kNetwork);
  EXPECT_EQ(ObstacleOf("0:30 / / rw - autofs systemd-1 rw"), Obstacle::kAutofs);
  EXPECT_EQ(ObstacleOf("99:9 / / rw - ext4 /dev/gone rw"), Obstacle::kNoDevice);
}

// statfs of a dead NFS or FUSE server never returns.
TEST_F(FilesystemsTest, NeverAsksARemoteServer) {
  Read(
      "1 0 0:30 / / rw - nfs4 server:/x rw\n"
      "2 1 0:31 / /f rw - fuse.anything x rw\n"
      "3 1 254:1 / /b rw - fuseblk /dev/vda1 rw\n"
      "4 1 0:32 / /a rw - autofs x rw\n");
  EXPECT_THAT(asked, IsEmpty());
}

TEST_F(FilesystemsTest, BtrfsIsFoundByItsUuid) {
  sysfs.tree().Link("fs/btrfs/1234-abcd/devices/vda1", sysfs.Directory("vda1"));
  const FilesystemList list = Read("1 0 0:25 /@ / rw - btrfs /dev/vda1 rw\n");
  ASSERT_THAT(list.filesystems, SizeIs(1));
  EXPECT_EQ(list.filesystems[0].uuid, "1234-abcd");
  EXPECT_THAT(list.filesystems[0].Disks(), ElementsAre("vda"));
  EXPECT_EQ(list.filesystems[0].verdict.obstacle, Obstacle::kNone);
}

TEST_F(FilesystemsTest, LimitsCutWhatHasNoDiskFirst) {
  std::string text;
  for (int i = 0; i < 4200; ++i) {
    text += std::to_string(10 + i) + " 1 0:" + std::to_string(100 + i) + " / /t" +
            std::to_string(i) + " rw - tmpfs t rw\n";
  }
  text += "1 0 254:1 / / rw - ext4 /dev/vda1 rw\n";
  for (int i = 0; i < 100; ++i) {
    text += std::to_string(9000 + i) + " 1 254:1 / /b" + std::to_string(i) +
            " rw - ext4 /dev/vda1 rw\n";
  }
  const FilesystemList list = Read(text);
  EXPECT_TRUE(list.truncated);
  ASSERT_THAT(list.filesystems, SizeIs(kMaxFilesystems));
  EXPECT_EQ(list.filesystems[0].source, "/dev/vda1");
  EXPECT_THAT(list.filesystems[0].mount_points, SizeIs(kMaxMountPoints));
}

TEST_F(FilesystemsTest, ChoosesEachOnceInTheOrderNamed) {
  const FilesystemList list = Read(
      "1 0 254:1 / / rw - ext4 /dev/vda1 rw\n"
      "2 1 254:1 /srv /srv rw - ext4 /dev/vda1 rw\n"
      "3 1 254:0 / /other\xff rw - ext4 /dev/vda rw\n"
      "4 1 0:30 / /tmp rw - tmpfs tmpfs rw\n"
      "5 1 0:31 / /net rw - nfs server:/x rw\n");
  const auto named = ChooseTargets(list, {"/other\\xff/", "/srv", "/"});
  ASSERT_TRUE(named.ok()) << named.status();
  ASSERT_THAT(*named, SizeIs(2));
  EXPECT_EQ((*named)[0].mount_point, "/other\xff");
  EXPECT_EQ((*named)[1].mount_point, "/");
  EXPECT_TRUE((*named)[1].named);

  const auto automatic = ChooseTargets(list, {});
  ASSERT_THAT(*automatic, SizeIs(3));  // not tmpfs
  EXPECT_FALSE(WillBeSkipped((*automatic)[0]));
  EXPECT_TRUE(WillBeSkipped((*automatic)[2]));

  const auto wrong = ChooseTargets(list, {"/srv/www"});
  EXPECT_EQ(wrong.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(wrong.status().message(), "'/srv/www' is not a mount point");
}

TEST_F(FilesystemsTest, NamedOnesAreTriedUnlessItIsHopeless) {
  TrimTarget target;
  target.named = true;
  for (const Obstacle tried :
       {Obstacle::kNone, Obstacle::kLoop, Obstacle::kPartial, Obstacle::kDmCrypt,
        Obstacle::kLayerNotSupported, Obstacle::kDiskNotSupported, Obstacle::kTypeNotSupported}) {
    target.filesystem.verdict.obstacle = tried;
    EXPECT_FALSE(WillBeSkipped(target)) << ObstacleName(tried);
  }
  for (const Obstacle hopeless :
       {Obstacle::kReadOnly, Obstacle::kNetwork, Obstacle::kAutofs, Obstacle::kNoDevice}) {
    target.filesystem.verdict.obstacle = hopeless;
    EXPECT_TRUE(WillBeSkipped(target)) << ObstacleName(hopeless);
  }
  target.named = false;
  target.filesystem.verdict.obstacle = Obstacle::kLoop;
  EXPECT_TRUE(WillBeSkipped(target));
  target.filesystem.verdict.obstacle = Obstacle::kPartial;
  EXPECT_FALSE(WillBeSkipped(target));
}

TEST_F(FilesystemsTest, WhatAnErrorMeans) {
  sysfs.Mapper("dm-0", "253:0", 0, "CRYPT-LUKS2-x", {"vda1"});
  const Filesystem crypt = Read("1 0 253:0 / / rw - ext4 /dev/mapper/x rw\n").filesystems.at(0);
  EXPECT_EQ(ExplainTrimError(crypt, EOPNOTSUPP).obstacle, Obstacle::kDmCrypt);
  EXPECT_EQ(ExplainTrimError(crypt, EOPNOTSUPP).device, "dm-0");
  const Filesystem plain = Read("1 0 254:1 / / rw - ext4 /dev/vda1 rw\n").filesystems.at(0);
  EXPECT_EQ(ExplainTrimError(plain, EOPNOTSUPP).obstacle, Obstacle::kDiskNotSupported);
  EXPECT_EQ(ExplainTrimError(plain, ENOTTY).obstacle, Obstacle::kTypeNotSupported);
  EXPECT_EQ(ExplainTrimError(plain, EROFS).obstacle, Obstacle::kReadOnly);
  EXPECT_EQ(ExplainTrimError(plain, EIO).obstacle, Obstacle::kNone);
}

TEST_F(FilesystemsTest, RealSystem) {
  const auto list = ReadFilesystems(RealProbes());
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_FALSE(list->filesystems.empty());
}

}  // namespace
}  // namespace virt_reclaim::agent
