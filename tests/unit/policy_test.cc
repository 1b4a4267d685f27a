// Policy files: what is read of them, what counts for a domain, and every mistake with its place.
// The wrong files are data/policy/wrong/*.toml; the first line of each is what must be said of it,
// without the name of the file; "..." at its end: and more.
#include "host/policy/policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/byte_size.h"
#include "base/io.h"
#include "host/policy/read_policy.h"
#include "host/policy/settings.h"
#include "host/policy/toml_reader.h"

namespace virt_reclaim::policy {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Policy Read(const std::string& text) {
  Policy policy;
  const absl::Status added = AddToml("a.toml", text, policy);
  EXPECT_TRUE(added.ok()) << added;
  return policy;
}

DomainTraits Domain(const std::string& name, const std::string& metadata_run = "") {
  return {name, "11111111-2222-3333-4444-555555555555", metadata_run,
          [](const std::string& path) { return path == "/srv/fast"; }};
}

std::string ValueOf(const Policy& policy, const DomainTraits& domain, const std::string& key) {
  const Values values = Resolve(policy, domain);
  const Value& value = values.at(key);
  return absl::StrCat(value.text, " (", TextOf(value.origin), ")");
}

DomainSettings SettingsFor(const Policy& policy, const DomainTraits& domain) {
  const auto settings = SettingsOf(DomainSpecs(), Resolve(policy, domain));
  EXPECT_TRUE(settings.ok()) << settings.status();
  return settings.ok() ? *settings : DomainSettings{};
}

// A directory that goes with the test.
class PolicyFilesTest : public testing::Test {
 protected:
  PolicyFilesTest() {
    std::string pattern = testing::TempDir() + "vr-policy-XXXXXX";
    directory_ = mkdtemp(pattern.data());
  }
  ~PolicyFilesTest() override { std::filesystem::remove_all(directory_); }
  void Write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories(
        std::filesystem::path(absl::StrCat(directory_, "/", name)).parent_path());
    std::ofstream(absl::StrCat(directory_, "/", name)) << text;
  }
  std::string Config() const { return directory_ + "/config.toml"; }

  std::string directory_;
};

TEST(PolicyTest, WithoutAFileWhatIsBuiltInCounts) {
  EXPECT_EQ(ValueOf({}, Domain("web"), "enabled"), "true (built in)");
  EXPECT_EQ(ValueOf({}, Domain("web"), "threshold"), " (built in)");
  const DomainSettings settings = SettingsFor({}, Domain("web"));
  EXPECT_TRUE(settings.enabled && settings.agent && settings.qemu_agent && settings.sparsify);
  EXPECT_FALSE(settings.punch);
  EXPECT_FALSE(settings.threshold || settings.window || settings.timeout || settings.per_storage);
  EXPECT_FALSE(settings.allow_thick || settings.with_bitmaps || settings.gentle);
  EXPECT_EQ(settings.engine, "auto");
}

TEST(PolicyTest, EveryKeyIsRead) {
  const Policy policy = Read(R"(
[limits]
per-storage = 2
max-duration = "4h"
[defaults]
enabled = true
ways = ["agent", "sparsify", "punch"]
threshold = "10%"
min-freed = "1G"
window = "22:00-06:00"
gentle = true
max-rate = 1048576
timeout = "90m"
per-storage = 3
engine = "native"
strict = true
keep-swap = true
allow-thick = true
with-bitmaps = true
[[backups]]
directory = "/backup"
exclude = ["*.tmp"]
recursive = false
one-file-system = false
live = true
unwritten = true
idle = false
min-hole = "64K"
max-rate = "200M"
window = "01:00-05:00"
)");
  const auto limits = SettingsOf(LimitSpecs(), policy.limits);
  ASSERT_TRUE(limits.ok());
  EXPECT_EQ(limits->per_storage, 2u);
  EXPECT_EQ(limits->max_duration, absl::Hours(4));
  const DomainSettings settings = SettingsFor(policy, Domain("web"));
  EXPECT_TRUE(settings.agent && !settings.qemu_agent && settings.sparsify && settings.punch);
  EXPECT_EQ(settings.threshold->percent, 10);
  EXPECT_EQ(settings.min_freed, kGiB);
  EXPECT_EQ(settings.window->begin, 22 * 60);
  EXPECT_EQ(settings.max_rate, kMiB);
  EXPECT_EQ(settings.timeout, absl::Minutes(90));
  EXPECT_EQ(settings.per_storage, 3u);
  EXPECT_EQ(settings.engine, "native");
  EXPECT_TRUE(settings.gentle && settings.strict && settings.keep_swap && settings.allow_thick &&
              settings.with_bitmaps);
  ASSERT_EQ(policy.backups.size(), 1u);
  EXPECT_EQ(policy.backups[0].directory.text, "/backup");
  const auto backup = SettingsOf(BackupSpecs(), policy.backups[0].values);
  ASSERT_TRUE(backup.ok());
  EXPECT_TRUE(backup->live && backup->unwritten);
  EXPECT_FALSE(backup->recursive || backup->one_file_system || backup->idle);
  EXPECT_EQ(backup->min_hole, 64 * kKiB);
  EXPECT_EQ(backup->max_rate, 200 * kMiB);
  EXPECT_EQ(backup->window->end, 5 * 60);
}

TEST(PolicyTest, WhetherAnyDomainMayBePunched) {
  EXPECT_FALSE(MayPunchDomains({}));
  EXPECT_FALSE(MayPunchDomains(Read("[[rule]]\ndomains = ['a']\nways = ['sparsify']\n")));
  EXPECT_TRUE(MayPunchDomains(Read("[defaults]\nways = ['punch']\n")));
  EXPECT_TRUE(MayPunchDomains(Read("[[rule]]\ndomains = ['a']\nways = ['agent', 'punch']\n")));
}

constexpr char kRules[] = R"([defaults]
threshold = "1G"
[[rule]]
domains = ["web-*", "db"]
exclude = ["web-test*"]
threshold = "5G"
window = "01:00-05:00"
[[rule]]
storage = ["/srv/slow", "/srv/fast"]
gentle = true
[[rule]]
domains = ["web-2"]
threshold = "7G"
)";

TEST(PolicyTest, TheLastRuleThatFitsWinsKeyByKey) {
  const Policy policy = Read(kRules);
  EXPECT_EQ(ValueOf(policy, Domain("mail"), "threshold"), "1G (a.toml:2:1)");
  EXPECT_EQ(ValueOf(policy, Domain("web-1"), "threshold"), "5G (a.toml:6:1)");
  EXPECT_EQ(ValueOf(policy, Domain("web-2"), "threshold"), "7G (a.toml:13:1)");
  EXPECT_EQ(ValueOf(policy, Domain("web-2"), "window"), "01:00-05:00 (a.toml:7:1)");
  EXPECT_EQ(ValueOf(policy, Domain("web-test-1"), "threshold"), "1G (a.toml:2:1)");
  EXPECT_EQ(ValueOf(policy, Domain("db"), "threshold"), "5G (a.toml:6:1)");
}

TEST(PolicyTest, StorageIsAskedOnlyWhenTheNamesFit) {
  const Policy policy = Read(kRules);
  EXPECT_EQ(ValueOf(policy, Domain("mail"), "gentle"), "true (a.toml:10:1)");
  DomainTraits elsewhere = Domain("mail");
  elsewhere.lies_on = [](const std::string&) { return false; };
  EXPECT_EQ(ValueOf(policy, elsewhere, "gentle"), "false (built in)");
  const Policy named = Read("[[rule]]\ndomains = ['db']\nstorage = ['/x']\ngentle = true\n");
  DomainTraits never = Domain("web");
  never.lies_on = [](const std::string&) {
    ADD_FAILURE();
    return false;
  };
  Resolve(named, never);
}

TEST(PolicyTest, ADomainIsFoundByItsUuid) {
  const Policy policy =
      Read("[[rule]]\ndomains = ['11111111-2222-3333-4444-555555555555']\nenabled = false\n");
  EXPECT_FALSE(SettingsFor(policy, Domain("web")).enabled);
}

TEST(PolicyTest, MetadataHaveTheLastWord) {
  const Policy out = Read("[defaults]\nenabled = false\n");
  EXPECT_FALSE(SettingsFor(out, Domain("web")).enabled);
  EXPECT_TRUE(SettingsFor(out, Domain("web", "yes")).enabled);
  EXPECT_FALSE(SettingsFor({}, Domain("web", "no")).enabled);
  // Whoever wrote it meant something.
  EXPECT_FALSE(SettingsFor({}, Domain("web", "maybe")).enabled);
  EXPECT_EQ(ValueOf({}, Domain("web", "no"), "enabled"), "false (metadata of the domain)");
}

TEST(PolicyTest, FilesOfBackupsAreLeftOutByNameOrPath) {
  BackupDirectory backup;
  backup.exclude.words = {"*.tmp", "/backup/old/*"};
  EXPECT_TRUE(IsExcluded(backup, "/backup/web/disk.tmp"));
  EXPECT_TRUE(IsExcluded(backup, "/backup/old/web/disk.raw"));
  EXPECT_FALSE(IsExcluded(backup, "/backup/web/disk.raw"));
  EXPECT_FALSE(IsExcluded(backup, "/backup/x.tmp/disk.raw"));
}

TEST(PolicyTest, ADirectoryOfBackupsIsKnownHoweverItIsWritten) {
  const auto directory = [](const std::string& said) {
    const Policy policy = Read(absl::StrCat("[[backups]]\ndirectory = '", said, "'\n"));
    return policy.backups.empty() ? "none" : policy.backups[0].directory.text;
  };
  EXPECT_EQ(directory("/srv/backup"), "/srv/backup");
  EXPECT_EQ(directory("//srv/./backup/."), "/srv/backup");
  EXPECT_EQ(directory("/srv/backup//"), "/srv/backup");
  EXPECT_EQ(directory("/"), "/");
  EXPECT_EQ(directory("/srv/.../.backup"), "/srv/.../.backup");
  EXPECT_EQ(directory("/srv/link/../backup"), "/srv/link/../backup");
}

TEST_F(PolicyFilesTest, DropInsComeAfterTheFileInTheOrderOfTheirNames) {
  Write("config.toml", "[defaults]\nthreshold = '1G'\ngentle = true\n");
  Write("conf.d/20-b.toml", "[defaults]\nthreshold = '3G'\n");
  Write("conf.d/10-a.toml",
        "[defaults]\nthreshold = '2G'\n[[rule]]\ndomains = ['a']\ngentle = false\n");
  Write("conf.d/README", "no policy");
  Write("conf.d/.20-b.toml.swp", "no policy");
  const auto policy = ReadPolicy(Config(), true);
  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_THAT(policy->files, ElementsAre(Config(), directory_ + "/conf.d/10-a.toml",
                                         directory_ + "/conf.d/20-b.toml"));
  EXPECT_EQ(ValueOf(*policy, Domain("a"), "threshold"),
            absl::StrCat("3G (", directory_, "/conf.d/20-b.toml:2:1)"));
  EXPECT_FALSE(SettingsFor(*policy, Domain("a")).gentle);
  EXPECT_TRUE(SettingsFor(*policy, Domain("b")).gentle);
}

TEST_F(PolicyFilesTest, AMistakeInADropInNamesIt) {
  Write("conf.d/10-a.toml", "\n[default]\n");
  const absl::Status status = ReadPolicy(Config(), false).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(std::string(status.message()),
            absl::StrCat(directory_,
                         "/conf.d/10-a.toml:2:2: unknown key 'default': did you mean "
                         "'defaults'?"));
}

TEST_F(PolicyFilesTest, WhatIsNoFileIsNoEmptyDropIn) {
  Write("conf.d/10-a.toml", "[defaults]\n");
  ASSERT_EQ(symlink("/dev/null", (directory_ + "/conf.d/20-out.toml").c_str()), 0);
  EXPECT_TRUE(ReadPolicy(Config(), false).ok());
  ASSERT_EQ(mkfifo((directory_ + "/conf.d/30-b.toml").c_str(), 0600), 0);
  const absl::Status status = ReadPolicy(Config(), false).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(std::string(status.message()),
            absl::StrCat(directory_, "/conf.d/30-b.toml:1:1: not a regular file"));
}

TEST_F(PolicyFilesTest, NoFileAtAll) {
  const auto policy = ReadPolicy(Config(), false);
  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_THAT(policy->files, IsEmpty());
  EXPECT_TRUE(absl::IsNotFound(ReadPolicy(Config(), true).status()));
}

TEST_F(PolicyFilesTest, AFileWithoutEndIsNotReadToItsEnd) {
  Write("config.toml", std::string(kMiB + 1, '\n'));
  const absl::Status status = ReadPolicy(Config(), true).status();
  EXPECT_EQ(std::string(status.message()),
            absl::StrCat(Config(), ":1:1: the file has more than 1 MiB"));
}

TEST_F(PolicyFilesTest, ADirectoryInThePlaceOfAFileIsAnError) {
  std::filesystem::create_directories(Config());
  EXPECT_FALSE(ReadPolicy(Config(), true).ok());
}

// The example that is installed: as it is, and with every key in it switched on.
TEST(PolicyTest, TheExampleIsRight) {
  const auto text = ReadFile(POLICY_EXAMPLE, kMiB);
  ASSERT_TRUE(text.ok()) << text.status();
  const Policy as_it_is = Read(*text);
  EXPECT_THAT(as_it_is.rules, IsEmpty());
  std::vector<std::string> lines = absl::StrSplit(*text, '\n');
  for (std::string& line : lines) {
    if (absl::StartsWith(line, "#") && !absl::StartsWith(line, "# ")) line.erase(0, 1);
  }
  const Policy policy = Read(absl::StrJoin(lines, "\n"));
  for (const auto& spec : DomainSpecs())
    EXPECT_TRUE(policy.defaults.contains(spec.key)) << spec.key;
  for (const auto& spec : LimitSpecs()) EXPECT_TRUE(policy.limits.contains(spec.key)) << spec.key;
  ASSERT_FALSE(policy.backups.empty());
  for (const auto& spec : BackupSpecs())
    EXPECT_TRUE(policy.backups[0].values.contains(spec.key)) << spec.key;
  EXPECT_FALSE(policy.rules.empty());
}

TEST(PolicyTest, TheManPageNamesEveryKey) {
  const auto page = ReadFile(POLICY_MAN_PAGE, kMiB);
  ASSERT_TRUE(page.ok()) << page.status();
  const auto expect = [&](const auto& specs) {
    for (const auto& spec : specs)
      EXPECT_THAT(*page, HasSubstr(absl::StrCat("*", spec.key, "* = ")));
  };
  expect(DomainSpecs());
  expect(BackupSpecs());
  expect(LimitSpecs());
}

std::vector<std::string> WrongFiles() {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(POLICY_DATA_DIRECTORY "/wrong"))
    files.push_back(entry.path().stem().string());
  std::sort(files.begin(), files.end());
  return files;
}

class WrongPolicyTest : public testing::TestWithParam<std::string> {};

TEST_P(WrongPolicyTest, IsToldInOneLineWithItsPlace) {
  const std::string path = absl::StrCat(POLICY_DATA_DIRECTORY, "/wrong/", GetParam(), ".toml");
  const auto text = ReadFile(path, kMiB);
  ASSERT_TRUE(text.ok());
  std::string expected = text->substr(2, text->find('\n') - 2);
  const absl::Status status = ReadPolicy(path, true).status();
  ASSERT_TRUE(absl::IsInvalidArgument(status)) << status;
  const std::string message(status.message());
  const std::string prefix = path + ":";
  ASSERT_TRUE(absl::StartsWith(message, prefix)) << message;
  const std::string actual = absl::StrReplaceAll(message.substr(prefix.size()), {{path, "FILE"}});
  EXPECT_THAT(actual, testing::MatchesRegex("[1-9][0-9]*:[1-9][0-9]*: .+"));
  EXPECT_EQ(actual.find('\n'), std::string::npos);
  absl::string_view begin = expected;
  if (absl::ConsumeSuffix(&begin, "...")) {
    EXPECT_TRUE(absl::StartsWith(actual, begin)) << actual;
  } else {
    EXPECT_EQ(actual, expected);
  }
}

INSTANTIATE_TEST_SUITE_P(Files, WrongPolicyTest, testing::ValuesIn(WrongFiles()),
                         [](const auto& file) {
                           return absl::StrReplaceAll(file.param, {{"-", "_"}});
                         });

TEST(WrongPolicies, AreAtLeastThirty) { EXPECT_GE(WrongFiles().size(), 30u); }

}  // namespace
}  // namespace virt_reclaim::policy
