// The content of qcow2 images, through a real qemu-nbd.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <unistd.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/unique_fd.h"
#include "host/sync/unfinished_mark.h"
#include "tests/component/sync_fixtures.h"

namespace virt_reclaim::sync {
namespace {

using ::testing::HasSubstr;

bool HasQemu() {
  return Shell("command -v qemu-img && command -v qemu-nbd && command -v qemu-io").status == 0;
}
constexpr char kWhyNot[] = "needs qemu-img, qemu-nbd and qemu-io";

TEST(FormatTest, Qcow2BecomesRaw) {
  if (!HasQemu()) GTEST_SKIP() << kWhyNot;
  const LoopMount fs("ext4", "-E nodiscard");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  std::string content = HalfZeroContent(24 * kMiB) + std::string(512, 'e');
  const std::string source = fs.Path("a,b.qcow2");
  const std::string copy = fs.Path("copy.raw");
  const auto convert = [&] {
    WriteContent(fs.Path("raw"), content);
    const auto made = Shell(absl::StrCat("qemu-img convert -f raw -O qcow2 ", fs.Path("raw"), " ",
                                         fs.Path("made"), " && mv ", fs.Path("made"), " ", source));
    ASSERT_EQ(made.status, 0) << made.output;
  };
  convert();
  auto result = SyncFile(source, copy, {.verify = true, .format = "qcow2"});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(ReadContent(copy) == content);
  EXPECT_LE(punch::AllocatedBytes(copy), result->written_bytes + 4 * kMiB);
  EXPECT_EQ(MtimeNs(copy), MtimeNs(source));
  const auto plan = Syncer({.format = "qcow2"}, Clock()).Plan(source, copy);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_TRUE(plan->unchanged);
  const uint64_t changed = ChangeBlocks(content, 60, true, 3);
  convert();
  result = SyncFile(source, copy, {.format = "qcow2"});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->written_bytes, changed);
  EXPECT_TRUE(ReadContent(copy) == content);
}

// What a guest sees through its overlays: what they have, zero clusters too, and below that what
// the images have that they stand on.
TEST(FormatTest, ABackingChainBecomesOneCopy) {
  if (!HasQemu()) GTEST_SKIP() << kWhyNot;
  const LoopMount fs("ext4", "-E nodiscard");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  std::string content = HalfZeroContent(16 * kMiB);
  WriteContent(fs.Path("base.raw"), content);
  const std::string top = fs.Path("top.qcow2");
  const auto made = Shell(absl::StrCat(
      "cd ", fs.Path(""), " && qemu-img create -q -f qcow2 -b base.raw -F raw middle.qcow2",
      " && qemu-img create -q -f qcow2 -b middle.qcow2 -F qcow2 top.qcow2",
      " && qemu-io -f qcow2 -c 'write -P 0x61 1M 192k' middle.qcow2",
      " && qemu-io -f qcow2 -c 'write -P 0x62 1M 64k' -c 'write -z 8M 1M' top.qcow2"));
  ASSERT_EQ(made.status, 0) << made.output;
  content.replace(kMiB, 192 * kKiB, std::string(192 * kKiB, 'a'));
  content.replace(kMiB, 64 * kKiB, std::string(64 * kKiB, 'b'));
  content.replace(8 * kMiB, kMiB, std::string(kMiB, '\0'));
  WriteContent(fs.Path("copy"), std::string(16 * kMiB, 'y'));
  auto result = SyncFile(top, fs.Path("copy"), {.verify = true, .format = "qcow2"});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(ReadContent(fs.Path("copy")) == content);
  EXPECT_EQ(MtimeNs(fs.Path("copy")), MtimeNs(top));
  // As the file it is: the overlay alone, byte for byte.
  ASSERT_TRUE(SyncFile(top, fs.Path("file")).ok());
  EXPECT_TRUE(ReadContent(fs.Path("file")) == ReadContent(top));
  // An image below that is missing is an error, and the copy stays.
  ASSERT_EQ(unlink(fs.Path("base.raw").c_str()), 0);
  EXPECT_FALSE(SyncFile(top, fs.Path("copy"), {.compare = true, .format = "qcow2"}).ok());
  EXPECT_TRUE(ReadContent(fs.Path("copy")) == content);
}

TEST(FormatTest, AnImageOnABlockDevice) {
  if (!HasQemu()) GTEST_SKIP() << kWhyNot;
  const LoopMount fs("ext4", "-E nodiscard");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  const std::string content = HalfZeroContent(8 * kMiB);
  WriteContent(fs.Path("raw"), content);
  const auto made = Shell(absl::StrCat("qemu-img convert -f raw -O qcow2 ", fs.Path("raw"), " ",
                                       fs.Path("image"), " && truncate -s 16M ", fs.Path("image")));
  ASSERT_EQ(made.status, 0) << made.output;
  const auto loop = Shell("losetup --find --show " + fs.Path("image"));
  ASSERT_EQ(loop.status, 0) << loop.output;
  const std::string device = loop.output.substr(0, loop.output.find('\n'));
  const auto result = SyncFile(device, fs.Path("copy"), {.verify = true, .format = "qcow2"});
  Shell("losetup --detach " + device);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(ReadContent(fs.Path("copy")) == content);
}

TEST(FormatTest, WhatIsNoImageOrInUse) {
  if (!HasQemu()) GTEST_SKIP() << kWhyNot;
  const LoopMount fs("ext4", "-E nodiscard");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  WriteContent(fs.Path("source"), "no image");
  EXPECT_THAT(SyncFile(fs.Path("source"), fs.Path("copy"), {.format = "qcow2"}).status().message(),
              HasSubstr("qcow2"));
  EXPECT_EQ(SyncFile(fs.Path("source"), fs.Path("copy"), {.format = "a b"}).status().code(),
            absl::StatusCode::kInvalidArgument);
  ASSERT_EQ(Shell("qemu-img create -f qcow2 " + fs.Path("image") + " 1M").status, 0);
  const UniqueFd writer(open(fs.Path("image").c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_EQ(SyncFile(fs.Path("image"), fs.Path("copy"), {.format = "qcow2"}).status().code(),
            absl::StatusCode::kAborted);
  EXPECT_NE(access(fs.Path("copy").c_str(), F_OK), 0);
}

}  // namespace
}  // namespace virt_reclaim::sync
