#include "host/services/host_storage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "host/services/image_store.h"

namespace virt_reclaim {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class HostStorageTest : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(sysfs_ + "/dev/block"); }
  void TearDown() override { std::filesystem::remove_all(sysfs_); }
  void Put(const std::string& path, const std::string& content) {
    const std::filesystem::path file = sysfs_ + "/devices/" + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << content << "\n";
  }
  void Link(const std::string& name, const std::string& to) {
    std::filesystem::create_directories(std::filesystem::path(sysfs_ + "/" + name).parent_path());
    std::filesystem::create_symlink(sysfs_ + "/devices/" + to, sysfs_ + "/" + name);
  }
  const std::string sysfs_ = testing::TempDir() + "virt-reclaim-sysfs-" + std::to_string(getpid());
};

TEST_F(HostStorageTest, AVolumeAndWhatItLiesOn) {
  Put("dm-1/queue/discard_max_bytes", "65536");
  Put("dm-1/queue/discard_granularity", "4096");
  Put("dm-1/dm/name", "vg-lv");
  Put("dm-1/dev", "253:1");
  Put("dm-1/size", "2048");
  Put("dm-1/dm/uuid", "LVM-abc");
  Put("sda/queue/discard_max_bytes", "0");
  Put("sda/sda1/partition", "1");
  Link("dev/block/253:1", "dm-1");
  Link("devices/dm-1/slaves/sda1", "sda/sda1");
  const auto devices = ReadHostDevices(makedev(253, 1), sysfs_);
  ASSERT_EQ(devices.size(), 2u);
  EXPECT_EQ(devices[0].name, "dm-1");
  EXPECT_EQ(devices[0].dm_name, "vg-lv");
  EXPECT_EQ(devices[0].number, makedev(253, 1));
  EXPECT_EQ(devices[0].size, 1u << 20);
  EXPECT_EQ(devices[1].number, 0u);
  EXPECT_EQ(devices[1].size, std::nullopt);
  EXPECT_EQ(devices[0].dm_uuid, "LVM-abc");
  EXPECT_EQ(devices[0].discard_max, 65536u);
  EXPECT_EQ(devices[0].discard_granularity, 4096u);
  EXPECT_THAT(devices[0].parents, ElementsAre("sda1"));
  EXPECT_EQ(devices[1].discard_max, 0u) << "its disk's, since a partition has no queue";
}

TEST_F(HostStorageTest, CirclesEndAndWhatIsNotThereIsEmpty) {
  Put("dm-1/x", "");
  Put("dm-2/x", "");
  Link("dev/block/253:1", "dm-1");
  Link("devices/dm-1/slaves/dm-2", "dm-2");
  Link("devices/dm-2/slaves/dm-1", "dm-1");
  EXPECT_EQ(ReadHostDevices(makedev(253, 1), sysfs_).size(), 2u);
  EXPECT_EQ(ReadHostDevices(makedev(253, 1), sysfs_)[0].discard_max, std::nullopt);
  EXPECT_THAT(ReadHostDevices(makedev(9, 9), sysfs_), IsEmpty());
}

TEST_F(HostStorageTest, AFileIsTriedAndOthersSayWhyNot) {
  std::ofstream(sysfs_ + "/image") << "x";
  const auto store = NewImageStore();
  const ImageStorage storage = store->Storage({"file", "raw", sysfs_ + "/image"});
  EXPECT_FALSE(storage.filesystem.empty());
  EXPECT_TRUE(storage.punches.has_value() || !storage.unknown.empty());
  EXPECT_THAT(store->Storage({"file", "raw", sysfs_ + "/gone"}).unknown,
              testing::HasSubstr("No such file"));
  EXPECT_FALSE(store->Storage({"file", "raw", sysfs_}).unknown.empty());
  EXPECT_EQ(FilesystemType("/dev/shm"), "tmpfs");
}

TEST_F(HostStorageTest, TheVersionOfNfsIsThatOfTheMount) {
  const std::string table = sysfs_ + "/mountinfo";
  std::ofstream(table)
      << "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"
         "36 22 0:45 / /srv/a rw,relatime shared:1 master:2 - nfs4 server:/a rw,vers=4.1,rsize=1\n"
         "37 22 0:46 / /srv/vers=4.2 rw - nfs server:/b rw,vers=3,vers=9\n"
         "38 22 0:47 / /srv/c rw - nfs4 server:/c rw\n"
         "39 22 0:48 / /srv/d rw - tmpfs none rw,vers=4.2\n"
         "40 22 0:49 / /srv/e rw - nfs4\n"
         "nonsense\n\n- - 0:50 - - - - nfs - vers=1\n";
  EXPECT_EQ(NfsVersion(makedev(0, 45), table), "4.1");
  EXPECT_EQ(NfsVersion(makedev(0, 46), table), "3");
  for (const unsigned other : {1u, 47u, 48u, 49u, 50u, 99u})
    EXPECT_EQ(NfsVersion(makedev(0, other), table), "");
  EXPECT_EQ(NfsVersion(makedev(8, 1), table), "");
  EXPECT_EQ(NfsVersion(makedev(0, 45), sysfs_ + "/gone"), "");
}

// In a child, so that the mount is its own and goes with it. Exit status: 0 as expected, 1 not, 2
// no mounts allowed here.
int PunchOnRamfs(const std::string& directory) {
  if (unshare(CLONE_NEWNS) != 0 || mount("", "/", "", MS_REC | MS_PRIVATE, nullptr) != 0 ||
      mount("ramfs", directory.c_str(), "ramfs", 0, nullptr) != 0) {
    return 2;
  }
  std::ofstream(directory + "/image") << "x";
  const ImageStorage storage = NewImageStore()->Storage({"file", "raw", directory + "/image"});
  return storage.punches == false ? 0 : 1;
}

TEST_F(HostStorageTest, AFilesystemWithoutHolesCannotPunch) {
  const pid_t child = fork();
  if (child == 0) _exit(PunchOnRamfs(sysfs_));
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 2) GTEST_SKIP() << "no mounts are allowed here";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace virt_reclaim
