// The agent's command line: what is understood, and what people are told when it is not.
#include <gmock/gmock.h>

#include "base/byte_size.h"
#include "guest-agent/options.h"

namespace virt_reclaim::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<CommandLine> Parse(std::vector<const char*> words) {
  return ParseCommandLine(words);
}

std::string Error(std::vector<const char*> words) {
  const auto line = Parse(std::move(words));
  EXPECT_EQ(line.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(line.status().message());
}

TEST(OptionsTest, Commands) {
  EXPECT_EQ(Parse({"list"})->command, Command::kList);
  EXPECT_TRUE(Parse({"list", "--json", "--all"})->json);
  EXPECT_EQ(Parse({"preflight"})->command, Command::kPreflight);
  EXPECT_TRUE(Parse({"preflight", "--json"})->json);
  EXPECT_EQ(Parse({"worker"})->command, Command::kWorker);
  EXPECT_EQ(Parse({"daemon"})->command, Command::kDaemon);
  EXPECT_EQ(Parse({"daemon", "--port=/dev/vport0p1"})->port, "/dev/vport0p1");
  EXPECT_EQ(Parse({"--help"})->command, Command::kHelp);
  EXPECT_EQ(Parse({"-h"})->command, Command::kHelp);
  EXPECT_EQ(Parse({"trim", "--help"})->command, Command::kHelp);
  EXPECT_EQ(Parse({"--version"})->command, Command::kVersion);
}

TEST(OptionsTest, TrimWithEverything) {
  const auto line = Parse({"trim", "--minimum", "64K", "--chunk=256M", "--pause", "1.5s", "-n",
                           "--json", "/a", "--", "-b"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->trim.minimum_bytes, 64 * kKiB);
  EXPECT_EQ(line->trim.chunk_bytes, 256 * kMiB);
  EXPECT_EQ(line->trim.pace.pause, std::chrono::milliseconds(1500));
  EXPECT_TRUE(line->dry_run);
  EXPECT_TRUE(line->json);
  EXPECT_THAT(line->mount_points, ElementsAre("/a", "-b"));
}

TEST(OptionsTest, LettersTogether) {
  const auto line = Parse({"trim", "-anm64K"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_TRUE(line->all);
  EXPECT_TRUE(line->dry_run);
  EXPECT_EQ(line->trim.minimum_bytes, 64 * kKiB);
}

TEST(OptionsTest, DidYouMean) {
  EXPECT_EQ(Error({"lst"}), "unknown command 'lst': did you mean 'list'?");
  EXPECT_EQ(Error({"trim", "--dryrun"}), "unknown option '--dryrun': did you mean '--dry-run'?");
  EXPECT_EQ(Error({"list", "--jsno"}), "unknown option '--jsno': did you mean '--json'?");
  EXPECT_EQ(Error({"defragment"}), "unknown command 'defragment' (see --help)");
  EXPECT_EQ(Error({"trim", "--entirely-unknown-word"}),
            "unknown option '--entirely-unknown-word' (see --help)");
  EXPECT_EQ(Error({"trim", "-x"}), "unknown option '-x' (see --help)");
}

TEST(OptionsTest, WrongUse) {
  EXPECT_EQ(Error({}), "no command: list, trim, preflight or daemon (see --help)");
  EXPECT_EQ(Error({"trim"}), "trim what? name mount points, or give --all");
  EXPECT_EQ(Error({"trim", "--all", "/"}), "either --all or mount points, not both");
  EXPECT_EQ(Error({"list", "/"}), "'list' takes no argument '/'");
  EXPECT_EQ(Error({"list", "trim"}), "'list' takes no argument 'trim'");
  EXPECT_EQ(Error({"daemon", "--all"}), "option '--all' is none of 'daemon'");
  EXPECT_EQ(Error({"--json", "list"}), "option '--json' comes after the command (see --help)");
  EXPECT_EQ(Error({"daemon", "--port"}), "option '--port' needs a value");
  EXPECT_EQ(Error({"daemon", "--port="}), "option '--port': the path is empty");
  EXPECT_EQ(Error({"list", "--json=yes"}), "option '--json' takes no value");
  EXPECT_EQ(Error({"trim", "-a", ""}), "a mount point is empty");
}

TEST(OptionsTest, WrongValues) {
  EXPECT_THAT(Error({"trim", "-a", "--minimum", "much"}), HasSubstr("option '--minimum'"));
  EXPECT_THAT(Error({"trim", "-a", "--minimum", "-1"}), HasSubstr("option '--minimum'"));
  EXPECT_EQ(Error({"trim", "-a", "--chunk", "1K"}), "a chunk must have at least 4096 bytes");
  EXPECT_EQ(Error({"trim", "-a", "--pause", "61s"}),
            "option '--pause': the pause must be between 0 and 60 seconds");
  EXPECT_EQ(Error({"trim", "-a", "--pause", "-1s"}),
            "option '--pause': the pause must be between 0 and 60 seconds");
  EXPECT_EQ(Error({"trim", "-a", "--pause", "inf"}),
            "option '--pause': the pause must be between 0 and 60 seconds");
  EXPECT_EQ(Error({"trim", "-a", "--pause", "5"}),
            "option '--pause': '5' is no time (write 200ms or 1.5s)");
}

TEST(OptionsTest, WrongWordsArePrintedHarmless) {
  EXPECT_EQ(Error({"\x1b[2Jx"}), "unknown command '\\x1b[2Jx' (see --help)");
  EXPECT_LT(Error({"trim", std::string(100000, '-').c_str()}).size(), 300U);
}

TEST(OptionsTest, HelpNamesEveryOptionAndFitsATerminal) {
  for (const char* option : {"--all", "--json", "--minimum", "--chunk", "--pause", "--dry-run",
                             "--port", "--help", "--version"}) {
    EXPECT_THAT(std::string(kHelpText), HasSubstr(option));
  }
  size_t width = 0;
  for (const char c : kHelpText) {
    width = c == '\n' ? 0 : width + 1;
    EXPECT_LE(width, 80U);
  }
}

}  // namespace
}  // namespace virt_reclaim::agent
