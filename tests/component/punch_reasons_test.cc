// What the verb punch says of what it leaves alone, and of what frees nothing: reasons and
// statuses, on filesystems that have such extents.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"
#include "host/cli/program.h"
#include "host/commands/punch_files.h"
#include "tests/component/punch_fixtures.h"

namespace virt_reclaim {
namespace {

using punch::LoopMount;
using punch::Shell;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr size_t kMiB = size_t{1} << 20;

nlohmann::json RunJson(std::vector<std::string> arguments, ExitStatus status) {
  ProgressLine progress(-1);
  arguments.insert(arguments.begin(), "punch");
  arguments.push_back("--json");
  const ProgramResult result = RunProgram(
      arguments, [](const CommandLine&, const auto&) { return absl::InternalError("libvirt"); },
      progress, {});
  EXPECT_EQ(result.status, status) << result.out << result.err;
  return nlohmann::json::parse(result.out);
}

TEST(PunchReasonsTest, WhatIsSharedFreesNothing) {
  const LoopMount fs("xfs", "-K");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  const std::string path = fs.Path("image");
  punch::WriteBlocks(path, std::string(256, '0') + std::string(256, 'x'));
  ASSERT_EQ(Shell(absl::StrCat("cp --reflink=always ", path, " ", fs.Path("copy"))).status, 0);
  auto json = RunJson({path}, ExitStatus::kNothingFreed);
  EXPECT_THAT(json["files"][0]["reasons"], ElementsAre("shared-extents"));
  EXPECT_EQ(json["files"][0]["shared_bytes"], kMiB);
  EXPECT_EQ(json["files"][0]["way"], "atomic");
  // Beside a file that frees something it is a remark: the first is done, and so is the run.
  punch::WriteBlocks(fs.Path("more"), std::string(256, '0') + std::string(256, 'x'));
  punch::WriteBlocks(path, std::string(256, '0') + std::string(256, 'x'));
  ASSERT_EQ(Shell(absl::StrCat("cp --reflink=always ", path, " ", fs.Path("copy"))).status, 0);
  json = RunJson({path, fs.Path("more")}, ExitStatus::kDone);
  EXPECT_THAT(json["files"][0]["reasons"], ElementsAre("shared-extents"));
  EXPECT_THAT(json["files"][1]["reasons"], IsEmpty());
  EXPECT_EQ(json["total"]["freed_bytes"], kMiB);
}

TEST(PunchReasonsTest, WhatIsPreallocatedIsTakenWhenAskedFor) {
  const LoopMount fs("xfs", "-K");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  const std::string path = fs.Path("image");
  punch::WriteBlocks(path, "xxxx");
  ASSERT_EQ(Shell(absl::StrCat("fallocate -l 4M ", path)).status, 0);
  auto json = RunJson({path}, ExitStatus::kDone);
  EXPECT_THAT(json["files"][0]["reasons"], ElementsAre("preallocated"));
  EXPECT_EQ(json["files"][0]["unwritten_bytes"], 4 * kMiB - 16384);
  EXPECT_EQ(json["total"]["punched_bytes"], 0);
  json = RunJson({"--unwritten", path}, ExitStatus::kDone);
  EXPECT_THAT(json["files"][0]["reasons"], IsEmpty());
  EXPECT_EQ(json["total"]["punched_bytes"], 4 * kMiB - 16384);
}

TEST(PunchReasonsTest, WhatIsInUseIsPunchedWhenAskedFor) {
  const LoopMount xfs("xfs", "-K");
  ASSERT_TRUE(xfs.ok()) << xfs.why_not();
  const LoopMount ext4("ext4", "-E nodiscard");
  ASSERT_TRUE(ext4.ok()) << ext4.why_not();
  for (const LoopMount* fs : {&xfs, &ext4}) {
    const std::string path = fs->Path("image");
    punch::WriteBlocks(path, std::string(256, '0') + std::string(256, 'x'));
    const UniqueFd writer(open(path.c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_TRUE(writer.valid());
    auto json = RunJson({path}, ExitStatus::kRefused);
    EXPECT_THAT(json["files"][0]["reasons"], ElementsAre("image-in-use"));
    if (fs == &ext4) {
      json = RunJson({"--live", path}, ExitStatus::kRefused);
      EXPECT_THAT(json["files"][0]["reasons"], ElementsAre("image-refused"));
      continue;
    }
    json = RunJson({"--live", path}, ExitStatus::kDone);
    EXPECT_EQ(json["total"]["punched_bytes"], kMiB);
    EXPECT_EQ(json["total"]["freed_bytes"], kMiB);
  }
}

TEST(PunchReasonsTest, WhatIsCompressedIsLeftAlone) {
  const LoopMount fs("btrfs", "-K", "compress-force=zstd");
  ASSERT_TRUE(fs.ok()) << fs.why_not();
  punch::WriteContent(fs.Path("image"), std::string(4 * kMiB, '\0') + std::string(kMiB, 'x'));
  auto json = RunJson({fs.Path("image")}, ExitStatus::kDone);
  EXPECT_THAT(json["files"][0]["reasons"], ElementsAre("compressed-extents"));
  EXPECT_EQ(json["files"][0]["compressed_bytes"], 5 * kMiB);
  if (Shell("command -v qemu-img").status != 0) GTEST_SKIP() << "needs qemu-img";
  const LoopMount ext4("ext4", "-E nodiscard");
  ASSERT_TRUE(ext4.ok()) << ext4.why_not();
  punch::WriteContent(ext4.Path("raw"), std::string(4 * kMiB, 'x'));
  ASSERT_EQ(Shell(absl::StrCat("qemu-img convert -c -f raw -O qcow2 ", ext4.Path("raw"), " ",
                               ext4.Path("image"), " && sync ", ext4.Path("image")))
                .status,
            0);
  json = RunJson({ext4.Path("image")}, ExitStatus::kDone);
  EXPECT_THAT(json["files"][0]["reasons"], ElementsAre("compressed-clusters"));
  EXPECT_GT(json["files"][0]["compressed_cluster_bytes"], 0);
}

// btrfs: holes alone free nothing, and what was not moved, and why, nobody would guess.
TEST(PunchReasonsTest, WhatIsNotReleasedIsSaid) {
  PunchedFile file;
  file.result.punched_bytes = kMiB;
  AddRemarks(file);
  EXPECT_THAT(file.outcome.reasons, IsEmpty());
  file.result.release = absl::PermissionDeniedError("only root\nmay ask");
  AddRemarks(file);
  ASSERT_EQ(file.outcome.reasons.size(), 1U);
  EXPECT_EQ(file.outcome.reasons[0].reason, Reason::kExtentsHeld);
  EXPECT_THAT(file.outcome.reasons[0].detail, HasSubstr("only root"));
  EXPECT_EQ(file.outcome.kind, OutcomeKind::kDone);
  EXPECT_FALSE(TotalOf({file}).freed_known);
  PunchedFile known = file;
  known.result.freed_bytes = kMiB;
  EXPECT_TRUE(TotalOf({file, known}).freed_known);
  EXPECT_TRUE(TotalOf({PunchedFile()}).freed_known);
}

}  // namespace
}  // namespace virt_reclaim
