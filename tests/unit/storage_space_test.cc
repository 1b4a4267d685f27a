// Where a storage is mounted, and files that are replaced while others read them.
#include "host/services/storage_space.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/io.h"
#include "host/services/public_file.h"

namespace virt_reclaim {
namespace {

class PublicPlaceTest : public testing::Test {
 protected:
  PublicPlaceTest() {
    directory_ = testing::TempDir() + "/virt-reclaim-public-XXXXXX";
    EXPECT_NE(mkdtemp(directory_.data()), nullptr);
    directory_ = std::filesystem::canonical(directory_).string();
  }
  ~PublicPlaceTest() override { std::filesystem::remove_all(directory_); }

  std::string Path(const std::string& name) const { return absl::StrCat(directory_, "/", name); }
  void Write(const std::string& name, const std::string& text) const {
    ASSERT_TRUE(WriteFileDurably(Path(name), text, 0600).ok());
  }
  // The storage of a file "a b/x.raw" by this table.
  StorageSpace Space(const std::string& table) const {
    std::filesystem::create_directories(Path("a b"));
    Write("a b/x.raw", "x");
    Write("mountinfo", table);
    return SpaceBelow(Path("a b/x.raw"), Path("mountinfo")).value();
  }

  std::string directory_;
};

TEST_F(PublicPlaceTest, TheLongestMountAboveIsTheStorage) {
  const StorageSpace space = Space(absl::StrCat(
      "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n", "2 1 0:45 / ", directory_,
      "/a\\040b rw shared:1 - btrfs /dev/sdb rw\n", "3 1 8:3 / ", directory_,
      "/a rw - ext4 /dev/c rw\n", "4 1 8:4 / ", directory_, " rw - xfs /dev/sdd rw\n", "broken\n"));
  EXPECT_EQ(space.id, "0:45");
  EXPECT_EQ(space.mount_point, Path("a b"));
  EXPECT_GT(space.capacity, 0u);
  EXPECT_LE(space.available, space.capacity);
}

TEST_F(PublicPlaceTest, OfTwoMountsInOnePlaceTheLaterIsSeen) {
  EXPECT_EQ(Space("1 0 8:1 / / rw - ext4 a rw\n2 0 8:2 / / rw - ext4 b rw\n").id, "8:2");
}

TEST_F(PublicPlaceTest, WithoutATableTheDirectoryStandsForIt) {
  const StorageSpace space = Space("");
  EXPECT_EQ(space.mount_point, Path("a b"));
  EXPECT_FALSE(space.id.empty());
}

TEST_F(PublicPlaceTest, AFileThatIsNotThereHasNoStorage) {
  EXPECT_TRUE(absl::IsNotFound(SpaceBelow(Path("gone")).status()));
}

TEST_F(PublicPlaceTest, IsReadableByEverybody) {
  ASSERT_TRUE(WritePublicFile(Path("x.prom"), "one\n", absl::Now()).ok());
  ASSERT_TRUE(WritePublicFile(Path("x.prom"), "two\n", absl::Now()).ok());
  EXPECT_EQ(ReadFile(Path("x.prom"), 100).value(), "two\n");
  struct stat st;
  ASSERT_EQ(stat(Path("x.prom").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0644u);
}

TEST_F(PublicPlaceTest, TakesAwayWhatAKilledRunLeft) {
  const std::vector<std::string> others{"x.prom.short", "x.prom.toolong", "y.prom.AbC123",
                                        "x.prom.Ab-123"};
  for (const std::string& name : others) Write(name, "");
  Write("x.prom.AbC123", "half");
  std::filesystem::create_directories(Path("x.prom.AbC456"));
  ASSERT_TRUE(WritePublicFile(Path("x.prom"), "new\n", absl::Now()).ok());
  EXPECT_TRUE(std::filesystem::exists(Path("x.prom.AbC123"))) << "its run may be at work";
  ASSERT_TRUE(WritePublicFile(Path("x.prom"), "new\n", absl::Now() + absl::Hours(2)).ok());
  EXPECT_FALSE(std::filesystem::exists(Path("x.prom.AbC123")));
  EXPECT_TRUE(std::filesystem::exists(Path("x.prom.AbC456")));
  for (const std::string& name : others) EXPECT_TRUE(std::filesystem::exists(Path(name))) << name;
}

TEST_F(PublicPlaceTest, PutsNothingInThePlaceOfWhatIsNoFile) {
  std::filesystem::create_symlink("/dev/null", Path("link"));
  ASSERT_EQ(mkfifo(Path("fifo").c_str(), 0600), 0);
  for (const char* name : {"link", "fifo"})
    EXPECT_TRUE(absl::IsInvalidArgument(WritePublicFile(Path(name), "x", absl::Now()))) << name;
  EXPECT_TRUE(std::filesystem::is_symlink(Path("link")));
  EXPECT_FALSE(WritePublicFile(Path("none/x.prom"), "x", absl::Now()).ok());
}

}  // namespace
}  // namespace virt_reclaim
