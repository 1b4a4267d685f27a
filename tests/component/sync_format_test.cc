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

using punch::HalfZeroContent;
using punch::LoopMount;
using punch::MtimeNs;
using punch::ReadContent;
using punch::Shell;
using punch::WriteContent;
using ::testing::HasSubstr;

bool HasQemu() { return Shell("command -v qemu-img && command -v qemu-nbd").status == 0; }

TEST(FormatTest, Qcow2BecomesRaw) {
  if (!HasQemu()) return;  // listed with the packages of tests
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

TEST(FormatTest, WhatIsNoImageOrInUse) {
  if (!HasQemu()) return;
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
