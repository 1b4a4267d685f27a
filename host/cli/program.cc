#include "host/cli/program.h"

#include <algorithm>
#include <array>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/escape.h"
#include "base/status.h"
#include "base/suggest.h"
#include "host/cli/agent_program.h"
#include "host/cli/config_program.h"
#include "host/cli/explain_output.h"
#include "host/cli/hints.h"
#include "host/cli/journal_output.h"
#include "host/cli/json_output.h"
#include "host/cli/outcome_output.h"
#include "host/cli/overview_program.h"
#include "host/cli/punch_program.h"
#include "host/cli/run_program.h"
#include "host/cli/sparsify_program.h"
#include "host/cli/sync_program.h"
#include "host/cli/text_output.h"
#include "host/cli/trim_options.h"

namespace virt_reclaim {
namespace {

// One "hint:" line per reason and domain, however many disks have it.
class Hints {
 public:
  explicit Hints(const CommandLine& line) : connect_(line.connect) {}
  void Add(const DomainSummary& domain, const std::vector<Blocker>& blockers) {
    for (const Blocker& blocker : blockers)
      AddLine(domain, HintFor(blocker.reason, {connect_, domain.name}));
  }
  // Of a trim that was not begun.
  void AddForTrim(const DomainSummary& domain, const std::vector<Blocker>& blockers) {
    for (const Blocker& blocker : blockers)
      AddLine(domain, HintForTrim(blocker, {connect_, domain.name}));
  }
  std::string Text() const {
    constexpr size_t kMost = 10;  // a fleet with one illness needs no hundred hints
    std::string text;
    size_t shown = 0;
    for (const std::string& line : lines_) {
      if (++shown > kMost) return absl::StrCat(text, "hint: (", lines_.size() - kMost, " more)\n");
      text += line;
    }
    return text;
  }

 private:
  void AddLine(const DomainSummary& domain, const std::optional<std::string>& hint) {
    if (hint)
      lines_.insert(absl::StrCat("hint: ", Printable(domain.name), ": ", Printable(*hint), "\n"));
  }

  std::string connect_;
  std::set<std::string> lines_;
};

template <typename Items>
ExitStatus StatusOf(const Items& items) {
  std::vector<Outcome> outcomes;
  for (const auto& item : items) outcomes.push_back(item.outcome);
  return ExitStatusOf(outcomes);
}

// "web: machine-too-old: virtio-blk passes ... (pc-i440fx-3.1)", once per domain and reason.
template <typename Add>
std::string Explanations(Add add) {
  std::set<std::string> lines;
  add([&](const DomainSummary& domain, const std::string& target, const Blocker& blocker) {
    const std::string disk = target.empty() ? "" : absl::StrCat("/", Printable(target));
    lines.insert(absl::StrCat(Printable(domain.name), disk, ": ", BlockerText(blocker), "\n"));
  });
  std::string text;
  for (const std::string& line : lines) text += line;
  return text;
}

// One verb after the other, each: command -> texts.
class VerbRunner {
 public:
  VerbRunner(const CommandLine& line, ProgressLine& progress, const std::stop_token& stop,
             const Confirm& confirm)
      : line_(line), progress_(progress), stop_(stop), confirm_(confirm) {}

  ProgramResult Run(const Services& services) {
    switch (line_.verb) {
      case Verb::kReport:
        return Report(services);
      case Verb::kExplain:
        return ExplainDomains(services);
      case Verb::kTrim:
        return Trim(services);
      case Verb::kMigratePlan:
      case Verb::kMigrateApply:
        return Migrate(services);
      case Verb::kMigrateVerify:
      case Verb::kMigrateRollback:
      case Verb::kMigrateStatus:
        return FollowUp(services);
      case Verb::kAgentStatus:
        return AgentStatus(services);
      case Verb::kAgentInstall:
        return RunAgentInstall(line_, services, progress_, stop_);
      case Verb::kSync:
        return RunSyncDomain(line_, services, progress_, stop_);
      case Verb::kMetrics:
        return RunMetrics(line_, services, stop_);
      case Verb::kSparsify:
        return RunSparsify(line_, services, progress_, stop_);
      case Verb::kPunch:
      case Verb::kRun:
      case Verb::kConfigCheck:
      case Verb::kConfigShow:
      case Verb::kCompletion:
        break;  // not always with a hypervisor, so not here
    }
    return FailWith(absl::InternalError("unknown verb"), line_.json);
  }

 private:
  ProgramResult Report(const Services& services) {
    ReportOptions options;
    options.domains = line_.domains;
    options.exact = line_.exact;
    options.config = line_.config;
    options.config_must_exist = line_.given.contains("--config");
    auto report = MakeReport(services, options, stop_);
    if (!report.ok()) return FailWith(report.status(), line_.json);
    if (!line_.html.empty()) {
      const absl::Status written = WriteHtmlReport(line_, services, *report);
      if (!written.ok()) return FailWith(written, line_.json);
    }
    ProgramResult result;
    result.status = StatusOf(report->domains);
    std::optional<CheckResult> check;
    if (line_.check) {
      check = CheckReport(*report, *line_.check);
      result.status = static_cast<ExitStatus>(check->level);
    }
    if (line_.json) {
      result.out = ReportJson(*report, check);
      return result;
    }
    if (check) result.out = CheckLine(*check) + "\n";
    Hints hints(line_);
    result.err = Explanations([&](auto explain) {
      for (const ReportedDomain& domain : report->domains) {
        if (domain.agent) explain(domain.summary, "", *domain.agent);
        if (domain.agent) hints.Add(domain.summary, {*domain.agent});
        for (const Blocker& reason : domain.outcome.reasons) explain(domain.summary, "", reason);
        hints.Add(domain.summary, domain.outcome.reasons);
        for (const ReportedDisk& disk : domain.disks) {
          if (IsOther(disk.facts.xml)) continue;
          for (const Blocker& blocker : disk.assessment.blockers)
            explain(domain.summary, disk.facts.xml.target, blocker);
          hints.Add(domain.summary, disk.assessment.blockers);
        }
      }
    });
    result.err += CopyRemarks(*report) + hints.Text();
    if (report->domains.empty()) result.err += NobodyThere(services.hypervisor.Uri());
    result.out += ReportText(*report);
    return result;
  }

  ProgramResult ExplainDomains(const Services& services) {
    ExplainOptions options;
    options.domains = line_.domains;
    options.probe = line_.probe && !line_.dry_run;
    options.ask_qemu = line_.ask_qemu && !line_.dry_run;
    if (!line_.json) {
      options.waits = [&](const DomainSummary& domain) { progress_.Say(WaitingLine(domain)); };
    }
    const auto domains = Explain(services, options, stop_);
    if (!domains.ok()) return FailWith(domains.status(), line_.json);
    ProgramResult result;
    result.status = StatusOf(*domains);
    if (line_.json) {
      result.out = ExplainJson(*domains, line_.connect);
      return result;
    }
    result.out = ExplainText(*domains, line_.connect);
    Hints hints(line_);
    result.err = Explanations([&](auto explain) {
      for (const ExplainedDomain& domain : *domains) {
        if (domain.agent) explain(domain.summary, "", *domain.agent);
        if (domain.agent) hints.Add(domain.summary, {*domain.agent});
        for (const Blocker& remark : domain.remarks) explain(domain.summary, "", remark);
        for (const Blocker& reason : domain.outcome.reasons) explain(domain.summary, "", reason);
        for (const ExplainedDisk& disk : domain.disks) {
          for (const Layer& layer : disk.chain.layers) {
            for (const auto& list : {layer.reasons, layer.remarks}) {
              for (const Blocker& blocker : list) {
                if (blocker != domain.agent) explain(domain.summary, disk.chain.target, blocker);
              }
            }
          }
        }
      }
    });
    for (const ExplainedDomain& domain : *domains) {
      if (domain.outcome.kind == OutcomeKind::kFailed)
        absl::StrAppend(&result.err, Printable(domain.summary.name),
                        ": failed: ", Printable(domain.outcome.error.message()), "\n");
    }
    result.err += hints.Text();
    return result;
  }

  ProgramResult Trim(const Services& services) {
    TrimOptions options = TrimOptionsOf(line_);
    if (!line_.json) {
      options.first_begins = [&](const DomainSummary& domain, std::optional<uint64_t> expected) {
        progress_.Say(FirstTrimLine(domain, expected));
      };
      options.waits = [&](const DomainSummary& domain) { progress_.Say(WaitingLine(domain)); };
    }
    auto plan = PlanTrim(services, options, stop_);
    if (!plan.ok()) return FailWith(plan.status(), line_.json);
    ProgramResult result;
    // A path with a mistake in it would be silent.
    std::string nobody;
    if (plan->empty() && !line_.json)
      nobody = line_.storage.empty() ? NobodyThere(services.hypervisor.Uri())
                                     : absl::StrCat("no domain that runs has an image below '",
                                                    Printable(line_.storage), "'\n");
    if (line_.dry_run) {
      result.out = line_.json ? TrimPlanJson(*plan) : TrimPlanText(*plan);
      result.err = nobody;
      return result;
    }
    const std::vector<TrimmedDomain> domains = ExecuteTrim(
        services, options, *plan,
        [&](const DomainSummary& domain, const GuestTrimProgress& p) { progress_.Show(domain, p); },
        stop_);
    result.status = StatusOf(domains);
    result.out = line_.json ? TrimJson(domains) : TrimText(domains);
    AddResults(domains, line_.json, result);
    if (line_.json) return result;
    Hints hints(line_);
    std::string not_remembered;
    result.err = Explanations([&](auto explain) {
      for (const TrimmedDomain& domain : domains) {
        if (domain.outcome.asked_for) hints.AddForTrim(domain.domain, domain.outcome.reasons);
        if (!domain.remembered.ok())
          not_remembered = absl::StrCat(
              "the history cannot be written: ", Printable(domain.remembered.message()), "\n");
        for (const TrimmedDisk& disk : domain.disks) {
          for (const Blocker& blocker : disk.reasons) explain(domain.domain, disk.target, blocker);
          hints.Add(domain.domain, disk.reasons);
        }
      }
    });
    const std::string rest = nobody + not_remembered + hints.Text();
    result.err += rest;
    AddLines(rest, result);  // the explanations are those of the results
    return result;
  }

  absl::StatusOr<MigrateOptions> OptionsOfMigrate() const {
    MigrateOptions options;
    options.domains = line_.domains;
    options.rewrite = line_.rewrite;
    options.fix_guest = line_.fix_guest;
    options.allow_thick = line_.allow_thick;
    options.assume = line_.assume;
    if (line_.power_cycle == "shutdown") options.power_cycle = PowerCycle::kShutdown;
    if (line_.power_cycle == "when-off") options.power_cycle = PowerCycle::kWhenOff;
    options.run.shutdown_timeout = line_.shutdown_timeout;
    options.run.verify_timeout = line_.verify_timeout;
    options.max_failures = line_.max_failures;
    options.pause = line_.pause;
    options.window = line_.window;
    options.progress = [this](const DomainSummary& domain, absl::string_view what) {
      progress_.Show(domain, what);
    };
    if (line_.plan_file.empty()) return options;
    VR_ASSIGN_OR_RETURN(options.plan, ReadPlanFile(line_.plan_file));
    options.rewrite = options.plan->rewrite;
    if (line_.verb == Verb::kMigrateApply) options.fix_guest = options.plan->fix_guest;
    options.allow_thick = options.plan->allow_thick;
    options.assume = options.plan->assume;
    return options;
  }

  ProgramResult Migrate(const Services& services) {
    auto options = OptionsOfMigrate();
    if (!options.ok()) return FailWith(options.status(), line_.json);
    auto plan = PlanMigrate(services, *options, stop_);
    if (!plan.ok()) return FailWith(plan.status(), line_.json);
    if (line_.verb == Verb::kMigratePlan || line_.dry_run)
      return ShowPlan(services, *options, *plan);
    if (confirm_ && !line_.yes && !line_.json && !Confirmed(*plan)) {
      ProgramResult result;
      result.err = "nothing was changed\n";
      result.status = stop_.stop_requested() ? ExitStatus::kInterrupted : ExitStatus::kRefused;
      return result;
    }
    options->batch = BatchSize(plan->size());
    const std::vector<MigratedDomain> migrated = ApplyMigrate(services, *options, *plan, stop_);
    ProgramResult result;
    result.status = StatusOf(migrated);
    if (line_.json) {
      result.out = MigratedJson("apply", migrated);
      return result;
    }
    if (line_.diff) result.out = MigratePlanText(*plan, true) + "\n";
    result.out += MigratedText(migrated);
    Hints hints(line_);
    for (const MigratedDomain& domain : migrated) {
      const std::vector<Blocker>& reasons = domain.outcome.reasons;
      if (domain.needs_power_cycle &&
          (reasons.empty() || reasons.front().reason == Reason::kPowerCyclePending))
        hints.Add(domain.domain, {{Reason::kPowerCyclePending, ""}});
    }
    result.err = migrated.empty() ? "there is no domain to change\n" : hints.Text();
    return result;
  }

  ProgramResult ShowPlan(const Services& services, const MigrateOptions& options,
                         const std::vector<MigrateAction>& plan) {
    ProgramResult result;
    Hints hints(line_);
    result.out = line_.json ? MigratePlanJson(plan, line_.diff) : MigratePlanText(plan, line_.diff);
    std::vector<Outcome> outcomes;
    for (const MigrateAction& action : plan) {
      outcomes.push_back(OutcomeOf(action));
      // Not to somebody whose guest would not come back from it.
      if (action.power_cycle_pending && !action.unsafe_power_cycle)
        hints.Add(action.domain, {{Reason::kPowerCyclePending, ""}});
    }
    result.status = ExitStatusOf(outcomes);
    if (!line_.save.empty()) {
      const PlanFile file = PlanFileOf(services, options, plan);
      if (const absl::Status saved = WritePlanFile(line_.save, file); !saved.ok())
        return FailWith(saved, line_.json);
      result.err = absl::StrCat("saved the plan for ", file.domains.size(),
                                file.domains.size() == 1 ? " domain" : " domains", " in '",
                                Printable(line_.save), "'\n");
    }
    if (line_.json) return result;
    result.err += plan.empty() ? NobodyThere(services.hypervisor.Uri()) : hints.Text();
    return result;
  }

  // Asks whoever sits at the terminal; nothing to do needs no question.
  bool Confirmed(const std::vector<MigrateAction>& plan) const {
    const auto count = [&](bool changes) {
      return std::count_if(plan.begin(), plan.end(), [&](const MigrateAction& action) {
        return HasWork(action) && changes == !action.changes.empty();
      });
    };
    std::vector<std::string> what;
    if (const auto n = count(true); n > 0)
      what.push_back(absl::StrCat("change ", n, n == 1 ? " domain" : " domains"));
    if (const auto n = count(false); n > 0)
      what.push_back(
          absl::StrCat("go on with ", n, n == 1 ? " migration" : " migrations", " begun before"));
    if (what.empty()) return true;
    if (line_.power_cycle == "shutdown") what.emplace_back("shut down and start those that run");
    std::string question = absl::StrJoin(what, what.size() > 2 ? ", " : ", and ");
    if (what.size() > 2) question.insert(question.rfind(", ") + 2, "and ");
    question[0] = absl::ascii_toupper(static_cast<unsigned char>(question[0]));
    return confirm_(absl::StrCat(MigratePlanText(plan, line_.diff), "\n", question, "? [y/N] "));
  }

  // verify, rollback, status: of migrations that apply began.
  ProgramResult FollowUp(const Services& services) {
    const auto options = OptionsOfMigrate();
    if (!options.ok()) return FailWith(options.status(), line_.json);
    const bool look = line_.verb == Verb::kMigrateStatus || line_.dry_run;
    auto migrated = look ? MigrationStatus(services, *options)
                    : line_.verb == Verb::kMigrateVerify
                        ? VerifyMigrated(services, *options, stop_)
                        : RollBackMigrated(services, *options, stop_);
    if (!migrated.ok()) return FailWith(migrated.status(), line_.json);
    ProgramResult result;
    result.status = StatusOf(*migrated);
    const std::string verb = look                                 ? "status"
                             : line_.verb == Verb::kMigrateVerify ? "verify"
                                                                  : "rollback";
    result.out = line_.json ? MigratedJson(verb, *migrated) : MigratedText(*migrated);
    if (migrated->empty() && !line_.json) result.err = "no domain has been migrated yet\n";
    return result;
  }

  // "5" or "20%" of `count`, at least 1.
  size_t BatchSize(size_t count) const {
    absl::string_view text = line_.batch;
    const bool percent = absl::ConsumeSuffix(&text, "%");
    size_t number = 1;
    if (!absl::SimpleAtoi(text, &number)) return 1;
    return std::max<size_t>(percent ? count * number / 100 : number, 1);
  }

  ProgramResult AgentStatus(const Services& services) {
    AgentStatusOptions options;
    options.domains = line_.domains;
    options.version = VIRT_RECLAIM_VERSION;
    auto statuses = GetAgentStatus(services, options, stop_);
    if (!statuses.ok()) return FailWith(statuses.status(), line_.json);
    ProgramResult result;
    result.status = StatusOf(*statuses);
    result.out = line_.json ? AgentStatusJson(*statuses) : AgentStatusText(*statuses);
    if (line_.json) return result;
    Hints hints(line_);
    for (const AgentStatusOfDomain& status : *statuses) {
      if (status.blocker) hints.Add(status.summary, {*status.blocker});
    }
    result.err = statuses->empty() ? NobodyThere(services.hypervisor.Uri()) : hints.Text();
    return result;
  }

  const CommandLine& line_;
  ProgressLine& progress_;
  const std::stop_token& stop_;
  const Confirm& confirm_;
};

}  // namespace

ProgramResult FailWith(const absl::Status& status, bool json) {
  ProgramResult result;
  result.status = ExitStatusOf(status);
  if (json) result.out = ErrorJson(status, result.status);
  result.err = absl::StrCat("virt-reclaim: ", Printable(status.message()), "\n");
  return result;
}

namespace {

ProgramResult RunLine(const CommandLine& line, const WithServices& with_services,
                      ProgressLine& progress, const std::stop_token& stop, const Confirm& confirm) {
  if (line.verb == Verb::kPunch) return RunPunch(line, progress, stop);
  if (line.verb == Verb::kRun) return RunPolicy(line, with_services, progress, stop);
  if (line.verb == Verb::kConfigCheck || line.verb == Verb::kConfigShow)
    return RunConfig(line, with_services, stop);
  if (line.verb == Verb::kSync && line.sync_domain.empty()) return RunSync(line, progress, stop);
  ProgramResult result;
  if (line.codes) {
    result.out = line.json ? ReasonCodesJson() : ReasonCodesText();
    return result;
  }
  const absl::Status connected = with_services(line, [&](const Services& services) {
    result = VerbRunner(line, progress, stop, confirm).Run(services);
  });
  if (connected.ok()) return result;
  // Ctrl-C says nothing about the hypervisor.
  const bool tells = line.verb == Verb::kMetrics && !absl::IsCancelled(connected);
  result = tells ? FailMetrics(line, connected, absl::Now()) : FailWith(connected, line.json);
  if (line.check) {
    // To a monitor, what cannot be examined is unknown, and everything it reads is the first line.
    result.status = static_cast<ExitStatus>(CheckLevel::kUnknown);
    if (!line.json)
      result.out =
          absl::StrCat(Name(CheckLevel::kUnknown), " - ", Printable(connected.message()), "\n");
  }
  const auto hint = HintForConnection(connected, line.connect);
  if (hint && !line.json) result.err += absl::StrCat("hint: ", *hint, "\n");
  return result;
}

}  // namespace

ProgramResult RunProgram(const std::vector<std::string>& arguments,
                         const WithServices& with_services, ProgressLine& progress,
                         const std::stop_token& stop, const Confirm& confirm) {
  auto parsed = ParseCommandLine(arguments);
  const bool json = std::find(arguments.begin(), arguments.end(), "--json") != arguments.end();
  if (!parsed.ok()) return FailWith(parsed.status(), json);
  ProgramResult result;
  if (const auto* print = std::get_if<PrintAndExit>(&*parsed)) {
    result.out = print->text;
    return result;
  }
  const CommandLine& line = std::get<CommandLine>(*parsed);
  result = RunLine(line, with_services, progress, stop, confirm);
  // One that could not begin.
  if (result.journal.empty() && GoesToJournal(line)) AddLines(result.err, result);
  return result;
}

}  // namespace virt_reclaim
