#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "base/mount_table.h"

namespace virt_reclaim {
namespace {

TEST(ParseMountTableTest, WithAndWithoutOptionalWords) {
  const auto mounts = ParseMountTable(
      "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw,errors=remount-ro\n"
      "36 22 0:45 /sub /mnt/nfs rw shared:1 master:2 - nfs4 server:/x rw,vers=4.2\n");
  ASSERT_EQ(mounts.size(), 2u);
  EXPECT_EQ(mounts[0].id, 22u);
  EXPECT_EQ(mounts[0].device, "254:0");
  EXPECT_EQ(mounts[0].mount_point, "/");
  EXPECT_EQ(mounts[0].filesystem, "ext4");
  EXPECT_EQ(mounts[0].options, "rw,errors=remount-ro");
  EXPECT_EQ(mounts[1].mount_point, "/mnt/nfs");
  EXPECT_EQ(mounts[1].filesystem, "nfs4");
  EXPECT_EQ(mounts[1].options, "rw,vers=4.2");
}

TEST(ParseMountTableTest, NamesAreTheirOwn) {
  const auto mounts = ParseMountTable(
      "1 0 8:1 / /a\\040b\\012c\\134d rw - ext4 /dev/sda1 rw\n"
      "2 0 8:2 / /- rw - - /dev/- rw\n"
      "3 0 8:3 / /cut\\04 rw - ext4 /dev/sda3 rw");
  ASSERT_EQ(mounts.size(), 3u);
  EXPECT_EQ(mounts[0].mount_point, "/a b\nc\\d");
  EXPECT_EQ(mounts[1].mount_point, "/-");
  EXPECT_EQ(mounts[1].filesystem, "-");
  EXPECT_EQ(mounts[2].mount_point, "/cut\\04");
}

TEST(ParseMountTableTest, LinesThatAreNone) {
  for (const char* line :
       {"", "\n\n", "1 0 8:1 / /a rw", "1 0 8:1 / /a rw -", "1 0 8:1 / /a rw - ext4 /dev/sda1",
        "x 0 8:1 / /a rw - ext4 /dev/sda1 rw", "1 0 8:1 / /a rw shared:1 ext4 /dev/sda1 rw"}) {
    EXPECT_THAT(ParseMountTable(line), testing::IsEmpty()) << line;
  }
}

TEST(ReadMountTableTest, OfThisProcess) {
  const auto mounts = ReadMountTable();
  ASSERT_TRUE(mounts.ok()) << mounts.status();
  std::set<std::string> points;
  for (const Mount& mount : *mounts) points.insert(mount.mount_point);
  EXPECT_EQ(points.count("/") + points.count("/proc"), 2u);
  EXPECT_TRUE(absl::IsNotFound(ReadMountTable("/gone/mountinfo").status()));
}

}  // namespace
}  // namespace virt_reclaim
