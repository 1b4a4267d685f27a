// The command line of virt-reclaim-xml and its way of writing files back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/io.h"
#include "xml-tools/filter.h"
#include "xml-tools/options.h"

namespace virt_reclaim::xml {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string UsageError(const std::vector<std::string>& arguments) {
  const auto options = ParseOptions(arguments);
  EXPECT_TRUE(absl::IsInvalidArgument(options.status())) << options.status();
  return std::string(options.status().message());
}

TEST(XmlOptionsTest, ReadsOptions) {
  const auto options = ParseOptions(
      {"--json", "-i", "--disk", "vda", "--disk=vdb", "--machine=keep", "a.xml", "--", "--diff"});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_TRUE(options->json && options->in_place && !options->diff);
  EXPECT_THAT(options->rewrite.targets, ElementsAre("vda", "vdb"));
  EXPECT_EQ(options->rewrite.machine, MachinePolicy::kKeep);
  EXPECT_THAT(options->files, ElementsAre("a.xml", "--diff"));
}

TEST(XmlOptionsTest, ReadsPolicies) {
  const auto options =
      ParseOptions({"--bus=auto", "--discard", "keep", "--detect-zeroes=unmap", "--channel=add",
                    "--machine=pc-q35-9.2", "--host-machines=q35,pc-q35-9.2", "-O", "d", "a"});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->rewrite.bus, BusPolicy::kAuto);
  EXPECT_EQ(options->rewrite.discard, DiscardPolicy::kKeep);
  EXPECT_EQ(options->rewrite.detect_zeroes, DetectZeroesPolicy::kUnmap);
  EXPECT_EQ(options->rewrite.channel, ChannelPolicy::kAdd);
  EXPECT_EQ(options->rewrite.machine, MachinePolicy::kNamed);
  EXPECT_EQ(options->rewrite.machine_name, "pc-q35-9.2");
  EXPECT_THAT(options->rewrite.known_machines, ElementsAre("q35", "pc-q35-9.2"));
  EXPECT_EQ(options->output_dir, "d");
  EXPECT_EQ(ParseOptions({"--machine=latest"})->rewrite.machine, MachinePolicy::kLatest);
  EXPECT_EQ(ParseOptions({})->rewrite.bus, BusPolicy::kKeep);
}

TEST(XmlOptionsTest, StandardInputWhenNoFileIsGiven) {
  EXPECT_THAT(ParseOptions({"--check"})->files, ElementsAre("-"));
}

TEST(XmlOptionsTest, NamesWhatIsWrong) {
  EXPECT_EQ(UsageError({"--chekc"}), "unknown option '--chekc': did you mean '--check'?");
  EXPECT_EQ(UsageError({"--entirely-different"}), "unknown option '--entirely-different'");
  EXPECT_EQ(UsageError({"-x"}), "unknown option '-x'");
  EXPECT_EQ(UsageError({"--diff=yes"}), "option '--diff' takes no value");
  EXPECT_EQ(UsageError({"--disk"}), "option '--disk' needs a value");
  EXPECT_THAT(UsageError({"--disk="}), HasSubstr("needs the target"));
  EXPECT_THAT(UsageError({"--machine=pcx"}), HasSubstr("'latest' or a machine type"));
  EXPECT_EQ(UsageError({"--bus=scsi"}), "--bus is 'auto', 'keep' or 'virtio-scsi', not 'scsi'");
  EXPECT_EQ(UsageError({"--channel="}), "--channel is 'add' or 'keep', not ''");
  EXPECT_THAT(UsageError({"-O", "d"}), HasSubstr("--output-dir needs a FILE"));
  EXPECT_THAT(UsageError({"-O", "d", "--check", "a"}), HasSubstr("does not go together"));
  EXPECT_THAT(UsageError({"-O", "d", "a/x.xml", "b/x.xml"}), HasSubstr("two files are named"));
  EXPECT_THAT(UsageError({"--diff", "--json"}), HasSubstr("only one of"));
  EXPECT_THAT(UsageError({"--in-place"}), HasSubstr("needs a FILE"));
  EXPECT_THAT(UsageError({"--in-place", "--check", "a"}), HasSubstr("changes nothing"));
  EXPECT_THAT(UsageError({"a", "b"}), HasSubstr("several files"));
}

TEST(XmlOptionsTest, HelpNamesEveryOption) {
  for (const char* option :
       {"--diff", "--check", "--json", "--in-place", "--disk", "--machine", "--bus", "--discard",
        "--detect-zeroes", "--channel", "--host-machines", "--output-dir", "--help", "--version",
        "Exit status"}) {
    EXPECT_NE(HelpText().find(option), absl::string_view::npos) << option;
  }
}

class ReplaceTextTest : public testing::Test {
 protected:
  void SetUp() override {
    char directory[] = "/tmp/xml-filter-test.XXXXXX";
    ASSERT_NE(mkdtemp(directory), nullptr);
    directory_ = directory;
    file_ = directory_ + "/web.xml";
    ASSERT_TRUE(WriteFileDurably(file_, "old", 0640).ok());
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  mode_t ModeOf(const std::string& path) {
    struct stat status = {};
    EXPECT_EQ(stat(path.c_str(), &status), 0) << path;
    return status.st_mode & 07777;
  }

  std::string directory_, file_;
};

TEST_F(ReplaceTextTest, KeepsModeAndBackup) {
  ASSERT_TRUE(ReplaceText(file_, "old", "new").ok());
  EXPECT_EQ(*ReadText(file_), "new");
  EXPECT_EQ(*ReadText(file_ + ".bak"), "old");
  EXPECT_EQ(ModeOf(file_), 0640u);
  EXPECT_EQ(ModeOf(file_ + ".bak"), 0640u);
}

TEST_F(ReplaceTextTest, NeverOverwritesABackup) {
  ASSERT_TRUE(WriteFileDurably(file_ + ".bak", "oldest", 0600).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(ReplaceText(file_, "old", "new")));
  EXPECT_EQ(*ReadText(file_), "old");
  EXPECT_EQ(*ReadText(file_ + ".bak"), "oldest");
}

TEST_F(ReplaceTextTest, RefusesAFileThatChangedMeanwhile) {
  EXPECT_TRUE(absl::IsFailedPrecondition(ReplaceText(file_, "older", "new")));
  EXPECT_EQ(*ReadText(file_), "old");
  EXPECT_FALSE(std::filesystem::exists(file_ + ".bak"));
}

TEST_F(ReplaceTextTest, FollowsLinksAndRefusesDirectories) {
  const std::string link = directory_ + "/link.xml";
  ASSERT_EQ(symlink("web.xml", link.c_str()), 0);
  ASSERT_TRUE(ReplaceText(link, "old", "new").ok());
  EXPECT_EQ(*ReadText(file_), "new");
  EXPECT_TRUE(std::filesystem::is_symlink(link));
  EXPECT_TRUE(absl::IsFailedPrecondition(ReplaceText(directory_, "", "new")));
  EXPECT_TRUE(absl::IsNotFound(ReplaceText(directory_ + "/none", "", "new")));
}

TEST_F(ReplaceTextTest, WritesBesideWithTheModeOfTheInput) {
  const std::string out = directory_ + "/out";
  ASSERT_TRUE(MakeDirectories(out).ok());
  for (const char* text : {"new", "newer"}) {
    ASSERT_TRUE(WriteBeside(out, file_, text).ok());
    EXPECT_EQ(*ReadText(out + "/web.xml"), text);
  }
  struct stat status = {};
  ASSERT_EQ(stat((out + "/web.xml").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0640u);
  EXPECT_EQ(*ReadText(file_), "old");
  EXPECT_TRUE(absl::IsFailedPrecondition(WriteBeside(directory_, file_, "new")));
  std::filesystem::remove(out + "/web.xml");
  std::filesystem::create_symlink(file_, out + "/web.xml");
  EXPECT_TRUE(absl::IsFailedPrecondition(WriteBeside(out, file_, "new")));
  EXPECT_FALSE(WriteBeside(directory_ + "/none", file_, "new").ok());
}

TEST_F(ReplaceTextTest, RefusesToReadWhatIsTooLong) {
  ASSERT_TRUE(WriteFileDurably(file_, std::string(kMaxXmlBytes + 1, ' '), 0600).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(ReadText(file_).status()));
  EXPECT_TRUE(absl::IsNotFound(ReadText(directory_ + "/none").status()));
}

}  // namespace
}  // namespace virt_reclaim::xml
