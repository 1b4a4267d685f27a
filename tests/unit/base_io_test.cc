#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string>
#include <thread>

#include "base/io.h"

namespace virt_reclaim {
namespace {

class IoTest : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(directory_); }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  const std::string directory_ = testing::TempDir() + "virt-reclaim-io-" + std::to_string(getpid());
};

TEST_F(IoTest, WritesReplaceWholeAndSetTheMode) {
  const std::string path = directory_ + "/old.xml";
  for (const auto write : {WriteFileDurably, ReplaceFile}) {
    ASSERT_TRUE(write(path, "one", 0600).ok());
    struct stat st, before;
    ASSERT_EQ(stat(path.c_str(), &before), 0);
    ASSERT_TRUE(write(path, "two", 0640).ok());
    EXPECT_EQ(*ReadFile(path, 100), "two");
    ASSERT_EQ(stat(path.c_str(), &st), 0);
    EXPECT_EQ(st.st_mode & 07777u, 0640u);
    EXPECT_NE(st.st_ino, before.st_ino);  // whoever reads the old one reads on
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory_), {}),
              1);  // no temporary file is left
    EXPECT_FALSE(write(directory_ + "/none/file", "one", 0600).ok());
  }
}

TEST_F(IoTest, RealPathResolvesLinksOrSaysWhyNot) {
  const std::string path = directory_ + "/file";
  ASSERT_TRUE(WriteFileDurably(path, "one", 0600).ok());
  std::filesystem::create_symlink("file", directory_ + "/link");
  EXPECT_EQ(RealPath(directory_ + "/link"), RealPath(path));
  EXPECT_EQ(RealPath(directory_ + "/link").substr(0, 1), "/");
  errno = 0;
  EXPECT_EQ(RealPath(directory_ + "/nothing"), "");
  EXPECT_EQ(errno, ENOENT);
}

TEST_F(IoTest, WhatIsWrittenIsAllOfItOrAnError) {
  const std::string text(size_t{1} << 20, 'a');  // more than a pipe takes at once
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  std::string read_back;
  std::thread reader([&] {
    char buffer[65536];
    for (ssize_t n = 0; (n = read(ends[0], buffer, sizeof buffer)) > 0;)
      read_back.append(buffer, static_cast<size_t>(n));
  });
  EXPECT_TRUE(WriteAll(ends[1], text));
  close(ends[1]);
  reader.join();
  close(ends[0]);
  EXPECT_EQ(read_back, text);
  EXPECT_FALSE(WriteAll(-1, text));
  EXPECT_EQ(errno, EBADF);
}

TEST_F(IoTest, ErrorsNameTheFile) {
  const absl::Status missing = ReadFile(directory_ + "/none", 10).status();
  EXPECT_TRUE(absl::IsNotFound(missing));
  EXPECT_NE(missing.message().find("/none'"), absl::string_view::npos) << missing;
  EXPECT_FALSE(WriteFileDurably(directory_ + "/no/such/dir", "x", 0600).ok());
}

TEST_F(IoTest, ReadIsBounded) {
  ASSERT_TRUE(WriteFileDurably(directory_ + "/big", std::string(1000, 'x'), 0600).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(ReadFile(directory_ + "/big", 999).status()));
  EXPECT_TRUE(ReadFile(directory_ + "/big", 1000).ok());
}

TEST_F(IoTest, MakeDirectoriesIsPrivateAndRepeatable) {
  const std::string path = directory_ + "/a/b/c";
  ASSERT_TRUE(MakeDirectories(path).ok());
  ASSERT_TRUE(MakeDirectories(path).ok());
  struct stat st;
  ASSERT_EQ(stat(path.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777u, 0700u);
}

// A wrong name is a mistake of whoever gave it, not a refusal.
TEST_F(IoTest, ANameThatIsNoFilesIsInvalid) {
  EXPECT_TRUE(absl::IsInvalidArgument(ReadFile(directory_, 100).status()));
  ASSERT_TRUE(WriteFileDurably(directory_ + "/file", "x", 0600).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(ReadFile(directory_ + "/file/below", 100).status()));
  EXPECT_TRUE(absl::IsNotFound(ReadFile(directory_ + "/none", 100).status()));
}

}  // namespace
}  // namespace virt_reclaim
