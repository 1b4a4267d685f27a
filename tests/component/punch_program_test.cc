// The verb punch, from its words to the holes, on files of the filesystem that tests are run on.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/io.h"
#include "base/unique_fd.h"
#include "host/cli/program.h"

namespace virt_reclaim {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

class PunchProgramTest : public testing::Test {
 protected:
  PunchProgramTest() {
    std::string name = (std::filesystem::temp_directory_path() / "vr-punch-XXXXXX").string();
    directory_ = mkdtemp(name.data());
  }
  ~PunchProgramTest() override { std::filesystem::remove_all(directory_); }

  // Data, then zeroes, then data, each of 4 MiB.
  std::string MakeImage(const std::string& name) {
    const std::string path = absl::StrCat(directory_, "/", name);
    const std::string text = absl::StrCat(std::string(4 * kMiB, 'x'), std::string(4 * kMiB, '\0'),
                                          std::string(4 * kMiB, 'y'));
    EXPECT_TRUE(WriteFileDurably(path, text, 0600).ok());
    return path;
  }
  static uint64_t Allocation(const std::string& path) {
    struct stat status {};
    EXPECT_EQ(stat(path.c_str(), &status), 0);
    return static_cast<uint64_t>(status.st_blocks) * 512;
  }
  static ProgramResult Run(std::vector<std::string> arguments) {
    ProgressLine progress(-1);
    arguments.insert(arguments.begin(), "punch");
    return RunProgram(arguments,
                      [](const CommandLine&, const auto&) {
                        ADD_FAILURE() << "punch has no use for a hypervisor";
                        return absl::OkStatus();
                      },
                      progress, {});
  }
  static nlohmann::json RunJson(std::vector<std::string> arguments, ExitStatus status) {
    arguments.push_back("--json");
    const ProgramResult result = Run(arguments);
    EXPECT_EQ(result.status, status) << result.out << result.err;
    return nlohmann::json::parse(result.out);
  }

  std::string directory_;
};

TEST_F(PunchProgramTest, HolesAreMadeAndContentStays) {
  const std::string path = MakeImage("a.raw");
  const std::string content = ReadFile(path, 64 * kMiB).value();
  const uint64_t before = Allocation(path);
  if (before < 12 * kMiB)
    return;  // a filesystem that compresses; punch_filesystems_test has others
  const auto planned = RunJson({"--dry-run", path}, ExitStatus::kDone);
  EXPECT_EQ(planned["message_type"], "punch-plan");
  EXPECT_EQ(planned["total"]["zero_bytes"], 4 * kMiB);
  EXPECT_EQ(Allocation(path), before);
  const auto punched = RunJson({path}, ExitStatus::kDone);
  EXPECT_EQ(punched["total"]["punched_bytes"], 4 * kMiB);
  EXPECT_EQ(punched["files"][0]["status"], "done");
  EXPECT_LE(Allocation(path), before - 4 * kMiB + 65536);
  EXPECT_EQ(ReadFile(path, 64 * kMiB).value(), content);
  const auto again = RunJson({path}, ExitStatus::kDone);
  EXPECT_EQ(again["total"]["punched_bytes"], 0);
}

TEST_F(PunchProgramTest, DirectoriesAndLists) {
  std::filesystem::create_directories(directory_ + "/sub");
  MakeImage("a\nb.raw");
  MakeImage("sub/c.raw");
  const auto below = RunJson({"-r", "-n", directory_}, ExitStatus::kDone);
  EXPECT_EQ(below["total"]["files"], 2);
  EXPECT_EQ(below["files"][0]["path"], directory_ + "/a\\x0ab.raw");
  const std::string list = directory_ + "/list";
  ASSERT_TRUE(WriteFileDurably(list,
                               absl::StrCat(directory_, "/a\nb.raw", std::string(1, '\0'),
                                            directory_, "/sub/c.raw", std::string(1, '\0')),
                               0600)
                  .ok());
  EXPECT_EQ(RunJson({"-n", "--files-from", list, "--null"}, ExitStatus::kDone)["total"]["files"],
            2);
  // Without --recursive a directory is a mistake.
  EXPECT_EQ(Run({directory_}).status, ExitStatus::kError);
}

TEST_F(PunchProgramTest, ABadFileIsNotTheEndOfTheOthers) {
  const std::string good = MakeImage("a.raw");
  const auto result = RunJson({good, directory_ + "/none.raw"}, ExitStatus::kSomeFailed);
  EXPECT_EQ(result["files"][0]["status"], "done");
  EXPECT_EQ(result["files"][1]["status"], "failed");
}

TEST_F(PunchProgramTest, AnImageInUseIsRefusedByNameOfTheHolder) {
  const std::string path = MakeImage("a.raw");
  const UniqueFd holder(open(path.c_str(), O_RDWR | O_CLOEXEC));
  // A lease needs to be the one open descriptor; this process is no holder to name.
  const ProgramResult result = Run({path});
  // XFS and btrfs; guard_test and punch_filesystems_test have both kinds.
  if (result.status == ExitStatus::kDone) return;
  EXPECT_EQ(result.status, ExitStatus::kRefused) << result.out;
  EXPECT_THAT(result.out, testing::HasSubstr("image-in-use"));
  EXPECT_THAT(result.out, testing::HasSubstr("FILE"));
}

TEST_F(PunchProgramTest, OptionsReachTheEngine) {
  const std::string path = MakeImage("a.raw");
  struct stat old {};
  ASSERT_EQ(stat(path.c_str(), &old), 0);
  EXPECT_EQ(RunJson({"-n", "--min-hole", "8M", path}, ExitStatus::kDone)["total"]["zero_bytes"], 0);
  // 12 MiB at 24 MiB a second: half a second at least, whatever the disk.
  const auto begin = std::chrono::steady_clock::now();
  RunJson({"-n", "--max-rate", "24M", path}, ExitStatus::kDone);
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(400));
  const auto punched = RunJson({"--new-mtime", "--idle", "--no-release", path}, ExitStatus::kDone);
  struct stat now {};
  ASSERT_EQ(stat(path.c_str(), &now), 0);
  if (punched["files"][0]["way"] == "plain" && punched["total"]["punched_bytes"] > 0) {
    EXPECT_FALSE(punched["files"][0]["mtime_kept"]);
    EXPECT_NE(now.st_mtim.tv_nsec, old.st_mtim.tv_nsec);
  }
  EXPECT_EQ(RunJson({"-r", "-x", "-n", directory_}, ExitStatus::kDone)["total"]["files"], 1);
}

TEST_F(PunchProgramTest, TextHasATotalFirst) {
  const std::string path = MakeImage("a.raw");
  const ProgramResult result = Run({path});
  EXPECT_EQ(result.status, ExitStatus::kDone) << result.out;
  EXPECT_THAT(result.out, testing::StartsWith("total: 1 file, read 12.0 MiB, punched 4.0 MiB"));
  EXPECT_THAT(result.out, testing::HasSubstr(path));
}

}  // namespace
}  // namespace virt_reclaim
