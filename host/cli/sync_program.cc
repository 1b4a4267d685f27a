#include "host/cli/sync_program.h"

#include <chrono>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/escape.h"
#include "host/cli/files_progress.h"
#include "host/cli/json_parts.h"
#include "host/cli/outcome_output.h"
#include "host/cli/text_table.h"
#include "host/commands/sync_domain.h"
#include "host/commands/sync_files.h"
#include "host/punch/punch.h"

namespace virt_reclaim {
namespace {

using Align = TextTable::Align;

sync::SyncOptions EngineOf(const CommandLine& line) {
  sync::SyncOptions engine;
  engine.compare = line.compare;
  engine.atomic = line.atomic;
  engine.overwrite_device = line.overwrite_device;
  engine.verify = line.verify;
  engine.format = line.format;
  engine.reflink = !line.no_reflink;
  engine.max_bytes_per_second = line.max_rate;
  return engine;
}

SyncFilesOptions SyncOptionsOf(const CommandLine& line) {
  SyncFilesOptions options;
  options.sources.assign(line.files.begin(), line.files.end() - 1);
  options.destination = line.files.back();
  options.recursive = line.recursive;
  options.one_file_system = line.one_file_system;
  options.idle = line.idle;
  options.engine = EngineOf(line);
  return options;
}

Json FileJson(const SyncedFile& file) {
  const sync::SyncResult& result = file.result;
  Json json = {{"source", Printable(file.source)}, {"destination", Printable(file.destination)}};
  AddOutcome(json, file.outcome);
  json["unchanged"] = file.unchanged;
  json["linked"] = file.linked;
  json["checkpoint_lost"] = file.checkpoint_lost;
  json["size_bytes"] = result.size_bytes;
  json["read_bytes"] = result.read_bytes;
  json["compared_bytes"] = result.compared_bytes;
  json["same_bytes"] = result.same_bytes;
  json["different_bytes"] = result.different_bytes;
  json["zeroed_bytes"] = result.zeroed_bytes;
  json["written_bytes"] = result.written_bytes;
  json["cloned_bytes"] = result.cloned_bytes;
  json["punched_bytes"] = result.punched_bytes;
  json["verified_bytes"] = result.verified_bytes;
  json["xxh3"] = result.digest ? Json(*result.digest) : Json(nullptr);
  return json;
}

std::string OutputJson(const std::vector<SyncedFile>& files, bool dry_run) {
  const SyncTotal total = TotalOf(files);
  Json json = {{"schema_version", 1}, {"message_type", dry_run ? "sync-plan" : "sync"}};
  json["total"] = {{"files", total.files},         {"unchanged", total.unchanged},
                   {"read_bytes", total.read},     {"different_bytes", total.different},
                   {"zeroed_bytes", total.zeroed}, {"written_bytes", total.written},
                   {"cloned_bytes", total.cloned}, {"punched_bytes", total.punched}};
  json["files"] = Json::array();
  for (const SyncedFile& file : files) json["files"].push_back(FileJson(file));
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

// What there is to say of a file but for its numbers.
std::string Remark(const SyncedFile& file) {
  if (file.outcome.kind != OutcomeKind::kDone) {
    const std::string text = OutcomeText(file.outcome);
    const bool failed = file.outcome.kind == OutcomeKind::kFailed;
    return failed && !file.outcome.reasons.empty()
               ? absl::StrCat(text, "; ", BlockerTexts(file.outcome.reasons))
               : text;
  }
  if (file.unchanged) return "size and mtime are equal";
  if (file.linked) return "another name of a copy";
  if (!file.outcome.reasons.empty()) return OutcomeText(file.outcome);
  const std::string verified =
      file.result.digest ? absl::StrCat("verified, xxh3 ", *file.result.digest) : "";
  if (!file.checkpoint_lost) return verified;
  return absl::StrCat("all of it was looked at: its checkpoint is lost",
                      verified.empty() ? "" : "; ", verified);
}

std::string OutputText(const std::vector<SyncedFile>& files, bool dry_run) {
  const SyncTotal total = TotalOf(files);
  std::string text =
      absl::StrCat("total: ", total.files, total.files == 1 ? " file" : " files", ", ",
                   total.unchanged, " unchanged, read ", FormatByteSize(total.read));
  if (dry_run) {
    absl::StrAppend(&text, ", differs ", FormatByteSize(total.different), ", zero now ",
                    FormatByteSize(total.zeroed), "\n");
  } else {
    absl::StrAppend(&text, ", written ", FormatByteSize(total.written), ", cloned ",
                    FormatByteSize(total.cloned), ", punched ", FormatByteSize(total.punched),
                    "\n");
  }
  TextTable table;
  table.AddColumn("FILE");
  for (const char* title : {"READ", "DIFFERS", "WRITTEN", "CLONED", "PUNCHED"})
    table.AddColumn(title, Align::kRight);
  table.AddColumn("RESULT");
  size_t rows = 0;
  for (const SyncedFile& file : files) {
    // Of a whole directory only what there is something to say of.
    const bool done = file.outcome.kind == OutcomeKind::kDone;
    if (done && file.unchanged && !file.outcome.asked_for) continue;
    ++rows;
    const sync::SyncResult& result = file.result;
    const bool looked = !file.unchanged && !file.linked && (done || result.read_bytes > 0);
    const auto size = [&](bool known, uint64_t bytes) {
      return known ? FormatByteSize(bytes) : "-";
    };
    table.AddRow(
        // Nowhere to where it was not looked into.
        {Printable(file.destination.empty() ? file.source : file.destination),
         size(looked, result.read_bytes), size(looked, result.different_bytes),
         size(looked && !dry_run, result.written_bytes),
         size(looked && !dry_run, result.cloned_bytes),
         size(looked, dry_run ? result.zeroed_bytes : result.punched_bytes), Remark(file)});
  }
  if (rows > 0) absl::StrAppend(&text, "\n", table.Render());
  return text;
}

// A domain's name may have a colon, too: the whole is tried first.
SyncDomainOptions DomainOptionsOf(const CommandLine& line, Hypervisor& hypervisor) {
  SyncDomainOptions options;
  options.domain = line.sync_domain;
  const size_t colon = line.sync_domain.rfind(':');
  if (colon != std::string::npos && !SelectDomains(hypervisor, {line.sync_domain}).ok()) {
    options.domain = line.sync_domain.substr(0, colon);
    options.target = line.sync_domain.substr(colon + 1);
  }
  options.directory = line.files.front();
  options.freeze = line.freeze;
  options.clean = line.clean;
  options.engine = EngineOf(line);
  return options;
}

std::string DomainPlanText(const SyncDomainPlan& plan) {
  std::string text;
  for (const DiskToSync& disk : plan.disks) {
    absl::StrAppend(&text, Printable(plan.domain.name), ":", Printable(disk.target), " -> ",
                    Printable(disk.copy), ": ",
                    disk.since.empty() ? "all of it is looked at"
                                       : absl::StrCat("what was written since ", disk.since),
                    "\n");
  }
  for (const DiskLeftOut& disk : plan.left_out) {
    absl::StrAppend(&text, Printable(plan.domain.name), ":", Printable(disk.target),
                    ": not copied: ", Code(disk.reason), "\n");
  }
  if (plan.stale_job) text += "the backup job of a killed run would be ended\n";
  for (const std::string& name : plan.stale)
    absl::StrAppend(&text, "checkpoint ", name, " of a killed run would be deleted\n");
  return text;
}

std::string DomainPlanJson(const SyncDomainPlan& plan) {
  Json json = {{"schema_version", 1}, {"message_type", "sync-domain-plan"}};
  json["domain"] = Printable(plan.domain.name);
  json["disks"] = Json::array();
  for (const DiskToSync& disk : plan.disks) {
    json["disks"].push_back({{"target", Printable(disk.target)},
                             {"destination", Printable(disk.copy)},
                             {"since", disk.since.empty() ? Json(nullptr) : Json(disk.since)}});
  }
  json["left_out"] = Json::array();
  for (const DiskLeftOut& disk : plan.left_out) {
    json["left_out"].push_back(
        {{"target", Printable(disk.target)}, {"reason", std::string(Code(disk.reason))}});
  }
  json["stale_job"] = plan.stale_job;
  json["stale_checkpoints"] = plan.stale;
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

ProgramResult ResultOf(const CommandLine& line, const std::vector<SyncedFile>& files,
                       bool every_file) {
  ProgramResult result;
  std::vector<Outcome> outcomes;
  for (const SyncedFile& file : files) {
    outcomes.push_back(file.outcome);
    // What comes next takes the copies for all there is: a file that was found below a directory
    // and refused counts as one that was named.
    if (every_file) outcomes.back().asked_for = true;
  }
  result.status = ExitStatusOf(outcomes);
  result.out = line.json ? OutputJson(files, line.dry_run) : OutputText(files, line.dry_run);
  return result;
}

}  // namespace

ProgramResult RunSyncDomain(const CommandLine& line, const Services& services,
                            ProgressLine& progress, const std::stop_token& stop) {
  const SyncDomainOptions options = DomainOptionsOf(line, services.hypervisor);
  const auto plan = PlanSyncDomain(services, options);
  if (!plan.ok()) return FailWith(plan.status(), line.json);
  if (line.dry_run) {
    ProgramResult result;
    result.out = line.json ? DomainPlanJson(*plan) : DomainPlanText(*plan);
    return result;
  }
  const punch::SteadyClock clock = [] { return std::chrono::steady_clock::now(); };
  const FilesProgress progress_text(clock);
  if (line.idle) static_cast<void>(punch::UseIdleIoPriority());
  absl::Status left_behind;
  const auto files = SyncDomain(
      services, options, *plan, clock,
      [&](const SyncFilesProgress& now) { progress.Show(progress_text.Of(now)); }, stop,
      left_behind);
  ProgramResult result = files.ok() ? ResultOf(line, *files, /*every_file=*/false)
                                    : FailWith(files.status(), line.json);
  if (left_behind.ok()) return result;
  if (result.status == ExitStatus::kDone) result.status = ExitStatus::kSomeFailed;
  absl::StrAppend(&result.err, "virt-reclaim: ", Quoted(plan->domain.name),
                  " may still have our backup job or checkpoint, or be frozen: ",
                  Printable(left_behind.message()), "\n");
  if (services.leave_to_watcher) services.leave_to_watcher();
  return result;
}

ProgramResult RunSync(const CommandLine& line, ProgressLine& progress,
                      const std::stop_token& stop) {
  const SyncFilesOptions options = SyncOptionsOf(line);
  const auto actions = FindSyncActions(options, stop);
  if (!actions.ok()) return FailWith(actions.status(), line.json);
  const punch::SteadyClock clock = [] { return std::chrono::steady_clock::now(); };
  const FilesProgress progress_text(clock);
  const std::vector<SyncedFile> files = SyncFiles(
      options, *actions, line.dry_run ? SyncMode::kMeasure : SyncMode::kSync, clock,
      [&](const SyncFilesProgress& now) { progress.Show(progress_text.Of(now)); }, stop);
  return ResultOf(line, files, /*every_file=*/true);
}

}  // namespace virt_reclaim
