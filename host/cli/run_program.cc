#include "host/cli/run_program.h"

#include <chrono>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/byte_size.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/cli/files_progress.h"
#include "host/cli/hints.h"
#include "host/cli/journal_output.h"
#include "host/cli/json_parts.h"
#include "host/cli/outcome_output.h"
#include "host/cli/text_output.h"
#include "host/cli/text_table.h"
#include "host/commands/run.h"
#include "host/policy/read_policy.h"

namespace virt_reclaim {
namespace {

using Align = TextTable::Align;
using policy::Job;

struct RunReport {
  std::vector<RunItem> items;
  std::set<Job> jobs;    // that were asked for
  absl::Status domains;  // not OK: no domain was looked at, because of this
  bool dry_run = false;
};

std::set<Job> JobsOf(const CommandLine& line) {
  std::set<Job> jobs;
  for (const Job job : policy::kAllJobs) {
    if (line.job.empty() || line.job == Name(job)) jobs.insert(job);
  }
  if (line.resume) jobs.insert(Job::kResume);
  return jobs;
}

ExitStatus StatusOf(const RunReport& report) {
  std::vector<Outcome> outcomes;
  for (const RunItem& item : report.items) outcomes.push_back(item.outcome);
  if (!report.domains.ok()) {
    Outcome& outcome = outcomes.emplace_back();
    outcome.kind = OutcomeKind::kFailed;
    outcome.error = report.domains;
  }
  return ExitStatusOf(outcomes);
}

std::string Signed(const std::optional<int64_t>& bytes) {
  return bytes ? FormatSignedByteSize(*bytes) : "-";
}

// "trim 12 domains, 3.1 GiB".
std::string JobText(const RunReport& report, Job job) {
  const RunTotal total = TotalOf(report.items, job);
  const std::string what = job == Job::kPunch ? " file" : " domain";
  std::string text = absl::StrCat(Name(job), " ", total.done, what, total.done == 1 ? "" : "s");
  if (!report.dry_run && job != Job::kResume)
    absl::StrAppend(&text, " ", FormatSignedByteSize(total.freed));
  if (total.failed > 0) absl::StrAppend(&text, " (", total.failed, " failed)");
  return text;
}

std::string TotalText(const RunReport& report) {
  int64_t freed = 0;
  std::vector<std::string> jobs;
  for (const Job job : report.jobs) {
    freed += TotalOf(report.items, job).freed;
    jobs.push_back(JobText(report, job));
  }
  return absl::StrCat(
      report.dry_run ? "plan: " : absl::StrCat("total: freed ", FormatSignedByteSize(freed), ": "),
      absl::StrJoin(jobs, ", "), "\n");
}

std::string OutputText(const RunReport& report) {
  TextTable table;
  table.AddColumn("JOB");
  table.AddColumn("WHAT");
  table.AddColumn("EXPECTED", Align::kRight);
  if (!report.dry_run) table.AddColumn("FREED", Align::kRight);
  table.AddColumn("RESULT");
  for (const RunItem& item : report.items) {
    if (!report.dry_run && !IsWorthALine(item)) continue;
    std::vector<std::string> row = {std::string(Name(item.job)), Printable(item.name),
                                    item.expected ? FormatByteSize(*item.expected) : "-"};
    if (!report.dry_run) row.push_back(Signed(item.freed));
    const std::string said = OutcomeText(item.outcome);
    row.push_back(said.empty() && report.dry_run ? "would be done" : said);
    table.AddRow(std::move(row));
  }
  const std::string rows = table.Render();
  return absl::StrCat(TotalText(report), rows.empty() ? "" : "\n", rows);
}

std::string OutputJson(const RunReport& report) {
  Json json = report.dry_run ? Document("run-plan") : Document("run");
  if (!report.domains.ok()) json["error"] = Text(report.domains.message());
  json["jobs"] = Json::array();
  for (const Job job : report.jobs) {
    const RunTotal total = TotalOf(report.items, job);
    json["jobs"].push_back({{"job", std::string(Name(job))},
                            {"done", total.done},
                            {"skipped", total.skipped},
                            {"failed", total.failed},
                            {"expected_bytes", total.expected},
                            {"freed_bytes", report.dry_run ? Json(nullptr) : Json(total.freed)}});
  }
  json["items"] = Json::array();
  for (const RunItem& item : report.items) {
    Json entry = {{"job", std::string(Name(item.job))},
                  {"name", Text(item.name)},
                  {"kind", item.is_domain ? "domain" : "file"}};
    AddOutcome(entry, item.outcome);
    if (report.dry_run && item.outcome.kind == OutcomeKind::kDone) entry["status"] = "planned";
    entry["expected_bytes"] = OrNull(item.expected);
    entry["freed_bytes"] = OrNull(item.freed);
    json["items"].push_back(std::move(entry));
  }
  return Print(json);
}

RunProgress ProgressOn(ProgressLine& line, const FilesProgress& files, bool quiet) {
  RunProgress progress;
  progress.trim = [&line](const DomainSummary& domain, const GuestTrimProgress& now) {
    line.Show(domain, now);
  };
  if (!quiet)
    progress.waits = [&line](const DomainSummary& domain) { line.Say(WaitingLine(domain)); };
  progress.sparsify = [&line](const SparsifyTargetProgress& now) {
    line.Show(absl::StrCat("sparsify ", now.target, " of ", now.targets, ": ", now.name));
  };
  progress.punch = [&line, &files](const PunchFilesProgress& now) { line.Show(files.Of(now)); };
  return progress;
}

absl::StatusOr<std::vector<RunItem>> PlanAndAct(const CommandLine& line, const Services& services,
                                                const policy::Policy& policy,
                                                const std::set<Job>& jobs, ProgressLine& progress,
                                                const std::stop_token& stop) {
  const RunOptions options{jobs, /*estimate=*/line.dry_run, line.emergency};
  if (line.dry_run) {
    VR_ASSIGN_OR_RETURN(const RunPlan plan, PlanRun(services, policy, options, stop));
    return ItemsOf(plan);
  }
  VR_ASSIGN_OR_RETURN(const std::vector<DomainLock> locks, LockJobs(services, jobs));
  VR_ASSIGN_OR_RETURN(const RunPlan plan, PlanRun(services, policy, options, stop));
  const punch::SteadyClock clock = [] { return std::chrono::steady_clock::now(); };
  const FilesProgress files(clock);
  return ExecuteRun(services, plan, ProgressOn(progress, files, line.json), stop);
}

// What could not be written down, once.
std::string NotRemembered(const RunReport& report) {
  for (const RunItem& item : report.items) {
    if (!item.remembered.ok())
      return absl::StrCat("the history cannot be written: ", Printable(item.remembered.message()),
                          "\n");
  }
  return "";
}

}  // namespace

ProgramResult RunPolicy(const CommandLine& line, const WithServices& with_services,
                        ProgressLine& progress, const std::stop_token& stop) {
  const auto policy = policy::ReadPolicy(line.config, line.given.contains("--config"));
  if (!policy.ok()) return FailWith(policy.status(), line.json);
  RunReport report;
  report.jobs = JobsOf(line);
  report.dry_run = line.dry_run;
  const bool punches = report.jobs.contains(Job::kPunch);
  absl::StatusOr<std::vector<RunItem>> items;
  CommandLine used = line;
  used.no_libvirt = punches && report.jobs.size() == 1;
  absl::Status connected = with_services(used, [&](const Services& services) {
    items = PlanAndAct(line, services, *policy, report.jobs, progress, stop);
  });
  if (!connected.ok() && !absl::IsCancelled(connected) && punches && !policy->backups.empty()) {
    // Backups lie here, whether libvirt answers or not.
    report.domains = connected;
    used.no_libvirt = true;
    used.connect.clear();
    connected = with_services(used, [&](const Services& services) {
      items = PlanAndAct(line, services, *policy, {Job::kPunch}, progress, stop);
    });
  }
  ProgramResult result;
  if (!connected.ok() || !items.ok()) {
    result = FailWith(connected.ok() ? items.status() : connected, line.json);
  } else {
    report.items = *std::move(items);
    result.status = StatusOf(report);
    result.out = line.json ? OutputJson(report) : OutputText(report);
    result.err = NotRemembered(report);
    if (!report.domains.ok())
      absl::StrAppend(&result.err, "virt-reclaim: no domain was looked at: ",
                      Printable(report.domains.message()), "\n");
    if (GoesToJournal(line)) AddResults(report.items, line.json, result);
  }
  const auto hint =
      HintForConnection(report.domains.ok() ? connected : report.domains, line.connect);
  if (hint && !line.json) absl::StrAppend(&result.err, "hint: ", *hint, "\n");
  if (GoesToJournal(line)) AddLines(result.err, result);
  return result;
}

}  // namespace virt_reclaim
