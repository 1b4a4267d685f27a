#include "host/cli/completion.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "host/cli/command_table.h"
#include "host/cli/help.h"

namespace virt_reclaim {
namespace {

constexpr char kHelp[] = R"(usage: program [OPTIONS]

Text about --none of them.

verbs:
  trim           let guests trim, and measure
  migrate plan   show the change

options:
  -n, --dry-run           stop after the plan: change nothing
      --chunk SIZE        trim in pieces of about this size, without
                          pauses. Not with --gentle
      --chunky            another
      --dir DIR where it is kept (or not)
      --deep      ... and below
      --way WAY   auto (default): what is there; none
      --file FILE   the policy (FILE_FROM_HERE; or else)
      --long      what it occupies on the host and what the guest uses of it, and what could come back some day
)";

TEST(HelpSummary, IsTheFirstThought) {
  EXPECT_EQ(HelpSummary(kHelp, "--dry-run", false), "stop after the plan");
  EXPECT_EQ(HelpSummary(kHelp, "--chunk", true),
            "trim in pieces of about this size, without pauses");
  EXPECT_EQ(HelpSummary(kHelp, "--chunky", false), "another");
  EXPECT_EQ(HelpSummary(kHelp, "--dir", true), "where it is kept");
  EXPECT_EQ(HelpSummary(kHelp, "--deep", false), "and below");
  // Not only its first word.
  EXPECT_EQ(HelpSummary(kHelp, "--way", true), "auto (default): what is there");
  // Not the half of one, either.
  EXPECT_EQ(HelpSummary(kHelp, "--file", true), "the policy");
  EXPECT_EQ(HelpSummary(kHelp, "--long", false),
            "what it occupies on the host and what the guest uses of it");
  EXPECT_EQ(HelpSummary(kHelp, "migrate plan", false), "show the change");
  EXPECT_EQ(HelpSummary(kHelp, "trim", false), "let guests trim, and measure");
  EXPECT_EQ(HelpSummary(kHelp, "--none", false), "");
  EXPECT_EQ(HelpSummary("", "--none", false), "");
}

TEST(HelpSummary, SaysSomethingOfEveryOption) {
  for (const VerbSpec& verb : VerbTable()) {
    const auto help = HelpText(verb.words.substr(0, verb.words.find(' ')));
    EXPECT_NE(HelpSummary(HelpText(""), verb.words, false), "") << verb.words;
    for (const OptionSpec& option : verb.options) {
      const std::string name = LongName(option);
      // Another name, told in the text of the other.
      if (help.find(absl::StrCat(name, " is ")) != help.npos) continue;
      EXPECT_NE(HelpSummary(help, name, !option.value.empty()), "") << verb.words << " " << name;
    }
  }
  for (const OptionSpec& option : GlobalOptions())
    EXPECT_NE(HelpSummary(HelpText(""), LongName(option), !option.value.empty()), "");
}

TEST(CompletionScript, HasEveryVerbAndOption) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const std::string script = CompletionScript(shell);
    for (const VerbSpec& verb : VerbTable()) {
      for (const absl::string_view word : absl::StrSplit(verb.words, ' '))
        EXPECT_THAT(script, ::testing::HasSubstr(std::string(word))) << shell;
      for (const OptionSpec& option : verb.options) {
        const std::string name = LongName(option);
        EXPECT_THAT(script, ::testing::HasSubstr(
                                shell == std::string("fish") ? "-l " + name.substr(2) : name))
            << shell;
      }
    }
    EXPECT_THAT(script, ::testing::Not(::testing::ContainsRegex("@[A-Z_]+@"))) << shell;
  }
  EXPECT_EQ(CompletionScript("csh"), "");
}

// fish's script finds the verb by knowing which options take a value, whatever the verb.
TEST(CommandTable, AnOptionTakesAValueInEveryVerbOrInNone) {
  std::map<std::string, bool> takes;
  for (const VerbSpec& verb : VerbTable()) {
    for (const OptionSpec& option : verb.options) {
      for (const absl::string_view name : absl::StrSplit(option.names, ',')) {
        const auto [known, is_new] = takes.emplace(std::string(name), !option.value.empty());
        EXPECT_EQ(known->second, !option.value.empty()) << verb.words << " " << name;
      }
    }
  }
}

}  // namespace
}  // namespace virt_reclaim
