// The verb sync, from its words to the copy, on files of the filesystem that tests are run on.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

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

using ::testing::HasSubstr;

constexpr size_t kMiB = size_t{1} << 20;

class SyncProgramTest : public testing::Test {
 protected:
  SyncProgramTest() {
    std::string name = (std::filesystem::temp_directory_path() / "vr-sync-XXXXXX").string();
    directory_ = mkdtemp(name.data());
  }
  ~SyncProgramTest() override { std::filesystem::remove_all(directory_); }

  std::string Path(const std::string& name) const { return absl::StrCat(directory_, "/", name); }
  std::string Make(const std::string& name, const std::string& content) const {
    EXPECT_TRUE(WriteFileDurably(Path(name), content, 0600).ok());
    return Path(name);
  }
  std::string Read(const std::string& name) const {
    const auto content = ReadFile(Path(name), 64 * kMiB);
    return content.ok() ? *content : std::string(content.status().message());
  }
  static ProgramResult Run(std::vector<std::string> arguments) {
    ProgressLine progress(-1);
    arguments.insert(arguments.begin(), "sync");
    return RunProgram(arguments,
                      [](const CommandLine&, const auto&) {
                        ADD_FAILURE() << "sync of files has no use for a hypervisor";
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

TEST_F(SyncProgramTest, FirstCopyThenNothingThenWhatDiffers) {
  std::string content = std::string(2 * kMiB, 'x') + std::string(2 * kMiB, '\0');
  const std::string source = Make("a.raw", content);
  const std::string copy = Path("copy.raw");
  const auto planned = RunJson({"-n", source, copy}, ExitStatus::kDone);
  EXPECT_EQ(planned["message_type"], "sync-plan");
  EXPECT_EQ(planned["total"]["different_bytes"], 2 * kMiB);
  EXPECT_FALSE(std::filesystem::exists(copy));
  auto made = RunJson({"--no-reflink", source, copy}, ExitStatus::kDone);
  EXPECT_EQ(made["total"]["written_bytes"], 2 * kMiB);
  EXPECT_EQ(made["files"][0]["status"], "done");
  EXPECT_TRUE(Read("copy.raw") == content);
  EXPECT_EQ(RunJson({source, copy}, ExitStatus::kDone)["total"]["unchanged"], 1);
  EXPECT_EQ(RunJson({"--compare", source, copy}, ExitStatus::kDone)["total"]["written_bytes"], 0);
  content[kMiB] = 'y';
  Make("a.raw", content);
  made = RunJson({"--no-reflink", "--verify", "--idle", source, copy}, ExitStatus::kDone);
  EXPECT_EQ(made["total"]["written_bytes"], 4096);
  EXPECT_EQ(made["files"][0]["xxh3"].get<std::string>().size(), 32U);
  EXPECT_TRUE(Read("copy.raw") == content);
}

TEST_F(SyncProgramTest, Directories) {
  std::filesystem::create_directories(Path("from/sub/deep"));
  std::filesystem::permissions(Path("from/sub"), std::filesystem::perms(0750));
  Make("from/a\nb.raw", "one");
  Make("from/sub/deep/c.raw", "two");
  ASSERT_EQ(::link(Path("from/a\nb.raw").c_str(), Path("from/sub/other name").c_str()), 0);
  ASSERT_EQ(symlink("/etc/passwd", Path("from/link").c_str()), 0);
  const std::vector<std::string> words = {"-r", "-x", Path("from"), Path("to")};
  EXPECT_EQ(RunJson({"-r", "-n", Path("from"), Path("to")}, ExitStatus::kDone)["total"]["files"],
            3);
  EXPECT_FALSE(std::filesystem::exists(Path("to")));
  const auto made = RunJson(words, ExitStatus::kDone);
  EXPECT_EQ(made["total"]["files"], 3);
  EXPECT_EQ(Read("to/a\nb.raw"), "one");
  EXPECT_EQ(Read("to/sub/deep/c.raw"), "two");
  EXPECT_FALSE(std::filesystem::exists(Path("to/link")));
  EXPECT_EQ(std::filesystem::status(Path("to/sub")).permissions(), std::filesystem::perms(0750));
  // The two names of one file are two names of one copy.
  EXPECT_EQ(std::filesystem::hard_link_count(Path("to/a\nb.raw")), 2U);
  const auto again = RunJson(words, ExitStatus::kDone);
  EXPECT_EQ(again["total"]["written_bytes"].get<int>() + again["total"]["cloned_bytes"].get<int>(),
            0);
  // Nothing there is deleted, and a link there leads nowhere.
  Make("to/other.raw", "stays");
  std::filesystem::remove(Path("to/sub/deep/c.raw"));
  ASSERT_EQ(symlink("../../../precious", Path("to/sub/deep/c.raw").c_str()), 0);
  Make("precious", "precious");
  EXPECT_EQ(Run(words).status, ExitStatus::kSomeFailed);
  EXPECT_EQ(Read("precious"), "precious");
  EXPECT_EQ(Read("to/other.raw"), "stays");
}

TEST_F(SyncProgramTest, ManyFilesGoIntoADirectory) {
  Make("a.raw", "one");
  Make("b.raw", "two");
  EXPECT_EQ(Run({Path("a.raw"), Path("b.raw"), Path("to")}).status, ExitStatus::kUsage);
  std::filesystem::create_directory(Path("to"));
  const auto made = RunJson({Path("a.raw"), Path("none.raw"), Path("b.raw"), Path("to")},
                            ExitStatus::kSomeFailed);
  EXPECT_EQ(made["files"][1]["status"], "failed");
  EXPECT_EQ(Read("to/a.raw"), "one");
  EXPECT_EQ(Read("to/b.raw"), "two");
  std::filesystem::create_directory(Path("more"));
  Make("more/a.raw", "three");
  const ProgramResult two = Run({Path("a.raw"), Path("more/a.raw"), Path("to")});
  EXPECT_EQ(two.status, ExitStatus::kUsage);
  EXPECT_THAT(two.err, HasSubstr("two sources go to"));
  EXPECT_THAT(Run({"-r", Path("more"), Path("more/deeper")}).err, HasSubstr("lies in"));
  // Without --recursive a directory is a mistake.
  EXPECT_EQ(Run({Path("more"), Path("to")}).status, ExitStatus::kError);
}

// Copies that are names of one file since their sources were.
TEST_F(SyncProgramTest, NamesOfOneFileAreNotTheCopiesOfTwo) {
  std::filesystem::create_directories(Path("from"));
  std::filesystem::create_directories(Path("to"));
  Make("from/a", "one");
  Make("from/b", "another");
  Make("to/a", "both");
  ASSERT_EQ(::link(Path("to/a").c_str(), Path("to/b").c_str()), 0);
  const auto made = RunJson({"-r", Path("from"), Path("to")}, ExitStatus::kSomeFailed);
  std::vector<std::string> statuses = {made["files"][0]["status"], made["files"][1]["status"]};
  EXPECT_THAT(statuses, ::testing::UnorderedElementsAre("done", "skipped"));
  EXPECT_EQ(Read("to/a"), statuses[0] == "done" ? "one" : "another");
  EXPECT_EQ(RunJson({Path("from/a"), Path("from/b"), Path("to")},
                    ExitStatus::kSomeFailed)["files"][1]["status"],
            "skipped");
}

// A copy that is another name of a source, as `cp --link` makes them.
TEST_F(SyncProgramTest, NoSourceIsWritten) {
  std::filesystem::create_directories(Path("from"));
  std::filesystem::create_directories(Path("to"));
  Make("from/a", "one");
  Make("from/b", "another");
  ASSERT_EQ(::link(Path("from/a").c_str(), Path("to/b").c_str()), 0);
  EXPECT_THAT(Run({Path("from/a"), Path("from/b"), Path("to")}).out, HasSubstr("to be copied"));
  EXPECT_EQ(Read("from/a"), "one");
  EXPECT_EQ(Read("from/b"), "another");
  EXPECT_EQ(Read("to/a"), "one");
}

// What the first name of a file could not become is no copy by the second either.
TEST_F(SyncProgramTest, NoNameIsGivenToWhatIsNoCopy) {
  std::filesystem::create_directories(Path("from"));
  std::filesystem::create_directories(Path("to"));
  Make("precious", "precious");
  Make("from/a", "content");
  ASSERT_EQ(::link(Path("from/a").c_str(), Path("from/b").c_str()), 0);
  for (const char* name : {"a", "b"}) {
    ASSERT_EQ(symlink("../precious", Path(absl::StrCat("to/", name)).c_str()), 0);
    Run({"-r", Path("from"), Path("to")});
    const std::string other = Path(std::string("to/") + (name[0] == 'a' ? "b" : "a"));
    EXPECT_TRUE(std::filesystem::is_regular_file(std::filesystem::symlink_status(other))) << name;
    EXPECT_EQ(Read("precious"), "precious");
    std::filesystem::remove_all(Path("to"));
    std::filesystem::create_directories(Path("to"));
  }
}

TEST_F(SyncProgramTest, AFileOfTheKernelIsNoImage) {
  const ProgramResult result = Run({"/proc/version", Path("copy.raw")});
  EXPECT_EQ(result.status, ExitStatus::kRefused) << result.out << result.err;
  EXPECT_THAT(result.out + result.err, HasSubstr("is no image"));
  EXPECT_FALSE(std::filesystem::exists(Path("copy.raw")));
}

TEST_F(SyncProgramTest, InUseIsRefused) {
  const std::string source = Make("a.raw", "new content");
  const std::string copy = Make("copy.raw", "old");
  const UniqueFd holder(open(copy.c_str(), O_RDONLY | O_CLOEXEC));
  const ProgramResult result = Run({source, copy});
  EXPECT_EQ(result.status, ExitStatus::kRefused) << result.out;
  EXPECT_THAT(result.out, HasSubstr("image-in-use"));
  EXPECT_EQ(Read("copy.raw"), "old");
}

TEST_F(SyncProgramTest, ASourceInUseIsRefused) {
  const std::string source = Make("a.raw", "new content");
  const std::string copy = Make("copy.raw", "old");
  const UniqueFd writer(open(source.c_str(), O_RDWR | O_CLOEXEC));
  const auto json = RunJson({source, copy}, ExitStatus::kRefused);
  EXPECT_EQ(json["files"][0]["status"], "skipped");
  EXPECT_THAT(json["files"][0]["reasons"], testing::ElementsAre("image-in-use"));
  EXPECT_EQ(Read("copy.raw"), "old");
}

TEST_F(SyncProgramTest, ASourceThatIsWrittenMeanwhileIsNoticed) {
  const std::string source = Make("a.raw", std::string(48 * kMiB, 'x'));
  // It takes three seconds, and after the first somebody writes to the source.
  const pid_t writer = fork();
  if (writer == 0) {
    sleep(1);
    const int fd = open(source.c_str(), O_WRONLY | O_CLOEXEC);
    _exit(fd >= 0 && pwrite(fd, "guest", 5, 0) == 5 ? 0 : 1);
  }
  const auto json = RunJson({"--no-reflink", "--max-rate", "16M", source, Path("copy.raw")},
                            ExitStatus::kSomeFailed);
  int status = -1;
  waitpid(writer, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(json["files"][0]["status"], "failed");
  EXPECT_THAT(json["files"][0]["reasons"],
              testing::ElementsAre("source-changed", "unfinished-copy"));
  // The next run makes it whole, and knows that it must look.
  EXPECT_EQ(RunJson({source, Path("copy.raw")}, ExitStatus::kDone)["total"]["unchanged"], 0);
  EXPECT_TRUE(Read("copy.raw") == Read("a.raw"));
}

TEST_F(SyncProgramTest, ADryRunSaysThatTheCopyIsUnfinished) {
  const std::string source = Make("a.raw", "new content");
  const std::string copy = Make("copy.raw", "old");
  EXPECT_THAT(RunJson({"-n", source, copy}, ExitStatus::kDone)["files"][0]["reasons"],
              testing::IsEmpty());
  if (setxattr(copy.c_str(), sync::kUnfinishedMark, "sync", 4, 0) != 0)
    GTEST_SKIP() << "no extended attributes of users here: " << strerror(errno);
  EXPECT_THAT(RunJson({"-n", source, copy}, ExitStatus::kDone)["files"][0]["reasons"],
              testing::ElementsAre("unfinished-copy"));
  EXPECT_THAT(Run({"-n", source, copy}).out, HasSubstr("the next run makes it whole"));
  EXPECT_THAT(RunJson({source, copy}, ExitStatus::kDone)["files"][0]["reasons"],
              testing::IsEmpty());
}

TEST_F(SyncProgramTest, OtherMachinesAreNotForSync) {
  const std::string source = Make("a.raw", "new");
  const ProgramResult result = Run({source, "backup:/srv/a.raw"});
  EXPECT_EQ(result.status, ExitStatus::kUsage);
  EXPECT_THAT(result.err, HasSubstr("this machine's files"));
  // A file may have such a name.
  const std::string odd = Make("a:b.raw", "odd");
  EXPECT_EQ(Run({odd, Path("copy")}).status, ExitStatus::kDone);
}

TEST_F(SyncProgramTest, TextHasATotalFirst) {
  const std::string source = Make("a.raw", std::string(kMiB, 'x'));
  const ProgramResult result = Run({"--no-reflink", "--atomic", source, Path("copy.raw")});
  EXPECT_EQ(result.status, ExitStatus::kDone) << result.out;
  EXPECT_THAT(result.out,
              testing::StartsWith("total: 1 file, 0 unchanged, read 1.0 MiB, written 1.0 MiB"));
  EXPECT_THAT(Run({source, Path("copy.raw")}).out, HasSubstr("size and mtime are equal"));
}

}  // namespace
}  // namespace virt_reclaim
