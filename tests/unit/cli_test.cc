#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "base/byte_size.h"
#include "base/duration.h"
#include "base/unique_fd.h"
#include "host/cli/backup_watcher.h"
#include "host/cli/command_table.h"
#include "host/cli/config_program.h"
#include "host/cli/help.h"
#include "host/cli/hints.h"
#include "host/cli/options.h"
#include "host/cli/progress.h"
#include "host/cli/text_output.h"
#include "host/cli/text_table.h"
#include "host/cli/trim_options.h"

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

TEST(ParseCommandLine, AfterTwoDashesNothingIsAnOption) {
  const CommandLine line = Parse({"report", "--json", "--", "-x", "--json", "--", "web"});
  EXPECT_EQ(line.domains, (std::vector<std::string>{"-x", "--json", "--", "web"}));
  EXPECT_EQ(Parse({"punch", "--", "-"}).files, std::vector<std::string>{"-"});
  EXPECT_FALSE(ParseCommandLine({"report", "-x"}).ok());
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

TrimOptions TrimOptionsOf(const std::vector<std::string>& arguments) {
  return virt_reclaim::TrimOptionsOf(Parse(arguments));
}

TEST(ParseCommandLine, ReadsHowTrimsArePacedAndLimited) {
  const TrimOptions plain = TrimOptionsOf({"trim"});
  EXPECT_TRUE(plain.paced);
  EXPECT_EQ(plain.per_storage, 1u);
  EXPECT_EQ(plain.timeout, absl::Minutes(30));
  EXPECT_FALSE(TrimOptionsOf({"trim", "--pause=0"}).paced);
  EXPECT_FALSE(TrimOptionsOf({"trim", "--chunk=1G"}).paced);
  EXPECT_EQ(TrimOptionsOf({"trim", "--way=auto"}).way, std::nullopt);
  const TrimOptions options = TrimOptionsOf(
      {"trim", "--gentle", "--max-rate=100M", "--way", "qemu-agent", "--storage=/ssd",
       "--threshold=12.5%", "--per-storage=3", "--window=22:00-04:00", "--max-duration=2h"});
  EXPECT_TRUE(options.gentle);
  EXPECT_EQ(options.timeout, absl::Hours(8));
  EXPECT_EQ(options.guest.max_rate, 100u << 20);
  EXPECT_EQ(options.way, TrimWay::kQemuAgent);
  EXPECT_EQ(options.storage, "/ssd");
  EXPECT_EQ(options.threshold->percent, 12.5);
  EXPECT_EQ(options.per_storage, 3u);
  EXPECT_EQ(options.window->begin, 22 * 60);
  EXPECT_EQ(options.max_duration, absl::Hours(2));
  EXPECT_EQ(TrimOptionsOf({"trim", "--gentle", "--timeout=1m"}).timeout, absl::Minutes(1));
  EXPECT_EQ(TrimOptionsOf({"trim", "--threshold=5G"}).threshold->bytes, 5ull << 30);
}

TEST(ParseCommandLine, AliasAndNestedVerbs) {
  EXPECT_EQ(Parse({"df"}).verb, Verb::kReport);
  EXPECT_EQ(Parse({"migrate", "plan", "--diff", "web"}).verb, Verb::kMigratePlan);
  EXPECT_EQ(Parse({"migrate", "apply", "--all"}).verb, Verb::kMigrateApply);
  EXPECT_EQ(Parse({"agent", "status", "--json"}).verb, Verb::kAgentStatus);
  EXPECT_EQ(Parse({"agent", "install", "--agent-binary", "x", "web"}).agent_binary, "x");
}

TEST(BackupWatcher, CallsForTheSameDomainAndDirectoryWhateverTheirNames) {
  const CommandLine line = Parse(
      {"-c", "qemu:///x", "--run-dir=-r", "sync", "--freeze", "--domain=--json", "--", "--atomic"});
  const CommandLine clean = Parse(CleanWords(line));
  EXPECT_TRUE(clean.clean);
  EXPECT_TRUE(clean.freeze);
  EXPECT_FALSE(clean.json);
  EXPECT_FALSE(clean.atomic);
  EXPECT_EQ(clean.connect, "qemu:///x");
  EXPECT_EQ(clean.run_directory, "-r");
  EXPECT_EQ(clean.sync_domain, "--json");
  EXPECT_THAT(clean.files, testing::ElementsAre("--atomic"));
}

TEST(BackupWatcher, APipeThatCannotBeReadSaysNothing) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  EXPECT_FALSE(SaidGoodBye(write_end.get()));  // EBADF; it did not end here
  ASSERT_EQ(write(write_end.get(), "x", 1), 1);
  EXPECT_TRUE(SaidGoodBye(read_end.get()));
  write_end.Reset();
  EXPECT_FALSE(SaidGoodBye(read_end.get()));
}

TEST(CommandTable, EveryOptionStandsInTheHelpOfItsVerb) {
  for (const OptionSpec& option : GlobalOptions())
    EXPECT_THAT(std::string(HelpText("")), testing::HasSubstr(LongName(option)));
  for (const VerbSpec& verb : VerbTable()) {
    const std::string group = verb.words.substr(0, verb.words.find(' '));
    const std::string help(HelpText(group));
    EXPECT_THAT(help, testing::HasSubstr(verb.words));
    for (const OptionSpec& option : verb.options)
      EXPECT_THAT(help, testing::HasSubstr(LongName(option))) << verb.words;
  }
}

// `--storage "$directory"`, with nothing in the variable, would be every storage.
TEST(CommandTable, AnEmptyValueIsNotTakenForNone) {
  const auto parse = [](std::string words, const OptionSpec& option) {
    std::vector<std::string> arguments = absl::StrSplit(words, ' ');
    arguments.push_back(LongName(option));
    arguments.emplace_back("");
    return std::string(ParseCommandLine(arguments).status().message());
  };
  for (const OptionSpec& option : GlobalOptions()) {
    if (option.value.empty()) continue;
    const bool refused = absl::StartsWith(parse("report", option), LongName(option));
    EXPECT_EQ(refused, LongName(option) != "--connect") << LongName(option);
  }
  for (const VerbSpec& verb : VerbTable()) {
    for (const OptionSpec& option : verb.options) {
      if (option.value.empty()) continue;
      EXPECT_THAT(parse(verb.words, option), testing::StartsWith(LongName(option))) << verb.words;
    }
  }
}

TEST(ParseCommandLine, ThresholdsOfACheckGoUp) {
  for (const char* text : {"20%,40%", "20%,20%", "50G,200G", "50G,1%", "99%,1K"})
    EXPECT_TRUE(ParseCommandLine({"report", "--check", text}).ok()) << text;
  for (const char* text : {"40%,20%", "200G,50G"})
    EXPECT_FALSE(ParseCommandLine({"report", "--check", text}).ok()) << text;
}

TEST(CommandTable, EveryOptionIsTakenByItsVerbAndNoOther) {
  for (const VerbSpec& verb : VerbTable()) {
    for (const VerbSpec& other : VerbTable()) {
      for (const OptionSpec& option : other.options) {
        const auto is_it = [&](const OptionSpec& own) { return own.names == option.names; };
        const bool own = std::any_of(verb.options.begin(), verb.options.end(), is_it);
        std::vector<std::string> arguments = absl::StrSplit(verb.words, ' ');
        arguments.push_back(LongName(option));
        arguments.push_back("x");
        const auto parsed = ParseCommandLine(arguments);
        const bool unknown = absl::StrContains(parsed.status().message(), "unknown option");
        EXPECT_EQ(unknown, !own) << verb.words << " " << LongName(option);
      }
    }
  }
}

TEST(ConfigCheck, NamesTheFileThatIsNotThere) {
  CommandLine line;
  line.verb = Verb::kConfigCheck;
  line.config = "/nonexistent/policy.toml";
  const ProgramResult result = RunConfig(line, {}, {});
  EXPECT_EQ(result.status, ExitStatus::kDone);
  EXPECT_THAT(result.out, testing::HasSubstr("there is no '/nonexistent/policy.toml'"));
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

// What stands between quotes in a hint. An apostrophe comes after a letter.
std::vector<std::string> QuotedIn(absl::string_view hint) {
  std::vector<std::string> found;
  for (size_t i = 0; i < hint.size(); ++i) {
    if (hint[i] != '\'' || (i > 0 && absl::ascii_isalpha(hint[i - 1]))) continue;
    const size_t end = hint.find('\'', i + 1);
    if (end == absl::string_view::npos) {
      ADD_FAILURE() << "a quote without its other half: " << hint;
      break;
    }
    found.emplace_back(hint.substr(i + 1, end - i - 1));
    i = end;
  }
  return found;
}

// As a shell reads them.
std::vector<std::string> WordsOf(absl::string_view command) {
  std::vector<std::string> words(1);
  bool quoted = false;
  for (size_t i = 0; i < command.size(); ++i) {
    if (command[i] == '"') {
      quoted = !quoted;
    } else if (command[i] == ' ' && !quoted) {
      words.emplace_back();
    } else {
      if (command[i] == '\\' && quoted) ++i;
      words.back() += command[i];
    }
  }
  return words;
}

// By their manual pages; what is quoted besides is no command.
const std::set<std::string> kCommandsOfOthers = {
    "apt install virt-reclaim-agent",
    "dnf install virt-reclaim-agent",
    "dnf upgrade virt-reclaim-agent",
    "cryptsetup refresh --allow-discards --persistent \"/my data\"",
    "lvchange --discards passdown VG/POOL",
    "mount -o remount,rw \"/my data\"",
    "qemu-img convert",
};
const std::set<std::string> kNoCommands = {
    "discard=off", "discard_granularity", "disk", "ignore", "libvirt", "lun"};
const std::set<std::vector<std::string>> kVirshCommands = {
    {"blockcommit", "--active", "--pivot", "--path", "vda"},
    {"domblklist"},
    {"resume"},
    {"shutdown"},
    {"snapshot-list"},
    {"start"},
};

void ExpectTaken(const std::string& command, const HintContext& context) {
  std::vector<std::string> words = WordsOf(command);
  const std::string program = words.front();
  words.erase(words.begin());
  if (program == "virt-reclaim") {
    const CommandLine line = Parse(words);
    EXPECT_EQ(line.connect, context.connect) << command;
    EXPECT_EQ(line.domains, std::vector<std::string>{context.domain}) << command;
  } else if (program == "virsh") {
    ASSERT_GE(words.size(), 4u) << command;
    EXPECT_EQ(words[0], "--connect") << command;
    EXPECT_EQ(words[1], context.connect) << command;
    EXPECT_EQ(words.back(), context.domain) << command;
    const std::vector<std::string> verb(words.begin() + 2, words.end() - 1);
    EXPECT_TRUE(kVirshCommands.contains(verb)) << command;
  } else {
    EXPECT_TRUE(kCommandsOfOthers.contains(command) || kNoCommands.contains(command)) << command;
  }
}

// Of every reason there is, with a name that has to be quoted.
TEST(Hints, EveryCommandIsOneThatItsProgramTakes) {
  const HintContext context{"qemu+ssh://host/system", "my $web"};
  std::set<std::string> commands;
  const auto add = [&](const std::optional<std::string>& hint) {
    if (!hint) return;
    for (const std::string& quoted : QuotedIn(*hint)) commands.insert(quoted);
  };
  for (const ReasonText& text : AllReasons()) {
    add(HintFor(text.reason, context));
    for (const char* detail : {"/my data", "data", "shut-off"}) {
      add(HintForTrim({text.reason, detail}, context));
      if (absl::string_view(detail) == "/my data")
        add(FixFor({text.reason, detail}, context, "vda"));
    }
  }
  for (const auto& status : {absl::PermissionDeniedError(""), absl::UnavailableError("")}) {
    add(HintForConnection(status, ""));
    add(HintForConnection(status, context.connect));
  }
  for (const std::string& command : commands) ExpectTaken(command, context);
  for (const std::string& command : kCommandsOfOthers)
    EXPECT_TRUE(commands.contains(command)) << "in no hint: " << command;
  const auto of_program = [&](absl::string_view program) {
    return std::count_if(commands.begin(), commands.end(), [&](const std::string& command) {
      return absl::StartsWith(command, program);
    });
  };
  EXPECT_TRUE(commands.contains(
      R"(virt-reclaim --connect qemu+ssh://host/system agent install "my \$web")"));
  EXPECT_GE(of_program("virt-reclaim "), 8);
  EXPECT_GE(of_program("virsh "), 6);
}

TEST(Hints, WhatIsNoCommandWouldBeSeen) {
  EXPECT_EQ(QuotedIn("the disk's 'a b' and 'c'"), (std::vector<std::string>{"a b", "c"}));
  EXPECT_EQ(WordsOf("a \"b \\$c\" d"), (std::vector<std::string>{"a", "b $c", "d"}));
}

TEST(Hints, CommandsParse) {
  const std::string hint = HintFor(Reason::kDiscardIgnored, {"qemu:///system", "web"}).value();
  EXPECT_EQ(hint.substr(0, hint.find(" shows")),
            "'virt-reclaim --connect qemu:///system migrate plan --diff web'");
  EXPECT_EQ(
      Parse({"--connect", "qemu:///system", "migrate", "plan", "--diff", "web"}).domains.front(),
      "web");
}

TEST(Hints, AnyNameIsADomainInThem) {
  const std::string hint = HintFor(Reason::kDiscardIgnored, {"", "-my $web"}).value();
  ASSERT_EQ(QuotedIn(hint).front(), R"(virt-reclaim migrate plan --diff -- "-my \$web")");
  std::vector<std::string> words = WordsOf(QuotedIn(hint).front());
  words.erase(words.begin());
  EXPECT_EQ(Parse(words).domains, std::vector<std::string>{"-my $web"});
}

TEST(Hints, WhereDomainsAreOfWhoIsNotRoot) {
  EXPECT_EQ(NobodyThere("qemu:///system"), "there is no domain on 'qemu:///system'\n");
  EXPECT_EQ(NobodyThere("qemu:///session"),
            "there is no domain on 'qemu:///session'\n"
            "hint: those of the whole machine: --connect qemu:///system\n");
}

TEST(Hints, ForDomainsWithoutDisksAndImagesThatAreNotHere) {
  const HintContext context{"", "web"};
  EXPECT_THAT(HintFor(Reason::kNoDisks, context).value(),
              testing::HasSubstr("'virsh domblklist web'"));
  EXPECT_THAT(HintFor(Reason::kImageMissing, context).value(),
              testing::StartsWith("'virsh domblklist web' names its images"));
  EXPECT_THAT(HintFor(Reason::kNoLocalImage, context).value(),
              testing::HasSubstr("on the machine where the image is a file"));
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
  EXPECT_THAT(fix(Reason::kGuestNotSupported),
              testing::HasSubstr("'virt-reclaim --connect qemu:///system explain --ask-qemu web'"));
  EXPECT_TRUE(Parse({"--connect", "qemu:///system", "explain", "--ask-qemu", "web"}).ask_qemu);
  EXPECT_THAT(fix(Reason::kDmCrypt), testing::HasSubstr("--persistent data'"));
  EXPECT_THAT(fix(Reason::kOverlay), testing::HasSubstr("--path vda web'"));
  EXPECT_EQ(fix(Reason::kDiscardIgnored), HintFor(Reason::kDiscardIgnored, context));
  EXPECT_THAT(fix(Reason::kReadOnly), testing::HasSubstr("<readonly/>"));
  EXPECT_THAT(FixFor({Reason::kReadOnly, "/my data"}, context, "vda").value(),
              testing::HasSubstr("'mount -o remount,rw \"/my data\"'"));
  EXPECT_THAT(fix(Reason::kNotADisk), testing::HasSubstr("device='disk'"));
  EXPECT_THAT(fix(Reason::kFilesystemNotSupported),
              testing::HasSubstr("'virt-reclaim --connect qemu:///system sparsify --dry-run web'"));
  EXPECT_TRUE(Parse({"--connect", "qemu:///system", "sparsify", "--dry-run", "web"}).dry_run);
  EXPECT_FALSE(FixFor({Reason::kNoMedium, ""}, context, "vda").has_value());
}

TEST(Hints, OfATrimThatCannotBegin) {
  const HintContext context{"", "web"};
  EXPECT_THAT(HintForTrim({Reason::kNotRunning, "shut-off"}, context).value(),
              testing::HasSubstr("'virt-reclaim sparsify web'"));
  EXPECT_EQ(Parse({"sparsify", "web"}).verb, Verb::kSparsify);
  EXPECT_EQ(HintForTrim({Reason::kNotRunning, "shutting-down"}, context),
            HintFor(Reason::kNotRunning, context));
  EXPECT_THAT(HintForTrim({Reason::kAgentNotConnected, ""}, context).value(),
              testing::StartsWith("install virt-reclaim-agent in the guest"));
}

TEST(Hints, OfAnAgentThatIsNotInstalled) {
  const HintContext context{"", "web"};
  EXPECT_THAT(HintFor(Reason::kMigrationUnfinished, context).value(),
              testing::StartsWith("'virt-reclaim migrate status web' shows"));
  EXPECT_THAT(HintFor(Reason::kMigrationUnfinished, context).value(),
              testing::HasSubstr("'virt-reclaim migrate apply web' goes on"));
  EXPECT_EQ(Parse({"migrate", "status", "web"}).verb, Verb::kMigrateStatus);
  EXPECT_THAT(HintFor(Reason::kCommandsBlocked, context).value(),
              testing::HasSubstr("/etc/sysconfig/qemu-ga"));
  EXPECT_THAT(HintFor(Reason::kAgentPackaged, context).value(),
              testing::HasSubstr("'apt install virt-reclaim-agent'"));
}

// What is there to be read, until it ends with `end`. A terminal's bytes pass through a worker of
// the kernel, so that they may come a moment later, and in pieces.
std::string ReadUntil(int fd, const std::string& end) {
  constexpr int kPatienceMilliseconds = 2000;
  std::string text;
  pollfd entry = {.fd = fd, .events = POLLIN, .revents = 0};
  while (!absl::EndsWith(text, end) && poll(&entry, 1, kPatienceMilliseconds) > 0) {
    char buffer[4096];
    const ssize_t n = read(fd, buffer, sizeof buffer);
    if (n <= 0) break;
    text.append(buffer, static_cast<size_t>(n));
  }
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
  const std::string text = ReadUntil(ours.get(), " \r");
  EXPECT_THAT(text, testing::StartsWith("\rweb:/srv/"));
  EXPECT_THAT(text, testing::HasSubstr("50%"));
  EXPECT_THAT(text, testing::EndsWith(" \r"));
  EXPECT_THAT(text, testing::Not(testing::HasSubstr("\x1b")));
  EXPECT_THAT(text, testing::Not(testing::HasSubstr("\n")));
}

TEST(ProgressLine, SaysHowMuchTimeIsLeftWhereThatIsKnown) {
  for (const bool known : {true, false}) {
    int master = -1, terminal = -1;
    ASSERT_EQ(openpty(&master, &terminal, nullptr, nullptr, nullptr), 0);
    const UniqueFd ours(master), theirs(terminal);
    GuestTrimProgress progress;
    progress.mount_point = "/";
    if (known) progress.left = absl::Milliseconds(150400);
    {
      ProgressLine line(theirs.get());
      DomainSummary domain;
      domain.name = "w";
      line.Show(domain, progress);
    }
    const std::string text = ReadUntil(ours.get(), " \r");
    EXPECT_EQ(text.find("about 2m31s left") != std::string::npos, known) << text;
  }
}

TEST(ProgressLine, ElsewhereNothing) {
  int ends[2] = {-1, -1};
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd reader(ends[0]), writer(ends[1]);
  ShowHalf(writer.get());
  pollfd entry = {.fd = reader.get(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&entry, 1, 0), 0);
}

TEST(ProgressLine, WhatIsSaidStaysEverywhere) {
  int ends[2] = {-1, -1};
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd reader(ends[0]), writer(ends[1]);
  DomainSummary domain;
  domain.name = "we\x1b[2Jb";
  ProgressLine(writer.get()).Say(FirstTrimLine(domain, 480 * kMiB));
  EXPECT_EQ(ReadUntil(reader.get(), "\n"), "we\\x1b[2Jb: its first trim, expected about 480 MiB\n");
  EXPECT_THAT(FirstTrimLine(domain, std::nullopt), testing::EndsWith("nobody knows how much"));
  EXPECT_EQ(WaitingLine(domain),
            "we\\x1b[2Jb: waits for another virt-reclaim that trims on its storage");
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
