#include "host/services/host_storage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/sysmacros.h>
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
  Put("dm-1/dm/uuid", "LVM-abc");
  Put("sda/queue/discard_max_bytes", "0");
  Put("sda/sda1/partition", "1");
  Link("dev/block/253:1", "dm-1");
  Link("devices/dm-1/slaves/sda1", "sda/sda1");
  const auto devices = ReadHostDevices(makedev(253, 1), sysfs_);
  ASSERT_EQ(devices.size(), 2u);
  EXPECT_EQ(devices[0].name, "dm-1");
  EXPECT_EQ(devices[0].dm_name, "vg-lv");
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

}  // namespace
}  // namespace virt_reclaim
