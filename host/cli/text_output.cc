#include "host/cli/text_output.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/byte_size.h"
#include "base/escape.h"
#include "base/saturating_add.h"
#include "host/cli/outcome_output.h"
#include "host/cli/text_table.h"

namespace virt_reclaim {
namespace {

using Align = TextTable::Align;

std::string Size(const std::optional<uint64_t>& bytes) {
  return bytes ? FormatByteSize(*bytes) : "-";
}
std::string Size(const std::optional<int64_t>& bytes) {
  return bytes ? FormatSignedByteSize(*bytes) : "-";
}

std::string ChangeText(const xml::Change& change) {
  return absl::StrCat(change.what, " ",
                      change.before.empty() ? "(not set)" : Printable(change.before), " -> ",
                      Printable(change.after));
}

// "freed 3.1 GiB, took 40 s".
std::string LastTrimText(const std::optional<TrimRecord>& trim) {
  if (!trim) return "-";
  return absl::StrCat("freed ", Size(trim->freed), ", took ",
                      absl::FormatDuration(absl::Trunc(trim->took, absl::Seconds(1))),
                      trim->status == "done" ? "" : absl::StrCat(", ", Printable(trim->status)));
}

// "6 d", "3 h", "< 1 min".
std::string Age(absl::Duration age) {
  for (const auto& [unit, name] : {std::pair{absl::Hours(24), "d"}, std::pair{absl::Hours(1), "h"},
                                   std::pair{absl::Minutes(1), "min"}}) {
    if (age >= unit) return absl::StrCat(age / unit, " ", name);
  }
  return "< 1 min";
}

// "+3.1 GiB in 6 d": what the image has grown by since its domain's last trim.
std::string Growth(const ReportedDomain& domain, const ReportedDisk& disk) {
  if (!disk.grown_since_trim) return "-";
  const int64_t bytes = *disk.grown_since_trim;
  return absl::StrCat(bytes > 0 ? "+" : "", FormatSignedByteSize(bytes), " in ",
                      Age(domain.since_trim));
}

// "~" before what is only estimated from what the guest uses.
std::string Reclaimable(const Assessment& assessment) {
  const bool exact = assessment.from == ReclaimableFrom::kFreeMap;
  return absl::StrCat(exact || !assessment.reclaimable ? "" : "~", Size(assessment.reclaimable));
}

// `remembered`: with the column of the last trims.
void AddReportRows(const ReportedDomain& domain, bool remembered, TextTable& table) {
  std::vector<std::string> row{Printable(domain.summary.name), "", "", "", "", "", ""};
  if (domain.disks.empty()) {
    if (remembered) row.emplace_back();
    row.push_back(OutcomeText(domain.outcome));
    table.AddRow(std::move(row));
  }
  for (const ReportedDisk& disk : domain.disks) {
    const std::optional<uint64_t> used =
        disk.facts.guest ? std::optional<uint64_t>(disk.facts.guest->used) : std::nullopt;
    row = {Printable(domain.summary.name),    Printable(disk.facts.xml.target),
           Printable(disk.facts.xml.bus),     Size(disk.facts.usage.capacity),
           Size(disk.facts.usage.allocation), Size(used),
           Reclaimable(disk.assessment)};
    if (remembered) row.push_back(Growth(domain, disk));
    row.push_back(ReasonCodes(disk.assessment.blockers));
    table.AddRow(std::move(row));
  }
}

void AddTrimRows(const TrimmedDomain& domain, TextTable& table) {
  const std::string name = Printable(domain.domain.name);
  const std::string way = domain.way ? std::string(Name(*domain.way)) : "";
  const bool has_remarks = !domain.outcome.reasons.empty();
  if (domain.disks.empty() || has_remarks || domain.outcome.kind == OutcomeKind::kFailed) {
    table.AddRow({name, "", way, "", "", OutcomeText(domain.outcome)});
  }
  if (domain.outcome.kind == OutcomeKind::kSkipped) return;
  for (const TrimmedDisk& disk : domain.disks) {
    table.AddRow({name, Printable(disk.target), way,
                  disk.guest_not_supported ? "not supported" : Size(disk.trimmed), Size(disk.freed),
                  ReasonCodes(disk.reasons)});
  }
}

// '-' where it is known of no disk: that is no 0.
std::string Sum(const Report& report, uint64_t bytes, std::optional<uint64_t> Usage::*of) {
  for (const ReportedDomain& domain : report.domains) {
    for (const ReportedDisk& disk : domain.disks) {
      if (!IsOther(disk.facts.xml) && (disk.facts.usage.*of).has_value())
        return FormatByteSize(bytes);
    }
  }
  return report.total.disks == 0 || bytes > 0 ? FormatByteSize(bytes) : "-";
}

// "total: 475 domains to change, 10 refused, 15 with nothing to do".
std::string PlanTotal(const std::vector<MigrateAction>& plan) {
  size_t change = 0;
  size_t refused = 0;
  size_t failed = 0;
  for (const MigrateAction& action : plan) {
    const OutcomeKind kind = OutcomeOf(action).kind;
    failed += kind == OutcomeKind::kFailed ? 1 : 0;
    refused += kind == OutcomeKind::kSkipped ? 1 : 0;
    change += kind == OutcomeKind::kDone && !action.changes.empty() ? 1 : 0;
  }
  std::string text =
      absl::StrCat("total: ", change, change == 1 ? " domain" : " domains", " to change");
  if (refused > 0) absl::StrAppend(&text, ", ", refused, " refused");
  if (failed > 0) absl::StrAppend(&text, ", ", failed, " cannot be examined");
  return absl::StrCat(text, ", ", plan.size() - change - refused - failed,
                      " with nothing to do\n\n");
}

// "total: 475 domains done, 10 skipped, 5 failed".
std::string MigratedTotal(const std::vector<MigratedDomain>& domains) {
  std::map<OutcomeKind, size_t> counts;
  for (const MigratedDomain& domain : domains) ++counts[domain.outcome.kind];
  const size_t done = counts[OutcomeKind::kDone];
  std::string text = absl::StrCat("total: ", done, done == 1 ? " domain" : " domains", " done");
  for (const OutcomeKind kind :
       {OutcomeKind::kSkipped, OutcomeKind::kFailed, OutcomeKind::kCancelled}) {
    if (counts[kind] > 0) absl::StrAppend(&text, ", ", counts[kind], " ", Name(kind));
  }
  return text + "\n\n";
}

}  // namespace

std::string ReportText(const Report& report) {
  const ReportTotal& total = report.total;
  std::string out =
      absl::StrCat("total: ", total.disks, total.disks == 1 ? " disk" : " disks", ", capacity ",
                   Sum(report, total.capacity, &Usage::capacity), ", allocation ",
                   Sum(report, total.allocation, &Usage::allocation));
  if (total.disks_with_guest > 0) {
    absl::StrAppend(&out, "; of ", total.disks_with_guest, " known from inside: guests use ",
                    FormatByteSize(total.guest_used), ", reclaimable about ",
                    FormatByteSize(total.reclaimable));
    if (total.disks_exact > 0) {
      absl::StrAppend(&out, " (", total.disks_exact, total.disks_exact == 1 ? " disk" : " disks",
                      " by exact maps)");
    }
  }
  absl::StrAppend(&out, "\n\n");
  TextTable table;
  table.AddColumn("DOMAIN");
  table.AddColumn("DISK");
  table.AddColumn("BUS");
  for (absl::string_view title : {"CAPACITY", "ALLOCATION", "GUEST USES", "RECLAIMABLE"}) {
    table.AddColumn(title, Align::kRight);
  }
  const bool remembered =
      std::any_of(report.domains.begin(), report.domains.end(),
                  [](const ReportedDomain& domain) { return domain.last_trim.has_value(); });
  if (remembered) table.AddColumn("SINCE TRIM", Align::kRight);
  table.AddColumn("BLOCKERS");
  for (const ReportedDomain& domain : report.domains) AddReportRows(domain, remembered, table);
  out += table.Render();
  if (!report.copies || report.copies->paths.empty()) return out;
  TextTable copies;
  copies.AddColumn("UNFINISHED COPY");
  for (const std::string& path : report.copies->paths) copies.AddRow({Printable(path)});
  return absl::StrCat(out, "\n", copies.Render());
}

std::string CopyRemarks(const Report& report) {
  if (!report.copies) return "";
  std::string text;
  if (!report.copies->paths.empty())
    text = absl::StrCat(BlockerText({Reason::kUnfinishedCopy, "sync it again"}), "\n");
  for (const std::string& why : report.copies->unknown)
    absl::StrAppend(&text, "not all unfinished copies are known: ", why, "\n");
  return text;
}

std::string CheckLine(const CheckResult& check) {
  return absl::StrCat(Name(check.level), " - ", check.text, " | ", check.performance_data, "\n");
}

std::string FirstTrimLine(const DomainSummary& domain, std::optional<uint64_t> expected) {
  return absl::StrCat(Printable(domain.name), ": its first trim, expected ",
                      expected ? absl::StrCat("about ", FormatByteSize(*expected))
                               : std::string("nobody knows how much"));
}

std::string WaitingLine(const DomainSummary& domain) {
  return absl::StrCat(Printable(domain.name),
                      ": waits for another virt-reclaim that trims on its storage");
}

std::string TrimPlanText(const std::vector<TrimAction>& plan) {
  TextTable table;
  table.AddColumn("DOMAIN");
  table.AddColumn("PLAN");
  table.AddColumn("EXPECTED", Align::kRight);
  table.AddColumn("LAST TRIM");
  for (const TrimAction& action : plan) {
    std::string text = "trim all filesystems of the guest";
    if (action.way == TrimWay::kQemuAgent) text += ", through qemu-guest-agent";
    if (!action.error.ok()) text = absl::StrCat("cannot: ", Printable(action.error.message()));
    if (!action.blockers.empty()) text = absl::StrCat("skip: ", BlockerTexts(action.blockers));
    table.AddRow(
        {Printable(action.domain.name), text, Size(action.expected), LastTrimText(action.last)});
  }
  return table.Render();
}

std::string TrimText(const std::vector<TrimmedDomain>& domains) {
  TextTable table;
  table.AddColumn("DOMAIN");
  table.AddColumn("DISK");
  table.AddColumn("WAY");
  table.AddColumn("GUEST TRIMMED", Align::kRight);
  table.AddColumn("HOST FREED", Align::kRight);
  table.AddColumn("REASONS");
  uint64_t trimmed = 0;
  int64_t freed = 0;
  std::optional<uint64_t> expected;
  for (const TrimmedDomain& domain : domains) {
    AddTrimRows(domain, table);
    if (domain.expected) expected = SaturatingAdd(expected.value_or(0), *domain.expected);
    trimmed = SaturatingAdd(trimmed, domain.trimmed);
    freed += domain.freed.value_or(0);
  }
  const std::string before =
      expected ? absl::StrCat("expected about ", FormatByteSize(*expected), ", ") : "";
  return absl::StrCat("total: ", before, "guests trimmed ", FormatByteSize(trimmed),
                      ", host freed ", FormatSignedByteSize(freed), "\n\n", table.Render());
}

std::string MigratePlanText(const std::vector<MigrateAction>& plan, bool diff) {
  TextTable table;
  for (absl::string_view title : {"DOMAIN", "DISK", "CHANGE", "WHY"}) table.AddColumn(title);
  for (const MigrateAction& action : plan) {
    const std::string name = Printable(action.domain.name);
    for (const Blocker& blocker : action.blockers)
      table.AddRow({name, "", "refused", BlockerText(blocker)});
    for (const Blocker& fix : action.fixes)
      table.AddRow({name, "", "fix in the guest", BlockerText(fix)});
    for (const Blocker& risk : action.risks) table.AddRow({name, "", "note", BlockerText(risk)});
    if (!action.error.ok()) table.AddRow({name, "", "cannot", Printable(action.error.message())});
    for (const xml::Change& change : action.changes) {
      table.AddRow({name, Printable(change.target), ChangeText(change), Printable(change.reason)});
    }
    for (const xml::Refusal& refusal : action.refusals) {
      table.AddRow({name, Printable(refusal.target), "stays",
                    absl::StrCat(refusal.reason, ": ", Printable(refusal.detail))});
    }
    for (const xml::Refusal& warning : action.warnings) {
      table.AddRow({name, Printable(warning.target), "warning",
                    absl::StrCat(warning.reason, ": ", Printable(warning.detail))});
    }
    if (NeedsPowerCycle(action))
      table.AddRow({name, "", "power cycle", "it runs, and goes on as it is until then"});
    if (!action.blockers.empty()) continue;
    if (action.goes_on) {
      table.AddRow({name, "", "goes on", "its migration was begun before, and is not over"});
    } else if (action.unsafe_power_cycle) {
      table.AddRow({name, "", "no power cycle",
                    "its definition waits for one that the guest may not come back from"});
    } else if (action.power_cycle_pending) {
      table.AddRow({name, "", "nothing to do", BlockerText({Reason::kPowerCyclePending, ""})});
    } else if (action.changes.empty() && action.error.ok()) {
      table.AddRow({name, "", "nothing to do", ""});
    }
  }
  std::string out = absl::StrCat(plan.size() > 1 ? PlanTotal(plan) : "", table.Render());
  if (!diff) return out;
  for (const MigrateAction& action : plan) {
    if (action.changes.empty()) continue;
    const std::string name = Printable(action.domain.name);
    absl::StrAppend(&out, "\n",
                    xml::UnifiedDiff(action.before, action.after, absl::StrCat(name, ".xml (now)"),
                                     absl::StrCat(name, ".xml (migrated)")));
  }
  return out;
}

std::string MigratedText(const std::vector<MigratedDomain>& domains) {
  TextTable table;
  for (absl::string_view title : {"DOMAIN", "RESULT", "CHANGES", "OLD XML"}) table.AddColumn(title);
  for (const MigratedDomain& domain : domains) {
    std::string result = OutcomeText(domain.outcome);
    if (domain.outcome.kind == OutcomeKind::kDone && result.empty()) {
      result = domain.place             ? std::string(Name(domain.place->step))
               : domain.changes.empty() ? "nothing to do"
                                        : "defined";
      if (domain.place && !domain.place->detail.empty())
        absl::StrAppend(&result, " (", Printable(domain.place->detail), ")");
    } else if (domain.place && domain.outcome.kind == OutcomeKind::kFailed) {
      absl::StrAppend(&result, " (", Name(domain.place->step), ")");
    }
    if (domain.needs_power_cycle && domain.outcome.kind == OutcomeKind::kDone)
      absl::StrAppend(&result, "; needs a power cycle");
    const std::string changes =
        absl::StrJoin(domain.changes, ", ", [](std::string* out, const xml::Change& change) {
          if (!change.target.empty()) absl::StrAppend(out, Printable(change.target), ": ");
          absl::StrAppend(out, ChangeText(change));
        });
    table.AddRow({Printable(domain.domain.name), result, changes, Printable(domain.backup)});
  }
  return absl::StrCat(domains.size() > 1 ? MigratedTotal(domains) : "", table.Render());
}

std::string AgentStatusText(const std::vector<AgentStatusOfDomain>& statuses) {
  TextTable table;
  for (absl::string_view title : {"DOMAIN", "STATE", "AGENT", "AGE", "KERNEL", "SYSTEM", "REASON"})
    table.AddColumn(title);
  for (const AgentStatusOfDomain& status : statuses) {
    std::vector<std::string> row{Printable(status.summary.name),
                                 std::string(Name(status.summary.state))};
    if (status.agent) {
      const std::optional<absl::Duration>& age = status.agent->agent_uptime;
      row.insert(row.end(), {status.agent->agent_version, age ? Age(*age) : "-",
                             status.agent->kernel_release, status.agent->os_name});
      if (status.older == true) row.push_back("older than this host's");
    } else {
      row.insert(row.end(),
                 {"-", "-", "-", "-",
                  status.blocker ? BlockerText(*status.blocker) : OutcomeText(status.outcome)});
    }
    table.AddRow(std::move(row));
  }
  return table.Render();
}

}  // namespace virt_reclaim
