// What the verbs that timers call did, as entries of the systemd journal: what their texts say,
// with fields to search by (docs/journal.md). Makes them; main sends them, where stderr is the
// journal.
#ifndef VIRT_RECLAIM_HOST_CLI_JOURNAL_OUTPUT_H_
#define VIRT_RECLAIM_HOST_CLI_JOURNAL_OUTPUT_H_

#include <vector>

#include "absl/strings/string_view.h"
#include "base/journal.h"
#include "host/cli/program.h"
#include "host/commands/run.h"
#include "host/model/overview.h"

namespace virt_reclaim {

// What an entry is about. Kept for ever; never one with a new meaning.
inline constexpr absl::string_view kResultMessage = "9e69219f72fe451781c4909ff5fdd0bf";
inline constexpr absl::string_view kTotalMessage = "b77e4778ac2b43658248f0a1ee1bb631";
inline constexpr absl::string_view kRemarkMessage = "35d6d6153aa94de9a21740f56859687c";

// Of one domain or file.
JournalEntry EntryOf(const RunItem& item);

// Whether the verb is one that timers call, and does something.
bool GoesToJournal(const CommandLine& line);

// Results and what they come to. A verb of which the texts are asked for as well, as JSON, keeps
// them.
void AddResults(const std::vector<RunItem>& items, bool json, ProgramResult& result);
// The same of what the verbs trim, sparsify and punch came to.
template <typename Result>
void AddResults(const std::vector<Result>& results, bool json, ProgramResult& result) {
  std::vector<RunItem> items;
  for (const Result& one : results) items.push_back(ItemOf(one));
  AddResults(items, json, result);
}
// The metrics were written.
void AddMetrics(const Overview& overview, ProgramResult& result);
// Lines for stderr: errors of the program, hints, remarks.
void AddLines(absl::string_view lines, ProgramResult& result);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_JOURNAL_OUTPUT_H_
