#include <gtest/gtest.h>

#include "host/cli/hints.h"
#include "host/cli/options.h"
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
