// The program without its process: arguments in, texts and an exit status out, so that tests can
// run it whole on fakes.
#ifndef VIRT_RECLAIM_HOST_CLI_PROGRAM_H_
#define VIRT_RECLAIM_HOST_CLI_PROGRAM_H_

#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/journal.h"
#include "host/cli/options.h"
#include "host/cli/progress.h"
#include "host/commands/services.h"
#include "host/model/outcome.h"

namespace virt_reclaim {

struct ProgramResult {
  std::string out;  // stdout
  std::string err;  // stderr: hints and warnings
  ExitStatus status = ExitStatus::kDone;
  // All that `err` says, and what was done, with fields; for the journal, where stderr is one.
  // Empty for verbs that no timer calls.
  std::vector<JournalEntry> journal;
  bool journal_says_out = false;  // `out`, too, has nothing that is not in `journal`
};

// What a run that could not begin says: one line on stderr, and JSON where that is asked for.
ProgramResult FailWith(const absl::Status& status, bool json);

// How a parsed command line reaches the outside world: connects, and calls the function with the
// services.
using WithServices =
    std::function<absl::Status(const CommandLine&, const std::function<void(const Services&)>&)>;

// Shows a text that ends with a question on the terminal, and waits for yes or no.
using Confirm = std::function<bool(const std::string& question)>;

// `confirm` is empty where nobody sits at a terminal: then nothing is ever asked.
ProgramResult RunProgram(const std::vector<std::string>& arguments,
                         const WithServices& with_services, ProgressLine& progress,
                         const std::stop_token& stop, const Confirm& confirm = {});

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_PROGRAM_H_
