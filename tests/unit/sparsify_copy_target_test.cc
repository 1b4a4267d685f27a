#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/io.h"
#include "host/sparsify/copy_target.h"

namespace virt_reclaim::sparsify {
namespace {

namespace fs = std::filesystem;

class CopyTargetTest : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(directory_); }
  void TearDown() override { fs::remove_all(directory_); }
  std::string File(const std::string& name) const { return directory_ + "/" + name; }
  static void Write(const std::string& path, const std::string& text) {
    std::ofstream(path) << text;
  }
  size_t Entries() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(directory_), {}));
  }
  const std::string directory_ =
      testing::TempDir() + "virt-reclaim-copy-target-" + std::to_string(getpid());
};

TEST_F(CopyTargetTest, ANewFileIsThereWhenItIsWhole) {
  auto target = CopyTarget::Make(File("copy"));
  ASSERT_TRUE(target.ok()) << target.status();
  Write(target->path(), "all of it");
  EXPECT_FALSE(fs::exists(File("copy")));
  ASSERT_TRUE(target->Publish().ok());
  EXPECT_EQ(*ReadFile(File("copy"), 100), "all of it");
  EXPECT_EQ(Entries(), 1u);
}

TEST_F(CopyTargetTest, WhatFailsLeavesNothing) {
  Write(File("old"), "old");
  for (const char* name : {"old", "new"}) {
    const auto target = CopyTarget::Make(File(name));
    ASSERT_TRUE(target.ok()) << target.status();
    Write(target->path(), "half of it");
  }
  EXPECT_EQ(*ReadFile(File("old"), 100), "old");
  EXPECT_EQ(Entries(), 1u);
}

TEST_F(CopyTargetTest, TheModeOfWhatItReplacesAndThroughLinks) {
  Write(File("old"), "old");
  ASSERT_EQ(chmod(File("old").c_str(), 0604), 0);
  fs::create_symlink("old", File("link"));
  auto target = CopyTarget::Make(File("link"));
  ASSERT_TRUE(target.ok()) << target.status();
  Write(target->path(), "new");
  ASSERT_TRUE(target->Publish().ok());
  EXPECT_EQ(*ReadFile(File("old"), 100), "new");
  EXPECT_TRUE(fs::is_symlink(File("link")));
  struct stat status;
  ASSERT_EQ(stat(File("old").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777u, 0604u);
}

TEST_F(CopyTargetTest, OtherNamesOfAFileStayTheSameFile) {
  Write(File("one"), "old");
  fs::create_hard_link(File("one"), File("two"));
  auto target = CopyTarget::Make(File("two"));
  ASSERT_TRUE(target.ok()) << target.status();
  EXPECT_EQ(target->path(), File("two"));
  EXPECT_TRUE(target->Publish().ok());
}

TEST_F(CopyTargetTest, WhatCameMeanwhileIsNotReplaced) {
  auto target = CopyTarget::Make(File("copy"));
  ASSERT_TRUE(target.ok()) << target.status();
  Write(target->path(), "ours");
  Write(File("copy"), "another one's");
  EXPECT_TRUE(absl::IsAlreadyExists(target->Publish()));
  EXPECT_EQ(*ReadFile(File("copy"), 100), "another one's");
}

TEST_F(CopyTargetTest, WhatItReplacesMayBeAnotherFileOrInUseByThen) {
  Write(File("old"), "old");
  auto target = CopyTarget::Make(File("old"));
  ASSERT_TRUE(target.ok()) << target.status();
  Write(target->path(), "ours");
  {
    const std::ofstream user(File("old"), std::ios::app);
    EXPECT_TRUE(absl::IsAborted(target->Publish()));
  }
  EXPECT_EQ(*ReadFile(File("old"), 100), "old");
  Write(File("new"), "another one's");
  fs::rename(File("new"), File("old"));
  EXPECT_TRUE(absl::IsAborted(target->Publish()));
  EXPECT_EQ(*ReadFile(File("old"), 100), "another one's");
}

TEST_F(CopyTargetTest, NothingToPublish) {
  auto target = CopyTarget::Make(File("copy"));
  ASSERT_TRUE(target.ok()) << target.status();
  EXPECT_TRUE(absl::IsNotFound(target->Publish()));
  EXPECT_EQ(Entries(), 1u);  // goes with `target`
}

TEST_F(CopyTargetTest, NoSuchDirectory) {
  EXPECT_TRUE(absl::IsNotFound(CopyTarget::Make(File("none/copy")).status()));
}

}  // namespace
}  // namespace virt_reclaim::sparsify
