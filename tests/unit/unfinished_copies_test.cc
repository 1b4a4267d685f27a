// report says which copies in the policy's directories of backups sync has not finished.
#include "host/commands/unfinished_copies.h"

#include <gmock/gmock.h>
#include <sys/xattr.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/io.h"
#include "host/cli/program.h"
#include "host/sync/unfinished_mark.h"
#include "tests/fakes/fake_world.h"

namespace virt_reclaim {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class UnfinishedCopiesTest : public testing::Test {
 protected:
  UnfinishedCopiesTest() {
    std::filesystem::create_directories(Path("backup/old"));
    Write("backup/whole.raw", "whole");
    Write("backup/half.raw", "half");
    Write("backup/old/half\n.tmp", "half");
    Write("config.toml", absl::StrCat("[[backups]]\ndirectory = \"", Path("backup"),
                                      "\"\nexclude = [\"*.tmp\"]\n"));
  }

  std::string Path(const std::string& name) const {
    return absl::StrCat(world_.directory(), "/", name);
  }
  void Write(const std::string& name, const std::string& text) const {
    ASSERT_TRUE(WriteFileDurably(Path(name), text, 0600).ok());
  }
  // False: there are no such attributes here, and errno says why.
  bool Mark(const std::string& name) const {
    return setxattr(Path(name).c_str(), sync::kUnfinishedMark, "sync", 4, 0) == 0;
  }
  ProgramResult Report(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"report", "--config", Path("config.toml")});
    ProgressLine progress(-1);
    return RunProgram(arguments,
                      [&](const CommandLine&, const std::function<void(const Services&)>& use) {
                        use(world_.services());
                        return absl::OkStatus();
                      },
                      progress, {});
  }
  nlohmann::json ReportJson(std::vector<std::string> arguments = {}) {
    arguments.push_back("--json");
    return nlohmann::json::parse(Report(arguments).out)["unfinished_copies"];
  }

  FakeWorld world_;
};

TEST_F(UnfinishedCopiesTest, ReportListsThem) {
  EXPECT_THAT(ReportJson()["paths"], IsEmpty());
  EXPECT_THAT(Report({}).err, Not(HasSubstr("unfinished")));
  if (!Mark("backup/half.raw") || !Mark("backup/old/half\n.tmp"))
    GTEST_SKIP() << "no extended attributes of users here: " << strerror(errno);
  EXPECT_THAT(ReportJson()["paths"],
              ElementsAre(Path("backup/half.raw"), Path("backup/old/half") + "\\x0a.tmp"));
  EXPECT_THAT(ReportJson()["unknown"], IsEmpty());
  const ProgramResult result = Report({});
  EXPECT_EQ(result.status, ExitStatus::kDone);
  EXPECT_THAT(result.out, HasSubstr("\nUNFINISHED COPY"));
  EXPECT_THAT(result.out, HasSubstr(Path("backup/half.raw")));
  EXPECT_THAT(result.out, Not(HasSubstr("whole.raw")));
  EXPECT_THAT(result.err, HasSubstr("unfinished-copy: "));
}

TEST_F(UnfinishedCopiesTest, WhereNobodyCouldLookIsSaid) {
  std::filesystem::remove_all(Path("backup"));
  EXPECT_THAT(ReportJson()["unknown"], ElementsAre(HasSubstr(Path("backup"))));
  EXPECT_THAT(Report({}).err, HasSubstr("not all unfinished copies are known: "));
  Write("config.toml", "[[backups]]\nno-such-key = 1\n");
  EXPECT_THAT(ReportJson()["unknown"], ElementsAre(HasSubstr("no-such-key")));
  EXPECT_EQ(Report({}).status, ExitStatus::kDone);
}

TEST_F(UnfinishedCopiesTest, AnArchiveThatTakesTooLongIsLeft) {
  const auto copies = FindUnfinishedCopies(Path("config.toml"), true, {}, std::chrono::seconds(0));
  ASSERT_TRUE(copies.ok());
  EXPECT_THAT(copies->unknown, ElementsAre(HasSubstr("not all of it was looked at")));
}

TEST_F(UnfinishedCopiesTest, OfNamedDomainsAndOtherHostsNobodyLooks) {
  world_.AddImage("/images/a.raw", 1 << 20, 1 << 20);
  world_.AddDomain(
      DomainXml("web", kUuid, "pc-q35-7.2", {{"vda", "virtio", "/images/a.raw", "unmap"}}, ""),
      DomainState::kShutOff);
  EXPECT_TRUE(ReportJson({"web"}).is_null());
  EXPECT_FALSE(ReportJson().is_null());
  world_.images_are_local = false;
  EXPECT_TRUE(ReportJson().is_null());
}

}  // namespace
}  // namespace virt_reclaim
