#include "host/cli/journal_output.h"

#include <cstdint>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/byte_size.h"
#include "base/escape.h"
#include "host/cli/outcome_output.h"
#include "host/policy/settings.h"

namespace virt_reclaim {
namespace {

JournalPriority PriorityOf(const Outcome& outcome) {
  switch (outcome.kind) {
    case OutcomeKind::kFailed:
      return JournalPriority::kError;
    case OutcomeKind::kCancelled:
      return JournalPriority::kWarning;
    case OutcomeKind::kSkipped:
      return outcome.asked_for ? JournalPriority::kWarning : JournalPriority::kInfo;
    case OutcomeKind::kDone:
      break;
  }
  return outcome.nothing_freed ? JournalPriority::kWarning : JournalPriority::kInfo;
}

// "trim web: freed 480 MiB", "sparsify old: skipped: running: ...".
std::string MessageOf(const RunItem& item) {
  std::vector<std::string> parts;
  if (item.outcome.kind == OutcomeKind::kDone)
    parts.push_back(item.freed ? absl::StrCat("freed ", FormatSignedByteSize(*item.freed))
                               : std::string(Name(item.outcome.kind)));
  const std::string said = OutcomeText(item.outcome);
  if (!said.empty()) parts.push_back(said);
  return absl::StrCat(Name(item.job), " ", Printable(item.name), ": ", absl::StrJoin(parts, "; "));
}

}  // namespace

JournalEntry EntryOf(const RunItem& item) {
  const Outcome& outcome = item.outcome;
  JournalEntry entry{kResultMessage, PriorityOf(outcome), MessageOf(item), {}};
  const auto add = [&](absl::string_view name, std::string value) {
    entry.fields.push_back({name, std::move(value)});
  };
  add("VIRT_RECLAIM_JOB", std::string(Name(item.job)));
  add(item.is_domain ? "VIRT_RECLAIM_DOMAIN" : "VIRT_RECLAIM_FILE", Printable(item.name));
  add("VIRT_RECLAIM_OUTCOME", std::string(Name(outcome.kind)));
  if (!outcome.error.ok()) add("VIRT_RECLAIM_ERROR", Printable(outcome.error.message()));
  if (item.expected) add("VIRT_RECLAIM_EXPECTED_BYTES", absl::StrCat(*item.expected));
  if (item.freed) add("VIRT_RECLAIM_FREED_BYTES", absl::StrCat(*item.freed));
  // Each code once, however many disks have it.
  std::set<Reason> said;
  for (const Blocker& reason : outcome.reasons) {
    if (said.insert(reason.reason).second)
      add("VIRT_RECLAIM_REASON", std::string(Code(reason.reason)));
  }
  return entry;
}

bool GoesToJournal(const CommandLine& line) {
  if (line.dry_run) return false;
  switch (line.verb) {
    case Verb::kRun:
    case Verb::kTrim:
    case Verb::kSparsify:
    case Verb::kPunch:
    case Verb::kMetrics:
      return true;
    default:
      return false;
  }
}

void AddResults(const std::vector<RunItem>& items, bool json, ProgramResult& result) {
  size_t done = 0, skipped = 0, failed = 0, cancelled = 0;
  int64_t freed = 0;
  for (const RunItem& item : items) {
    freed += item.freed.value_or(0);
    done += item.outcome.kind == OutcomeKind::kDone ? 1 : 0;
    skipped += item.outcome.kind == OutcomeKind::kSkipped ? 1 : 0;
    failed += item.outcome.kind == OutcomeKind::kFailed ? 1 : 0;
    cancelled += item.outcome.kind == OutcomeKind::kCancelled ? 1 : 0;
    if (IsWorthALine(item)) result.journal.push_back(EntryOf(item));
  }
  std::string message = absl::StrCat("total: freed ", FormatSignedByteSize(freed), ": ", done,
                                     " done, ", skipped, " skipped, ", failed, " failed");
  if (cancelled > 0) absl::StrAppend(&message, ", ", cancelled, " interrupted");
  const auto number = [](absl::string_view name, auto value) {
    return JournalField{name, absl::StrCat(value)};
  };
  result.journal.push_back(
      {kTotalMessage,
       failed > 0 ? JournalPriority::kWarning : JournalPriority::kInfo,
       std::move(message),
       {number("VIRT_RECLAIM_TOTAL_FREED_BYTES", freed), number("VIRT_RECLAIM_DONE", done),
        number("VIRT_RECLAIM_SKIPPED", skipped), number("VIRT_RECLAIM_FAILED", failed),
        number("VIRT_RECLAIM_CANCELLED", cancelled),
        number("VIRT_RECLAIM_STATUS", static_cast<int>(result.status))}});
  result.journal_says_out = !json;
}

void AddMetrics(const Overview& overview, ProgramResult& result) {
  size_t failed = 0;
  for (const OverviewDomain& domain : overview.domains) failed += domain.examined ? 0 : 1;
  const size_t count = overview.domains.size();
  result.journal.push_back(
      {kTotalMessage,
       failed > 0 ? JournalPriority::kWarning : JournalPriority::kInfo,
       absl::StrCat("wrote metrics of ", count, count == 1 ? " domain" : " domains"),
       {{"VIRT_RECLAIM_JOB", "metrics"},
        {"VIRT_RECLAIM_DONE", absl::StrCat(count - failed)},
        {"VIRT_RECLAIM_FAILED", absl::StrCat(failed)},
        {"VIRT_RECLAIM_STATUS", absl::StrCat(static_cast<int>(result.status))}}});
}

void AddLines(absl::string_view lines, ProgramResult& result) {
  for (absl::string_view line : absl::StrSplit(lines, '\n', absl::SkipEmpty())) {
    JournalPriority priority = JournalPriority::kWarning;
    if (absl::StartsWith(line, "hint: ")) priority = JournalPriority::kNotice;
    if (absl::ConsumePrefix(&line, "virt-reclaim: ")) priority = JournalPriority::kError;
    result.journal.push_back({kRemarkMessage, priority, std::string(line), {}});
  }
}

}  // namespace virt_reclaim
