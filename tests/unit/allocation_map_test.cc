// Where an image has storage: of real files, of qemu-img's words.
#include "host/services/allocation_map.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"

namespace virt_reclaim {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr uint64_t kUnit = uint64_t{1} << 20;

class AllocationMapTest : public testing::Test {
 protected:
  AllocationMapTest() : directory_(testing::TempDir() + "/allocation-map-XXXXXX") {
    EXPECT_NE(mkdtemp(directory_.data()), nullptr);
  }
  ~AllocationMapTest() override {
    for (const char* name : {"/raw", "/qcow2"}) unlink((directory_ + name).c_str());
    rmdir(directory_.c_str());
  }
  void Write(const std::string& path, uint64_t at, uint64_t length) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(at));
    file << std::string(length, 'x');
    ASSERT_TRUE(file.good());
  }
  static ImageFile Image(const std::string& path, const std::string& format) {
    ImageFile image;
    image.path = path;
    image.format = format;
    return image;
  }

  std::string directory_;
};

TEST_F(AllocationMapTest, OfARawFile) {
  const std::string path = directory_ + "/raw";
  std::ofstream(path).close();
  ASSERT_EQ(truncate(path.c_str(), 16 * kUnit), 0);
  EXPECT_THAT(ReadAllocationMap(Image(path, "raw"), {}).value(), IsEmpty());
  Write(path, kUnit, kUnit);
  Write(path, 15 * kUnit, kUnit);
  EXPECT_THAT(ReadAllocationMap(Image(path, "raw"), {}).value(),
              ElementsAre(Range{kUnit, 2 * kUnit}, Range{15 * kUnit, 16 * kUnit}));
  // libvirt never probes: no format means raw.
  EXPECT_EQ(ReadAllocationMap(Image(path, ""), {}).value().size(), 2u);
}

TEST_F(AllocationMapTest, OfWhatIsNoFileOrNotThere) {
  EXPECT_TRUE(absl::IsNotFound(ReadAllocationMap(Image(directory_ + "/raw", "raw"), {}).status()));
  EXPECT_TRUE(absl::IsUnimplemented(ReadAllocationMap(Image(directory_, "raw"), {}).status()));
  ASSERT_EQ(mkfifo((directory_ + "/raw").c_str(), 0600), 0);
  EXPECT_TRUE(
      absl::IsUnimplemented(ReadAllocationMap(Image(directory_ + "/raw", "raw"), {}).status()));
}

TEST_F(AllocationMapTest, OfAQcow2Image) {
  if (access("/usr/bin/qemu-img", X_OK) != 0) GTEST_SKIP() << "qemu-img is not installed";
  const std::string path = directory_ + "/qcow2";
  const std::string make =
      absl::StrCat("qemu-img create -q -f qcow2 '", path,
                   "' 64M && qemu-io -c 'write 1M 2M' -c 'write 32M 64k' '", path, "' >/dev/null");
  ASSERT_EQ(system(make.c_str()), 0);
  EXPECT_THAT(ReadAllocationMap(Image(path, "qcow2"), {}).value(),
              ElementsAre(Range{kUnit, 3 * kUnit}, Range{32 * kUnit, 32 * kUnit + (64 << 10)}));
}

TEST(ParseQemuMap, PreallocatedZeroesCountBackingFilesDoNot) {
  EXPECT_THAT(ParseQemuMap(R"([
        {"start": 0, "length": 10, "depth": 0, "present": true, "zero": false, "data": true, "offset": 100},
        {"start": 10, "length": 5, "depth": 0, "present": false, "zero": true, "data": false},
        {"start": 15, "length": 5, "depth": 0, "present": true, "zero": true, "data": false, "offset": 300},
        {"start": 20, "length": 5, "depth": 0, "present": true, "zero": false, "data": true}])")
                  .value(),
              ElementsAre(Range{0, 10}, Range{15, 25}));
}

TEST(ParseQemuMap, NonsenseIsRefused) {
  for (const char* text :
       {"", "{}", "[1]", R"([{"start": 0}])", R"([{"start": -1, "length": 1, "data": true}])",
        R"([{"start": 10, "length": 1, "data": true}, {"start": 0, "length": 1, "data": true}])",
        R"([{"start": 18446744073709551615, "length": 1, "data": true}])"}) {
    EXPECT_FALSE(ParseQemuMap(text).ok()) << text;
  }
}

}  // namespace
}  // namespace virt_reclaim
