// What the verbs that timers call say in the journal.
#include "host/cli/journal_output.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/io.h"
#include "tests/fakes/fake_world.h"

namespace virt_reclaim {
namespace {

using policy::Job;
using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::StartsWith;

// "6 trim web: freed 480 MiB", and a line for each field.
std::string Text(const JournalEntry& entry) {
  std::string text = absl::StrCat(static_cast<int>(entry.priority), " ", entry.message);
  for (const JournalField& field : entry.fields)
    absl::StrAppend(&text, "\n", field.name, "=", field.value);
  return text;
}

std::vector<std::string> Texts(const std::vector<JournalEntry>& entries) {
  std::vector<std::string> texts;
  for (const JournalEntry& entry : entries) texts.push_back(Text(entry));
  return texts;
}

RunItem Item(Job job, const std::string& name, OutcomeKind kind) {
  RunItem item;
  item.job = job;
  item.name = name;
  item.is_domain = job != Job::kPunch;
  item.outcome.kind = kind;
  return item;
}

TEST(JournalOutput, AResultHasItsFields) {
  RunItem done = Item(Job::kTrim, "web", OutcomeKind::kDone);
  done.expected = 500 * kMiB;
  done.freed = 480 * kMiB;
  EXPECT_EQ(EntryOf(done).message_id, kResultMessage);
  EXPECT_EQ(Text(EntryOf(done)),
            "6 trim web: freed 480 MiB\nVIRT_RECLAIM_JOB=trim\nVIRT_RECLAIM_DOMAIN=web\n"
            "VIRT_RECLAIM_OUTCOME=done\nVIRT_RECLAIM_EXPECTED_BYTES=524288000\n"
            "VIRT_RECLAIM_FREED_BYTES=503316480");

  RunItem failed = Item(Job::kPunch, "/backup/a", OutcomeKind::kFailed);
  failed.outcome.error = absl::UnavailableError("open '/backup/a': I/O error");
  EXPECT_EQ(Text(EntryOf(failed)),
            "3 punch /backup/a: failed: open '/backup/a': I/O error\nVIRT_RECLAIM_JOB=punch\n"
            "VIRT_RECLAIM_FILE=/backup/a\nVIRT_RECLAIM_OUTCOME=failed\n"
            "VIRT_RECLAIM_ERROR=open '/backup/a': I/O error");

  EXPECT_THAT(Text(EntryOf(Item(Job::kResume, "web", OutcomeKind::kDone))),
              StartsWith("6 resume web: done\n"));
  EXPECT_THAT(Text(EntryOf(Item(Job::kTrim, "web", OutcomeKind::kCancelled))),
              StartsWith("4 trim web: interrupted\n"));
}

TEST(JournalOutput, EachReasonIsAFieldOnce) {
  RunItem item = Item(Job::kTrim, "web", OutcomeKind::kSkipped);
  item.outcome.reasons = {
      {Reason::kMachineTooOld, "vda"}, {Reason::kMachineTooOld, "vdb"}, {Reason::kOverlay, "vdc"}};
  const std::string text = Text(EntryOf(item));
  EXPECT_THAT(text, StartsWith("6 trim web: skipped: machine-too-old: "));
  EXPECT_TRUE(
      absl::EndsWith(text, "\nVIRT_RECLAIM_REASON=machine-too-old\nVIRT_RECLAIM_REASON=overlay"))
      << text;
  // The user named it.
  item.outcome.asked_for = true;
  EXPECT_EQ(EntryOf(item).priority, JournalPriority::kWarning);
}

TEST(JournalOutput, ADoneThatFreedNothingWarns) {
  RunItem item = Item(Job::kTrim, "web", OutcomeKind::kDone);
  item.freed = 0;
  EXPECT_EQ(EntryOf(item).priority, JournalPriority::kInfo);
  item.outcome.nothing_freed = true;
  EXPECT_EQ(EntryOf(item).priority, JournalPriority::kWarning);
}

// A name of a domain or file, and what a guest says in an error.
TEST(JournalOutput, HostileTextsStayInTheirField) {
  const std::string hostile = "a\nPRIORITY=0\n\x1b[2J";
  RunItem item = Item(Job::kPunch, hostile, OutcomeKind::kFailed);
  item.outcome.error = absl::InternalError(hostile);
  const std::string datagram = JournalDatagram("virt-reclaim", EntryOf(item));
  EXPECT_EQ(datagram.find("\nPRIORITY=0"), std::string::npos);
  EXPECT_EQ(datagram.find('\x1b'), std::string::npos);
  EXPECT_NE(datagram.find("VIRT_RECLAIM_FILE=a\\x0aPRIORITY=0\\x0a\\x1b[2J\n"), std::string::npos);
}

TEST(JournalOutput, OfAThousandBackupsOnlyWhatThereIsToSay) {
  RunItem freed = Item(Job::kPunch, "/backup/a", OutcomeKind::kDone);
  freed.freed = kMiB;
  RunItem nothing = Item(Job::kPunch, "/backup/b", OutcomeKind::kDone);
  nothing.freed = 0;
  ProgramResult result;
  AddResults(std::vector<RunItem>{freed, nothing, nothing}, false, result);
  EXPECT_TRUE(result.journal_says_out);
  ASSERT_THAT(result.journal, testing::SizeIs(2));
  EXPECT_EQ(result.journal[1].message_id, kTotalMessage);
  EXPECT_EQ(Text(result.journal[1]),
            "6 total: freed 1.0 MiB: 3 done, 0 skipped, 0 failed\n"
            "VIRT_RECLAIM_TOTAL_FREED_BYTES=1048576\nVIRT_RECLAIM_DONE=3\nVIRT_RECLAIM_SKIPPED=0\n"
            "VIRT_RECLAIM_FAILED=0\nVIRT_RECLAIM_CANCELLED=0\nVIRT_RECLAIM_STATUS=0");
}

constexpr char kConfig[] = "--config=" POLICY_EXAMPLE;  // not this machine's

struct JournalProgramTest : testing::Test {
  JournalProgramTest() {
    world.AddImage("/images/web.raw", kGiB, 500 * kMiB);
    world.AddDomain(DomainXml("web", "11111111-2222-3333-4444-555555555555", "pc-q35-7.2",
                              {{"vda", "virtio", "/images/web.raw", "unmap"}}, ""),
                    DomainState::kShutOff);
  }
  ProgramResult Call(const std::vector<std::string>& arguments) {
    ProgressLine progress(STDERR_FILENO);
    return RunProgram(
        arguments,
        [&](const CommandLine& line, const std::function<void(const Services&)>& use) {
          if (line.connect == "down:///")
            return absl::UnavailableError("connect to 'down:///': no such socket");
          use(world.services());
          return absl::OkStatus();
        },
        progress, {});
  }

  FakeWorld world;
};

TEST_F(JournalProgramTest, AVerbOfATimerSaysWhatItsTextsSay) {
  for (const bool json : {false, true}) {
    const ProgramResult result =
        Call({"run", kConfig, json ? "--json" : "--emergency", "--job=trim"});
    ASSERT_EQ(result.journal.size(), 1u);  // nobody runs
    EXPECT_EQ(result.journal[0].message_id, kTotalMessage);
    EXPECT_EQ(result.journal_says_out, !json);
    EXPECT_NE(result.out, "");
  }
  const ProgramResult trim = Call({"trim", "web"});
  ASSERT_GE(trim.journal.size(), 2u);
  EXPECT_THAT(trim.journal[0].fields.size(), testing::Ge(4u));
  EXPECT_THAT(Text(trim.journal[0]), StartsWith("4 trim web: skipped: not-running: "));
  EXPECT_EQ(trim.journal[1].message_id, kTotalMessage);
}

TEST_F(JournalProgramTest, OneThatCannotBeginSaysWhy) {
  const ProgramResult down = Call({"-c", "down:///", "run", kConfig});
  EXPECT_THAT(Texts(down.journal), Contains("3 connect to 'down:///': no such socket"));
  for (const JournalEntry& entry : down.journal) EXPECT_EQ(entry.message_id, kRemarkMessage);
  const ProgramResult wrong = Call({"run", "--config=/none/such.toml"});
  ASSERT_EQ(wrong.journal.size(), 1u);
  EXPECT_THAT(Text(wrong.journal[0]), StartsWith("3 "));
  EXPECT_FALSE(wrong.journal_says_out);
}

TEST_F(JournalProgramTest, OtherVerbsAndPlansSayNothing) {
  EXPECT_THAT(Call({"report"}).journal, IsEmpty());
  EXPECT_THAT(Call({"explain", "web"}).journal, IsEmpty());
  EXPECT_THAT(Call({"trim", "-n"}).journal, IsEmpty());
  EXPECT_THAT(Call({"run", "-n", kConfig}).journal, IsEmpty());
  EXPECT_THAT(Call({"metrics"}).journal, IsEmpty());
  EXPECT_THAT(Call({"-c", "down:///", "report"}).journal, IsEmpty());
}

TEST_F(JournalProgramTest, MetricsTellThatTheyWereWritten) {
  const ProgramResult result =
      Call({"metrics", absl::StrCat("--textfile=", world.directory(), "/virt-reclaim.prom")});
  EXPECT_THAT(Texts(result.journal),
              ElementsAre("6 wrote metrics of 1 domain\nVIRT_RECLAIM_JOB=metrics\n"
                          "VIRT_RECLAIM_DONE=1\nVIRT_RECLAIM_FAILED=0\nVIRT_RECLAIM_STATUS=0"));
}

// Whoever filters by an id or a field has it from there.
TEST(JournalOutput, TheDocumentHasEveryIdAndField) {
  const auto document = ReadFile(JOURNAL_DOCUMENT, 1 << 20);
  const auto source = ReadFile(JOURNAL_SOURCE, 1 << 20);
  const auto agent = ReadFile(JOURNAL_AGENT_SOURCE, 1 << 20);
  ASSERT_TRUE(document.ok() && source.ok() && agent.ok());
  const std::string code = absl::StrCat(*source, *agent);
  std::set<std::string> fields;
  for (size_t at = code.find("\"VIRT_RECLAIM_"); at != std::string::npos;
       at = code.find("\"VIRT_RECLAIM_", at + 1))
    fields.insert(code.substr(at + 1, code.find('"', at + 1) - at - 1));
  EXPECT_GE(fields.size(), 10u);
  for (const std::string& field : fields)
    EXPECT_TRUE(absl::StrContains(*document, absl::StrCat("| `", field, "` |"))) << field;
  for (const absl::string_view id : {kResultMessage, kTotalMessage, kRemarkMessage}) {
    EXPECT_EQ(id.size(), 32u);
    EXPECT_TRUE(absl::StrContains(*document, absl::StrCat("| `", id, "` |"))) << id;
  }
  const size_t state = agent->find("kStateMessage = \"");
  ASSERT_NE(state, std::string::npos);
  EXPECT_TRUE(
      absl::StrContains(*document, absl::StrCat("| `", agent->substr(state + 17, 32), "` |")));
}

}  // namespace
}  // namespace virt_reclaim
