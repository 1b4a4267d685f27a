#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <unistd.h>

#include "base/unique_fd.h"
#include "host/cli/hints.h"
#include "host/cli/options.h"
#include "host/cli/progress.h"
#include "host/cli/text_table.h"

namespace virt_reclaim {
namespace {

CommandLine Parse(const std::vector<std::string>& arguments) {
  auto parsed = ParseCommandLine(arguments);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  return std::get<CommandLine>(*parsed);
}

TEST(ParseCommandLine, GlobalOptionsStandBeforeOrAfterTheVerb) {
  for (const auto& arguments :
       {std::vector<std::string>{"-c", "qemu:///x", "--json", "trim", "web"},
        std::vector<std::string>{"trim", "web", "--connect", "qemu:///x", "--json"},
        std::vector<std::string>{"trim", "--json", "web", "--connect=qemu:///x"}}) {
    const CommandLine line = Parse(arguments);
    EXPECT_EQ(line.verb, Verb::kTrim);
    EXPECT_EQ(line.connect, "qemu:///x");
    EXPECT_TRUE(line.json);
    EXPECT_EQ(line.domains, std::vector<std::string>{"web"});
  }
}

TEST(ParseCommandLine, ReadsTrimOptions) {
  const CommandLine line = Parse({"trim", "--minimum", "1M", "--chunk=2G", "--pause", "250ms",
                                  "--timeout", "90", "--mount-point", "/", "a", "b"});
  EXPECT_EQ(line.minimum, 1u << 20);
  EXPECT_EQ(line.chunk, 2ull << 30);
  EXPECT_EQ(line.pause, absl::Milliseconds(250));
  EXPECT_EQ(line.timeout, absl::Seconds(90));
  EXPECT_EQ(line.mount_points, std::vector<std::string>{"/"});
  EXPECT_EQ(line.domains.size(), 2u);
}

TEST(ParseCommandLine, AliasAndNestedVerbs) {
  EXPECT_EQ(Parse({"df"}).verb, Verb::kReport);
  EXPECT_EQ(Parse({"migrate", "plan", "--diff", "web"}).verb, Verb::kMigratePlan);
  EXPECT_EQ(Parse({"migrate", "apply", "--all"}).verb, Verb::kMigrateApply);
  EXPECT_EQ(Parse({"agent", "status", "--json"}).verb, Verb::kAgentStatus);
}

TEST(ParseDuration, UnitsAndBounds) {
  EXPECT_EQ(ParseDuration("90").value(), absl::Seconds(90));
  EXPECT_EQ(ParseDuration("1m30s").value(), absl::Seconds(90));
  for (const char* text : {"", "x", "-1", "1y", "1e300"})
    EXPECT_FALSE(ParseDuration(text).ok()) << text;
}

TEST(Hints, AreCommandsThatAShellTakesAsTheyAre) {
  EXPECT_EQ(ShellQuote("web-1.example"), "web-1.example");
  EXPECT_EQ(ShellQuote("a b"), "\"a b\"");
  EXPECT_EQ(ShellQuote("$(reboot)`x`\"\\"), "\"\\$(reboot)\\`x\\`\\\"\\\\\"");
  EXPECT_EQ(ShellQuote(""), "\"\"");
}

// Every hint that is a virt-reclaim command must be one that the program takes.
TEST(Hints, CommandsParse) {
  const std::string hint = HintFor(Reason::kDiscardIgnored, {"qemu:///system", "web"}).value();
  EXPECT_EQ(hint.substr(0, hint.find(" shows")),
            "'virt-reclaim --connect qemu:///system migrate plan --diff web'");
  EXPECT_EQ(
      Parse({"--connect", "qemu:///system", "migrate", "plan", "--diff", "web"}).domains.front(),
      "web");
}

TEST(Hints, FixesAreCommandsThatParse) {
  const HintContext context{"qemu:///system", "web"};
  const auto fix = [&](Reason reason) { return FixFor({reason, "data"}, context, "vda").value(); };
  EXPECT_THAT(fix(Reason::kBusDropsDiscard),
              testing::StartsWith("'virt-reclaim --connect qemu:///system migrate plan "
                                  "--bus=virtio-scsi --diff web'"));
  EXPECT_EQ(Parse({"--connect", "qemu:///system", "migrate", "plan", "--bus=virtio-scsi", "--diff",
                   "web"})
                .verb,
            Verb::kMigratePlan);
  EXPECT_THAT(fix(Reason::kMachineUnknown),
              testing::StartsWith("'virt-reclaim --connect qemu:///system explain --probe web'"));
  EXPECT_TRUE(Parse({"--connect", "qemu:///system", "explain", "--probe", "web"}).probe);
  EXPECT_THAT(fix(Reason::kDmCrypt), testing::HasSubstr("--persistent data'"));
  EXPECT_THAT(fix(Reason::kOverlay), testing::HasSubstr("--path vda web'"));
  EXPECT_EQ(fix(Reason::kDiscardIgnored), HintFor(Reason::kDiscardIgnored, context));
  EXPECT_FALSE(FixFor({Reason::kReadOnly, ""}, context, "vda").has_value());
}

// What is there to be read, without waiting for more.
std::string ReadNow(int fd) {
  fcntl(fd, F_SETFL, O_NONBLOCK);
  std::string text(4096, '\0');
  const ssize_t n = read(fd, text.data(), text.size());
  text.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return text;
}

void ShowHalf(int fd) {
  DomainSummary domain;
  domain.name = "web";
  GuestTrimProgress progress;
  progress.mount_point = "/srv/\x1b[31mred";
  progress.size = 200;
  progress.position = 100;
  ProgressLine(fd).Show(domain, progress);
}

TEST(ProgressLine, OnATerminalOneLineThatGoesAgain) {
  int master = -1, terminal = -1;
  ASSERT_EQ(openpty(&master, &terminal, nullptr, nullptr, nullptr), 0);
  const UniqueFd ours(master), theirs(terminal);
  ShowHalf(theirs.get());
  const std::string text = ReadNow(ours.get());
  EXPECT_THAT(text, testing::StartsWith("\rweb:/srv/"));
  EXPECT_THAT(text, testing::HasSubstr("50%"));
  EXPECT_THAT(text, testing::EndsWith(" \r"));
  EXPECT_THAT(text, testing::Not(testing::HasSubstr("\x1b")));
  EXPECT_THAT(text, testing::Not(testing::HasSubstr("\n")));
}

TEST(ProgressLine, ElsewhereNothing) {
  int ends[2] = {-1, -1};
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd reader(ends[0]), writer(ends[1]);
  ShowHalf(writer.get());
  EXPECT_EQ(ReadNow(reader.get()), "");
}

TEST(TextTable, AlignsByCharactersNotBytes) {
  TextTable table;
  table.AddColumn("NAME");
  table.AddColumn("SIZE", TextTable::Align::kRight);
  table.AddRow({"b\xc3\xbc", "1"});
  table.AddRow({"longer", "100"});
  EXPECT_EQ(table.Render(), "NAME    SIZE\nb\xc3\xbc         1\nlonger   100\n");
}

}  // namespace
}  // namespace virt_reclaim
