// The verb punch, from its words to the holes, on files of the filesystem that tests are run on.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/ioprio.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/io.h"
#include "base/unique_fd.h"
#include "host/cli/program.h"
#include "host/sync/unfinished_mark.h"

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
  for (const char* word : {"--dry-run", "--report"}) {
    const auto planned = RunJson({word, path}, ExitStatus::kDone);
    EXPECT_EQ(planned["message_type"], "punch-plan");
    EXPECT_EQ(planned["total"]["zero_bytes"], 4 * kMiB);
    EXPECT_EQ(Allocation(path), before);
  }
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
  // What is no image is refused, as by the other verbs.
  EXPECT_EQ(Run({"/dev/null"}).status, ExitStatus::kRefused);
}

TEST_F(PunchProgramTest, ABadFileIsNotTheEndOfTheOthers) {
  const std::string good = MakeImage("a.raw");
  const auto result = RunJson({good, directory_ + "/none.raw"}, ExitStatus::kSomeFailed);
  EXPECT_EQ(result["files"][0]["status"], "done");
  EXPECT_EQ(result["files"][1]["status"], "failed");
}

// A process that has `path` open, and nothing else of ours, for as long as the object lives.
class Holder {
 public:
  explicit Holder(const std::string& path) {
    int ready[2];
    EXPECT_EQ(pipe2(ready, O_CLOEXEC), 0);
    child_ = fork();
    if (child_ == 0) {
      const bool open_now = open(path.c_str(), O_RDWR | O_CLOEXEC) >= 0;
      if (open_now && write(ready[1], "x", 1) == 1) pause();
      _exit(1);
    }
    close(ready[1]);
    const UniqueFd reading(ready[0]);
    char said = 0;
    EXPECT_EQ(read(reading.get(), &said, 1), 1);
  }
  ~Holder() {
    if (child_ <= 0) return;
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
  }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;
  pid_t pid() const { return child_; }

 private:
  pid_t child_ = -1;
};

TEST_F(PunchProgramTest, AnImageInUseIsRefusedByNameOfTheHolder) {
  const std::string path = MakeImage("a.raw");
  const Holder holder(path);
  const ProgramResult result = Run({path});
  EXPECT_EQ(result.status, ExitStatus::kRefused) << result.out;
  EXPECT_THAT(result.out, testing::HasSubstr("image-in-use"));
  EXPECT_THAT(result.out, testing::HasSubstr(absl::StrCat("(pid ", holder.pid(), ")")));
  EXPECT_THAT(result.out, testing::HasSubstr("FILE"));
}

TEST_F(PunchProgramTest, APartialRunSaysSo) {
  const std::string path = absl::StrCat(directory_, "/large.raw");
  std::string text;
  while (text.size() < 40 * kMiB)
    absl::StrAppend(&text, std::string(2 * kMiB, '\0'), std::string(2 * kMiB, 'x'));
  ASSERT_TRUE(WriteFileDurably(path, text, 0600).ok());
  // It takes two seconds, and after the first somebody opens the file.
  const pid_t opener = fork();
  if (opener == 0) {
    sleep(1);
    _exit(open(path.c_str(), O_RDONLY | O_CLOEXEC) >= 0 ? 0 : 1);
  }
  const ProgramResult result = Run({"--max-rate", "20M", path, "--json"});
  int status = -1;
  waitpid(opener, &status, 0);
  EXPECT_EQ(status, 0);
  const auto json = nlohmann::json::parse(result.out);
  const auto& file = json["files"][0];
  // XFS and btrfs need no guard, and a filesystem that compresses has nothing to read.
  const bool guarded = file["way"] == "plain" && file["read_bytes"] > 0;
  EXPECT_EQ(file["interrupted"], guarded) << result.out;
  EXPECT_EQ(result.status, guarded ? ExitStatus::kRefused : ExitStatus::kDone) << result.out;
  if (guarded) {
    EXPECT_THAT(file["reasons"], testing::ElementsAre("image-in-use"));
    EXPECT_GT(file["punched_bytes"], 0);
    EXPECT_LT(file["punched_bytes"], 20 * kMiB);
  }
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
  const auto punched = RunJson({"--new-mtime", "--no-release", path}, ExitStatus::kDone);
  EXPECT_EQ(punched["files"][0]["moved_bytes"], 0);
  struct stat now {};
  ASSERT_EQ(stat(path.c_str(), &now), 0);
  if (punched["files"][0]["way"] == "plain" && punched["total"]["punched_bytes"] > 0) {
    EXPECT_FALSE(punched["files"][0]["mtime_kept"]);
    EXPECT_NE(now.st_mtim.tv_nsec, old.st_mtim.tv_nsec);
  }
  EXPECT_EQ(RunJson({"-r", "-x", "-n", directory_}, ExitStatus::kDone)["total"]["files"], 1);
}

// In a process of its own: the priority stays.
TEST_F(PunchProgramTest, IdleIsIdle) {
  const std::string path = MakeImage("a.raw");
  const pid_t child = fork();
  if (child == 0) {
    const auto priority = [] { return IOPRIO_PRIO_CLASS(syscall(SYS_ioprio_get, 1, 0)); };
    const bool before = priority() == IOPRIO_CLASS_IDLE;
    const bool done = Run({"-n", "--idle", path}).status == ExitStatus::kDone;
    _exit(!before && done && priority() == IOPRIO_CLASS_IDLE ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

TEST_F(PunchProgramTest, AnUnfinishedCopyIsSaid) {
  const std::string path = MakeImage("a.raw");
  if (setxattr(path.c_str(), sync::kUnfinishedMark, "sync", 4, 0) != 0)
    GTEST_SKIP() << "no extended attributes of users here: " << strerror(errno);
  for (const bool dry_run : {true, false}) {
    const auto json = RunJson({dry_run ? "--dry-run" : "--idle", path}, ExitStatus::kDone);
    EXPECT_THAT(json["files"][0]["reasons"], testing::ElementsAre("unfinished-copy"));
    EXPECT_EQ(json["files"][0]["status"], "done");
  }
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
