#include "host/services/storage_lock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <optional>

#include "base/temporary_directory.h"

namespace virt_reclaim {
namespace {

class StorageLockTest : public testing::Test {
 protected:
  std::unique_ptr<StorageLock> Lock(const std::set<std::string>& storages, size_t limit) const {
    return std::make_unique<StorageLock>(directory_.path(), storages, limit);
  }
  static bool Takes(StorageLock& lock) {
    const auto taken = lock.Take();
    EXPECT_TRUE(taken.ok()) << taken.status();
    return taken.ok() && *taken;
  }

  const TemporaryDirectory directory_ = TemporaryDirectory::Make("/tmp", "storage-lock-").value();
};

TEST_F(StorageLockTest, OneAtATimeOnEachStorage) {
  auto first = Lock({"7"}, 1);
  auto second = Lock({"7"}, 1);
  auto elsewhere = Lock({"8"}, 1);
  EXPECT_TRUE(Takes(*first));
  EXPECT_TRUE(Takes(*first));  // has all
  EXPECT_FALSE(Takes(*second));
  EXPECT_TRUE(Takes(*elsewhere));
  first.reset();
  EXPECT_TRUE(Takes(*second));
}

TEST_F(StorageLockTest, NoStorageIsNoWait) {
  auto first = Lock({}, 1);
  auto second = Lock({}, 1);
  EXPECT_TRUE(Takes(*first));
  EXPECT_TRUE(Takes(*second));
}

TEST_F(StorageLockTest, AsManyAsTheLimit) {
  std::array<std::unique_ptr<StorageLock>, 4> locks;
  for (auto& lock : locks) lock = Lock({"7"}, 3);
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(Takes(*locks[i]));
  EXPECT_FALSE(Takes(*locks[3]));
  locks[1].reset();
  EXPECT_TRUE(Takes(*locks[3]));
}

TEST_F(StorageLockTest, TheSmallestLimitOfThoseThatRunCounts) {
  for (const bool strict_first : {true, false}) {
    auto strict = Lock({"7"}, 1);
    auto lenient = Lock({"7"}, 3);
    StorageLock& one = strict_first ? *strict : *lenient;
    StorageLock& other = strict_first ? *lenient : *strict;
    EXPECT_TRUE(Takes(one));
    EXPECT_FALSE(Takes(other));
  }
  // Two of three run: a limit of two has to wait though the third place is free.
  auto first = Lock({"7"}, 3);
  auto second = Lock({"7"}, 3);
  auto two = Lock({"7"}, 2);
  EXPECT_TRUE(Takes(*first));
  EXPECT_TRUE(Takes(*second));
  EXPECT_FALSE(Takes(*two));
  second.reset();
  EXPECT_TRUE(Takes(*two));
  auto third = Lock({"7"}, 3);
  EXPECT_FALSE(Takes(*third));  // two run, one of which allows no third
}

TEST_F(StorageLockTest, WhoWaitsIsNext) {
  auto first = Lock({"7"}, 1);
  auto waits = Lock({"7"}, 1);
  EXPECT_TRUE(Takes(*first));
  EXPECT_FALSE(Takes(*waits));
  first = Lock({"7"}, 1);  // done, and back for the next domain at once
  EXPECT_FALSE(Takes(*first));
  EXPECT_TRUE(Takes(*waits));
  // And whoever gives up waiting is in nobody's way.
  first.reset();
  waits.reset();
  auto last = Lock({"7"}, 1);
  EXPECT_TRUE(Takes(*last));
}

TEST_F(StorageLockTest, OnSeveralStoragesNoTwoWaitForEachOther) {
  auto a = Lock({"1", "2"}, 1);
  auto b = Lock({"2", "1"}, 1);
  auto on_two = Lock({"2"}, 1);
  EXPECT_TRUE(Takes(*on_two));
  EXPECT_FALSE(Takes(*a));  // has 1, waits for 2
  EXPECT_FALSE(Takes(*b));  // waits for 1, has nothing
  on_two.reset();
  EXPECT_TRUE(Takes(*a));
  EXPECT_FALSE(Takes(*b));
  a.reset();
  EXPECT_TRUE(Takes(*b));
}

TEST_F(StorageLockTest, AKilledProcessLeavesNoLock) {
  std::array<int, 2> ready{};
  ASSERT_EQ(pipe(ready.data()), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto lock = Lock({"7"}, 1);
    const char taken = Takes(*lock) ? 'y' : 'n';
    if (write(ready[1], &taken, 1) != 1) _exit(1);
    for (;;) pause();
  }
  char taken = 0;
  ASSERT_EQ(read(ready[0], &taken, 1), 1);
  EXPECT_EQ(taken, 'y');
  auto here = Lock({"7"}, 1);
  EXPECT_FALSE(Takes(*here));
  ASSERT_EQ(kill(child, SIGKILL), 0);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  EXPECT_TRUE(Takes(*here));
  close(ready[0]);
  close(ready[1]);
}

TEST_F(StorageLockTest, ALinkInPlaceOfTheFileIsNotFollowed) {
  ASSERT_EQ(symlink("/etc/hostname", (directory_.path() + "/storage-7.lock").c_str()), 0);
  EXPECT_FALSE(Lock({"7"}, 1)->Take().ok());
}

TEST_F(StorageLockTest, OnlyItsOwnerMayOpenTheFile) {
  EXPECT_TRUE(Takes(*Lock({"7"}, 1)));
  struct stat status {};
  ASSERT_EQ(stat((directory_.path() + "/storage-7.lock").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

}  // namespace
}  // namespace virt_reclaim
