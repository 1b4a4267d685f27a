#include "host/cli/overview_program.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/cli/html_report.h"
#include "host/cli/journal_output.h"
#include "host/cli/metrics_output.h"
#include "host/commands/overview.h"
#include "host/model/metrics.h"
#include "host/services/public_file.h"

namespace virt_reclaim {
namespace {

// Where the user wants them: in the file, or as text or JSON on stdout. JSON comes in any case
// where it is asked for.
absl::Status Show(const CommandLine& line, const std::vector<MetricFamily>& families,
                  absl::Time now, std::string& out) {
  if (line.json) out = MetricsJson(families);
  if (line.textfile.empty() || line.dry_run) {
    if (!line.json) out = MetricsText(families);
    return absl::OkStatus();
  }
  return WritePublicFile(line.textfile, MetricsText(families), now);
}

}  // namespace

ProgramResult RunMetrics(const CommandLine& line, const Services& services,
                         const std::stop_token& stop) {
  const absl::Time began = services.now();
  ReportOptions options;
  options.domains = line.domains;
  const auto report = MakeReport(services, options, stop);
  if (!report.ok()) {
    // A name that is none, and Ctrl-C, say nothing about the hypervisor.
    const bool about_hypervisor =
        !absl::IsCancelled(report.status()) && !absl::IsNotFound(report.status());
    return about_hypervisor ? FailMetrics(line, report.status(), services.now())
                            : FailWith(report.status(), line.json);
  }
  Overview overview = MakeOverview(services, *report);
  overview.version = VIRT_RECLAIM_VERSION;
  overview.took = overview.now - began;
  ProgramResult result;
  const absl::Status shown = Show(line, MetricsOf(overview), overview.now, result.out);
  if (!shown.ok()) return FailWith(shown, line.json);
  std::vector<Outcome> outcomes;
  for (const ReportedDomain& domain : report->domains) outcomes.push_back(domain.outcome);
  result.status = ExitStatusOf(outcomes);
  if (!line.textfile.empty() && GoesToJournal(line)) AddMetrics(overview, result);
  if (line.json) return result;
  for (const OverviewDomain& domain : overview.domains) {
    if (!domain.examined)
      absl::StrAppend(&result.err, domain.name, ": failed: ", domain.error, "\n");
  }
  if (GoesToJournal(line)) AddLines(result.err, result);
  return result;
}

ProgramResult FailMetrics(const CommandLine& line, const absl::Status& why, absl::Time now) {
  ProgramResult result = FailWith(why, line.json);
  if (line.textfile.empty() || line.dry_run) return result;
  const absl::Status written =
      WritePublicFile(line.textfile, MetricsText(MetricsOfFailure(VIRT_RECLAIM_VERSION, now)), now);
  if (!written.ok())
    absl::StrAppend(&result.err, "virt-reclaim: ", Printable(written.message()), "\n");
  return result;
}

absl::Status WriteHtmlReport(const CommandLine& line, const Services& services,
                             const Report& report) {
  if (line.dry_run) return absl::OkStatus();
  Overview overview = MakeOverview(services, report);
  overview.version = VIRT_RECLAIM_VERSION;
  return WritePublicFile(line.html, HtmlReport(overview), overview.now);
}

}  // namespace virt_reclaim
