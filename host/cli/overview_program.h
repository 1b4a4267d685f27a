// The verb `metrics`, and the page of `report --html`: the command line -> a file, or texts.
#ifndef VIRT_RECLAIM_HOST_CLI_OVERVIEW_PROGRAM_H_
#define VIRT_RECLAIM_HOST_CLI_OVERVIEW_PROGRAM_H_

#include <stop_token>

#include "absl/status/status.h"
#include "host/cli/options.h"
#include "host/cli/program.h"
#include "host/commands/report.h"
#include "host/commands/services.h"

namespace virt_reclaim {

// Without --textfile the metrics are the output. A run that was interrupted writes nothing.
ProgramResult RunMetrics(const CommandLine& line, const Services& services,
                         const std::stop_token& stop);

// What `metrics` does when it has no hypervisor to ask: the file, if one was asked for, says so,
// and the result fails with `why`.
ProgramResult FailMetrics(const CommandLine& line, const absl::Status& why, absl::Time now);

// Writes the page of --html; with --dry-run nothing.
absl::Status WriteHtmlReport(const CommandLine& line, const Services& services,
                             const Report& report);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_OVERVIEW_PROGRAM_H_
