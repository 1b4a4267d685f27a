#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <optional>

#include "base/io.h"
#include "base/temporary_directory.h"

namespace virt_reclaim {
namespace {

namespace fs = std::filesystem;

class TemporaryDirectoryTest : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(parent_); }
  void TearDown() override { fs::remove_all(parent_); }
  // As a killed process leaves it.
  std::string Left(const std::string& name, mode_t mode = 0700) {
    std::string path = parent_ + "/" + name;
    fs::create_directories(path + "/inside");
    EXPECT_EQ(chmod(path.c_str(), mode), 0);
    return path;
  }
  const std::string parent_ =
      testing::TempDir() + "virt-reclaim-temporary-" + std::to_string(getpid());
};

TEST_F(TemporaryDirectoryTest, GoesWithAllThatIsInIt) {
  std::string path;
  {
    auto directory = TemporaryDirectory::Make(parent_, "vr-");
    ASSERT_TRUE(directory.ok()) << directory.status();
    path = directory->path();
    EXPECT_EQ(path.rfind(parent_ + "/vr-", 0), 0u) << path;
    struct stat status;
    ASSERT_EQ(stat(path.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777u, 0700u);
    ASSERT_TRUE(WriteFileDurably(path + "/file", "x", 0600).ok());
    fs::create_directories(path + "/a/b");
    fs::create_directory_symlink(parent_, path + "/link");
    const TemporaryDirectory moved = *std::move(directory);
    EXPECT_EQ(moved.path(), path);
  }
  EXPECT_FALSE(fs::exists(path));
  EXPECT_TRUE(fs::exists(parent_));
}

TEST_F(TemporaryDirectoryTest, TakesAwayWhatKilledOnesLeft) {
  const std::string left = Left("vr-abcdef");
  const std::string other = Left("vr-other-abcdef");
  const std::string shared = Left("vr-ghijkl", 0755);
  fs::create_directory_symlink(other, parent_ + "/vr-mnopqr");
  ASSERT_TRUE(WriteFileDurably(parent_ + "/vr-stuvwx", "a file", 0700).ok());
  std::optional<TemporaryDirectory> first;
  {
    auto made = TemporaryDirectory::Make(parent_, "vr-");
    ASSERT_TRUE(made.ok()) << made.status();
    first.emplace(*std::move(made));
  }
  EXPECT_FALSE(fs::exists(left));
  for (const std::string& kept : {other + "/inside", shared, parent_ + "/vr-stuvwx"})
    EXPECT_TRUE(fs::exists(kept)) << kept;
  // One that is in use is not left behind.
  const auto second = TemporaryDirectory::Make(parent_, "vr-");
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_TRUE(fs::exists(first->path()));
}

TEST_F(TemporaryDirectoryTest, NowhereToMakeIt) {
  EXPECT_TRUE(absl::IsNotFound(TemporaryDirectory::Make(parent_ + "/none", "vr-").status()));
}

}  // namespace
}  // namespace virt_reclaim
