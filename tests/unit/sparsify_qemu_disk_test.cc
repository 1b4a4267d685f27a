// What of a qcow2 disk needs no QEMU; the rest is tests/sparsify.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <stop_token>
#include <string>

#include "absl/strings/str_cat.h"
#include "host/guard/image_identity.h"
#include "host/sparsify/opened_disk.h"

namespace virt_reclaim::sparsify {
namespace {

// The repair of a big image takes minutes: who stops it waits for none of them, and the mark by
// which the next run knows of the leaks stays.
TEST(QemuDiskTest, TheRepairOfLeaksIsStopped) {
  const std::string directory = absl::StrCat(testing::TempDir(), "qemu-disk-", getpid());
  std::filesystem::create_directories(directory);
  const std::string image = directory + "/image";
  std::ofstream(image) << std::string(1 << 20, 'x');
  struct stat status;
  ASSERT_EQ(stat(image.c_str(), &status), 0);
  const ImageIdentity identity = IdentityOf(status);
  const std::string mark =
      absl::StrCat(directory, "/unfinished-", identity.device, "-", identity.inode);
  std::ofstream(mark) << "";
  std::stop_source stop;
  stop.request_stop();
  const auto disk =
      OpenDisk({image, "qcow2"}, {"/nowhere", directory}, Mode::kSparsify, stop.get_token());
  EXPECT_TRUE(absl::IsCancelled(disk.status())) << disk.status();
  EXPECT_TRUE(std::filesystem::exists(mark));
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace virt_reclaim::sparsify
