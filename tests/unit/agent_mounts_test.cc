// The mount table: parsing, what is covered, and which mounts are one filesystem.
#include <gmock/gmock.h>
#include <sys/sysmacros.h>

#include "guest-agent/mounts.h"
#include "tests/unit/agent_fixtures.h"

namespace virt_reclaim::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

MountTable Read(const std::string& text) {
  const TempTree tree;
  const auto table = ReadMounts(tree.Write("mountinfo", text));
  EXPECT_TRUE(table.ok()) << table.status();
  return table.ok() ? *table : MountTable();
}

std::vector<std::vector<std::string>> Groups(const MountTable& table) {
  std::vector<std::vector<std::string>> result;
  for (const MountGroup& group : GroupByFilesystem(table)) {
    result.emplace_back();
    for (const size_t i : group) result.back().push_back(table.mounts[i].target);
  }
  return result;
}

TEST(MountsTest, ReadsOneLine) {
  const MountTable table =
      Read("25 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro\n");
  ASSERT_THAT(table.mounts, SizeIs(1));
  const Mount& mount = table.mounts[0];
  EXPECT_EQ(mount.id, 25);
  EXPECT_EQ(mount.parent_id, 1);
  EXPECT_EQ(mount.device, makedev(254, 1));
  EXPECT_EQ(mount.root, "/");
  EXPECT_EQ(mount.target, "/");
  EXPECT_EQ(mount.type, "ext4");
  EXPECT_EQ(mount.source, "/dev/vda1");
  EXPECT_FALSE(mount.read_only);  // "remount-ro" is not "ro"
  EXPECT_FALSE(mount.pseudo);
  EXPECT_TRUE(mount.reachable);
}

TEST(MountsTest, OctalEscapesAndStrangeBytes) {
  const MountTable table = Read(
      "25 1 254:1 / / rw - ext4 /dev/vda1 rw\n"
      "26 25 254:2 / /my\\040disk\\011\\134x rw - ext4 /dev/vda2 rw\n"
      "27 25 254:3 / /\xff\xfe rw - ext4 /dev/vda3 rw\n");
  ASSERT_THAT(table.mounts, SizeIs(3));
  EXPECT_EQ(table.mounts[1].target, "/my disk\t\\x");
  EXPECT_EQ(table.mounts[2].target, "/\xff\xfe");
}

// Under ProtectSystem=strict every mount of the agent's own namespace is read-only; FITRIM works
// all the same.
TEST(MountsTest, ReadOnlyIsTheSuperblocksWord) {
  const MountTable table = Read(
      "25 1 254:1 / / ro,relatime - ext4 /dev/vda1 rw\n"
      "26 25 254:2 / /b rw - ext4 /dev/vda2 ro\n"
      "27 25 254:3 / /c rw - ext4 /dev/vda3 rw\n");
  EXPECT_FALSE(table.mounts[0].read_only);
  EXPECT_TRUE(table.mounts[1].read_only);
  EXPECT_FALSE(table.mounts[2].read_only);
}

TEST(MountsTest, KindsOfFilesystem) {
  const MountTable table = Read(
      "25 1 254:1 / / rw - ext4 /dev/vda1 rw\n"
      "26 25 0:20 / /proc rw - proc proc rw\n"
      "27 25 0:21 / /tmp rw - tmpfs tmpfs rw\n"
      "28 25 0:22 / /net rw - nfs4 server:/export rw\n");
  EXPECT_TRUE(table.mounts[1].pseudo);
  EXPECT_TRUE(table.mounts[2].pseudo);
  EXPECT_TRUE(table.mounts[3].network);
  EXPECT_FALSE(table.mounts[3].pseudo);
}

TEST(MountsTest, FilesystemMountedTwiceIsOneGroup) {
  const MountTable table = Read(
      "25 1 254:1 / / rw - ext4 /dev/vda1 rw\n"
      "26 25 254:1 /srv/www /var/www rw - ext4 /dev/vda1 rw\n"
      "27 25 254:2 / /data rw - xfs /dev/vda2 rw\n"
      "28 25 254:2 / /mnt/data rw - xfs /dev/vda2 rw\n");
  EXPECT_THAT(Groups(table),
              ElementsAre(ElementsAre("/", "/var/www"), ElementsAre("/data", "/mnt/data")));
}

TEST(MountsTest, BtrfsSubvolumesAreOneGroup) {
  const MountTable table = Read(
      "25 1 0:25 /@ / rw - btrfs /dev/vda2 rw,subvol=/@\n"
      "26 25 0:25 /@home /home rw - btrfs /dev/vda2 rw,subvol=/@home\n"
      "27 25 0:25 / /.top rw - btrfs /dev/vda2 rw,subvol=/\n");
  EXPECT_THAT(Groups(table), ElementsAre(ElementsAre("/.top", "/", "/home")));
}

TEST(MountsTest, WhatAMountShowsAsAWhole) {
  const MountTable table = Read(
      "25 1 0:25 /@ / rw - btrfs /dev/vda2 rw,subvolid=256,subvol=/@\n"
      "26 25 0:25 /@home /home rw - btrfs /dev/vda2 rw,subvolid=257,subvol=/@home\n"
      "27 25 0:25 /@/srv/www /var/www rw - btrfs /dev/vda2 rw,subvolid=256,subvol=/@\n"
      "28 25 0:25 /@home\\040old /old rw - btrfs /dev/vda2 rw,subvol=/@home\\040old\n"
      "29 25 0:25 /@new /new rw - btrfs /dev/vda2 rw\n"
      "30 25 254:1 / /boot rw - ext4 /dev/vda1 rw\n"
      "31 25 254:1 /grub /mnt rw - ext4 /dev/vda1 rw,subvol=/grub\n");
  std::vector<std::string> roots;
  for (const Mount& mount : table.mounts) roots.push_back(WholeRoot(mount));
  EXPECT_THAT(roots, ElementsAre("/@", "/@home", "", "/@home old", "", "/", ""));
}

TEST(MountsTest, WholeFilesystemIsTrimmedFirst) {
  const MountTable table = Read(
      "25 1 254:1 / / rw - ext4 /dev/vda1 rw\n"
      "26 25 254:2 / /ro ro - ext4 /dev/vda2 rw\n"
      "27 25 254:2 /part /part rw - ext4 /dev/vda2 rw\n"
      "28 25 254:2 / /whole rw - ext4 /dev/vda2 rw\n");
  EXPECT_THAT(Groups(table), ElementsAre(ElementsAre("/"), ElementsAre("/ro", "/whole", "/part")));
}

TEST(MountsTest, CoveredMountPointsAreLeftOut) {
  const MountTable table = Read(
      "25 1 254:1 / / rw - ext4 /dev/vda1 rw\n"
      "26 25 254:2 / /mnt rw - ext4 /dev/vda2 rw\n"
      "27 26 254:3 / /mnt rw - ext4 /dev/vda3 rw\n"  // on top of 26
      "28 25 254:4 / /a/b rw - ext4 /dev/vda4 rw\n"  // then hidden by a mount on /a
      "29 25 254:5 / /a rw - ext4 /dev/vda5 rw\n");
  EXPECT_THAT(Groups(table), ElementsAre(ElementsAre("/"), ElementsAre("/mnt"), ElementsAre("/a")));
  EXPECT_FALSE(table.mounts[1].reachable);
  EXPECT_TRUE(table.mounts[2].reachable);
  EXPECT_FALSE(table.mounts[3].reachable);
}

TEST(MountsTest, InitramfsBelowTheRoot) {
  const MountTable table = Read(
      "1 1 0:2 / / rw - rootfs rootfs rw\n"
      "25 1 254:1 / / rw - ext4 /dev/vda1 rw\n"
      "26 25 254:2 / /boot rw - ext4 /dev/vda2 rw\n");
  EXPECT_THAT(Groups(table), ElementsAre(ElementsAre("/"), ElementsAre("/boot")));
}

TEST(MountsTest, BadLinesAndCyclesDoNoHarm) {
  const MountTable table = Read(
      "25 1 254:1 / / rw - ext4 /dev/vda1 rw\n"
      "nonsense\n"
      "40 41 254:2 / /x rw - ext4 /dev/vda2 rw\n"
      "41 40 254:3 / /x rw - ext4 /dev/vda3 rw\n"
      "42 25 254:4 / /y rw - ext4 /dev/vda4 rw\n");
  EXPECT_THAT(Groups(table), ElementsAre(ElementsAre("/"), ElementsAre("/y")));
}

TEST(MountsTest, EmptyAndMissingFiles) {
  EXPECT_THAT(Read("").mounts, IsEmpty());
  EXPECT_EQ(ReadMounts("/nonexistent/mountinfo").status().code(), absl::StatusCode::kNotFound);
}

TEST(MountsTest, EndlessTableIsCutAtALine) {
  std::string text = "25 1 254:1 / / rw - ext4 /dev/vda1 rw\n";
  for (int i = 0; text.size() <= kMaxMountinfoBytes; ++i) {
    text += std::to_string(100 + i) + " 25 0:30 / /" + std::string(200, 'm') + std::to_string(i) +
            " rw - tmpfs tmpfs rw\n";
  }
  const MountTable table = Read(text);
  EXPECT_TRUE(table.truncated);
  ASSERT_FALSE(table.mounts.empty());
  EXPECT_EQ(table.mounts.back().type, "tmpfs");
}

TEST(MountsTest, OwnTable) {
  const auto table = ReadMounts();
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_FALSE(GroupByFilesystem(*table).empty());
}

}  // namespace
}  // namespace virt_reclaim::agent
