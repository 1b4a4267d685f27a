#include "host/cli/run_program.h"

#include <algorithm>
#include <chrono>
#include <functional>
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
#include "host/policy/settings.h"

namespace virt_reclaim {
namespace {

using Align = TextTable::Align;
using policy::Job;

struct RunReport {
  std::vector<RunItem> items;
  std::set<Job> jobs;       // that were asked for
  absl::Status connection;  // not OK: no domain was looked at, because of this
  std::set<Job> busy;       // in an emergency: that another run has
  absl::Status later;       // not OK: what was left for a window could not be done
  absl::Status remembered;  // not OK: what it came to could not be written down
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

// Of an emergency: a job that another run has.
Outcome BusyOutcome() {
  Outcome outcome;
  outcome.kind = OutcomeKind::kSkipped;
  outcome.asked_for = true;
  outcome.reasons.push_back({Reason::kBusy, ""});
  return outcome;
}

ExitStatus StatusOf(const RunReport& report) {
  std::vector<Outcome> outcomes(report.busy.size(), BusyOutcome());
  for (const RunItem& item : report.items) outcomes.push_back(item.outcome);
  for (const absl::Status& error : {report.connection, report.later}) {
    if (error.ok()) continue;
    Outcome& outcome = outcomes.emplace_back();
    outcome.kind = OutcomeKind::kFailed;
    outcome.error = error;
  }
  return ExitStatusOf(outcomes);
}

std::string Signed(const std::optional<int64_t>& bytes) {
  return bytes ? FormatSignedByteSize(*bytes) : "-";
}

// "trim 12 domains, 3.1 GiB".
std::string JobText(const RunReport& report, Job job) {
  if (report.busy.contains(job)) return absl::StrCat(Name(job), " busy");
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
  for (const absl::Status& error : {report.later, report.connection}) {
    if (!error.ok()) json["error"] = Text(error.message());
  }
  json["jobs"] = Json::array();
  for (const Job job : report.jobs) {
    const RunTotal total = TotalOf(report.items, job);
    json["jobs"].push_back({{"job", std::string(Name(job))},
                            {"done", total.done},
                            {"skipped", total.skipped},
                            {"failed", total.failed},
                            {"busy", report.busy.contains(job)},
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

// All rounds of one call, and what they come to. A round reads the policy and reaches for the
// hypervisor anew: hours may lie between two.
class PolicyRun {
 public:
  PolicyRun(const CommandLine& line, const WithServices& with_services, ProgressLine& progress,
            const std::stop_token& stop)
      : line_(line), with_services_(with_services), progress_(progress), stop_(stop) {
    options_.jobs = JobsOf(line);
    options_.estimate = line.dry_run;
    options_.emergency = line.emergency;
  }

  // OK: at least something could be tried.
  absl::Status Execute(RunReport& report) {
    const absl::Status done = ExecuteRounds(report);
    if (done.ok() && !line_.dry_run) report.remembered = Remember(report);
    return done;
  }

 private:
  static constexpr absl::Duration kAfterAnother = absl::Minutes(1);

  absl::Status ExecuteRounds(RunReport& report) {
    VR_ASSIGN_OR_RETURN(report.items, Round(report.connection));
    report.busy = busy_;
    if (!line_.wait || line_.dry_run) return absl::OkStatus();
    while (WaitsForWindow(report.items)) {
      options_.only = LeftForWindow(report.items);
      absl::Status connection;
      auto later = Round(connection);
      if (absl::IsAborted(later.status())) {
        // Another run has the job, and the same windows. What it leaves is seen then.
        Rest(kAfterAnother);
        continue;
      }
      if (absl::IsCancelled(later.status())) break;
      report.later.Update(connection);
      report.later.Update(later.status());
      Renew(report.items, *options_.only, later.ok() ? *std::move(later) : std::vector<RunItem>());
    }
    for (RunItem& item : report.items) {
      if (item.window && stop_.stop_requested()) item.outcome.kind = OutcomeKind::kCancelled;
    }
    return absl::OkStatus();
  }

  // Only of a run as a job's timer makes it. Of one of all jobs, or in an emergency, nothing: a job
  // that has no timer would have a last run, and be overdue for ever.
  absl::Status Remember(const RunReport& report) const {
    if (line_.job.empty() || line_.emergency) return absl::OkStatus();
    return RememberRun(state_directory_, *options_.jobs.begin(), report.items, report.later.ok(),
                       ended_);
  }

  // Not OK: nothing could be done. `connection`: why nothing, or only something to backups.
  absl::StatusOr<std::vector<RunItem>> Round(absl::Status& connection) {
    VR_ASSIGN_OR_RETURN(const policy::Policy policy,
                        policy::ReadPolicy(line_.config, line_.given.contains("--config")));
    const bool punches = options_.jobs.contains(Job::kPunch);
    CommandLine used = line_;
    used.no_libvirt = punches && options_.jobs.size() == 1 && !policy::MayPunchDomains(policy);
    absl::StatusOr<std::vector<RunItem>> items;
    connection = with_services_(
        used, [&](const Services& services) { items = PlanAndAct(services, policy, options_); });
    absl::Status connected = connection;
    if (!connected.ok() && !absl::IsCancelled(connected) && punches && !policy.backups.empty()) {
      // Backups lie here, whether libvirt answers or not.
      used.no_libvirt = true;
      used.connect.clear();
      RunOptions options = options_;
      options.jobs = {Job::kPunch};
      connected = with_services_(
          used, [&](const Services& services) { items = PlanAndAct(services, policy, options); });
    }
    VR_RETURN_IF_ERROR(connected);
    return items;
  }

  absl::StatusOr<std::vector<RunItem>> PlanAndAct(const Services& services,
                                                  const policy::Policy& policy,
                                                  const RunOptions& options) {
    if (line_.dry_run) {
      VR_ASSIGN_OR_RETURN(const RunPlan plan, PlanRun(services, policy, options, stop_));
      return ItemsOf(plan);
    }
    const absl::Time begun = services.now();
    if (limit_ == absl::InfinitePast()) limit_ = begun + line_.wait.value_or(absl::ZeroDuration());
    // An emergency does what nobody else does by now.
    VR_ASSIGN_OR_RETURN(const std::vector<DomainLock> locks,
                        LockJobs(services, options.jobs, line_.emergency ? &busy_ : nullptr));
    RunOptions free = options;
    for (const Job job : busy_) free.jobs.erase(job);
    VR_ASSIGN_OR_RETURN(const RunPlan plan, PlanRun(services, policy, free, stop_));
    const punch::SteadyClock clock = [] { return std::chrono::steady_clock::now(); };
    const FilesProgress files(clock);
    auto items = ExecuteRun(services, plan, ProgressOn(progress_, files, line_.json), stop_);
    state_directory_ = services.state_directory;
    ended_ = services.now();
    options_.worked += std::max(ended_ - begun, absl::ZeroDuration());
    return items;
  }

  // Holds no lock and no connection meanwhile.
  bool WaitsForWindow(const std::vector<RunItem>& items) {
    const auto say = [&](absl::Time opens) {
      progress_.Say(absl::StrCat(LeftForWindow(items).size(),
                                 " left: waits for the window that opens at ",
                                 absl::FormatTime("%Y-%m-%d %H:%M", opens, absl::LocalTimeZone())));
    };
    bool open = false;
    WithClock([&](const Services& services) {
      open = WaitForWindow(services, items, limit_, say, stop_);
    });
    return open;
  }

  void Rest(absl::Duration time) {
    WithClock([&](const Services& services) {
      const absl::Time end = services.now() + time;
      while (!stop_.stop_requested() && services.now() < end) services.sleep(absl::Seconds(1));
    });
  }

  // Where not even that is to be had, nothing is waited for.
  void WithClock(const std::function<void(const Services&)>& use) {
    CommandLine used = line_;
    used.no_libvirt = true;
    used.connect.clear();
    with_services_(used, use).IgnoreError();
  }

  const CommandLine& line_;
  const WithServices& with_services_;
  ProgressLine& progress_;
  const std::stop_token& stop_;
  RunOptions options_;
  std::set<Job> busy_;  // that another run has
  absl::Time limit_ = absl::InfinitePast();
  std::string state_directory_;
  absl::Time ended_;
};

// What could not be written down, once.
std::string NotRemembered(const RunReport& report) {
  absl::Status first;
  for (const RunItem& item : report.items) first.Update(item.remembered);
  first.Update(report.remembered);
  if (first.ok()) return "";
  return absl::StrCat("the history cannot be written: ", Printable(first.message()), "\n");
}

}  // namespace

ProgramResult RunPolicy(const CommandLine& line, const WithServices& with_services,
                        ProgressLine& progress, const std::stop_token& stop) {
  RunReport report;
  report.jobs = JobsOf(line);
  report.dry_run = line.dry_run;
  const absl::Status begun = PolicyRun(line, with_services, progress, stop).Execute(report);
  ProgramResult result;
  if (!begun.ok()) {
    result = FailWith(begun, line.json);
  } else {
    result.status = StatusOf(report);
    result.out = line.json ? OutputJson(report) : OutputText(report);
    result.err = NotRemembered(report);
    for (const Job job : report.busy)
      absl::StrAppend(&result.err, "virt-reclaim: ", Name(job),
                      ": another virt-reclaim is working on this job\n");
    if (!report.connection.ok())
      absl::StrAppend(&result.err, "virt-reclaim: no domain was looked at: ",
                      Printable(report.connection.message()), "\n");
    if (!report.later.ok())
      absl::StrAppend(&result.err, "virt-reclaim: what was left for a window was not done: ",
                      Printable(report.later.message()), "\n");
    if (GoesToJournal(line)) AddResults(report.items, line.json, result);
  }
  const auto hint = HintForConnection(report.connection, line.connect);
  if (hint && !line.json) absl::StrAppend(&result.err, "hint: ", *hint, "\n");
  if (GoesToJournal(line)) AddLines(result.err, result);
  return result;
}

}  // namespace virt_reclaim
