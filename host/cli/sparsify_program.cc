#include "host/cli/sparsify_program.h"

#include <unistd.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/byte_size.h"
#include "base/escape.h"
#include "host/cli/hints.h"
#include "host/cli/journal_output.h"
#include "host/cli/json_parts.h"
#include "host/cli/outcome_output.h"
#include "host/cli/text_table.h"
#include "host/commands/sparsify_copy.h"
#include "host/commands/sparsify_images.h"

namespace virt_reclaim {
namespace {

using Align = TextTable::Align;

SparsifyImagesOptions SparsifyOptionsOf(const CommandLine& line) {
  SparsifyImagesOptions options;
  options.targets = line.domains;
  options.all_off = line.all_off;
  options.storage = line.storage;
  options.format = line.image_format;
  options.allow_thick = line.allow_thick;
  options.with_bitmaps = line.with_bitmaps;
  options.replay = line.replay;
  options.choice = SparsifyEngineOf(line.engine);
  options.engine.worker.read.strict = line.strict;
  options.engine.worker.read.take_swap = !line.keep_swap;
  options.engine.least_bytes = line.least_freed;
  return options;
}

std::string ProgressText(const SparsifyTargetProgress& now) {
  std::string text = absl::StrCat(now.target, " of ", now.targets);
  if (now.disks.total_bytes > 0)
    absl::StrAppend(&text, ", ", now.disks.done_bytes * 100 / now.disks.total_bytes, "%");
  return absl::StrCat(text, ": ", now.name);
}

Json DiskJson(const SparsifyDisk& disk, const sparsify::DiskResult* result) {
  Json json = {{"target", Printable(disk.target)},
               {"image", Printable(disk.spec.path)},
               {"format", Printable(disk.spec.format)},
               {"capacity_bytes", disk.header.capacity}};
  if (result == nullptr) return json;
  json["granularity_bytes"] = result->granularity;
  json["allocation_before_bytes"] = OrNull(result->before);
  json["allocation_after_bytes"] = OrNull(result->after);
  json["reclaimable_bytes"] = result->reclaimable_bytes;
  json["given_back_bytes"] = result->given_back_bytes;
  json["shared_bytes"] = result->shared_bytes;
  json["moved_bytes"] = result->released.moved_bytes;
  json["held_bytes"] = result->released.held_bytes;
  json["freed_bytes"] = OrNull(result->freed_bytes());
  return json;
}

Json FilesystemJson(const SparsifiedTarget& target, size_t index) {
  const sparsify::FilesystemResult& filesystem = target.result->filesystems[index];
  const freemap::Filesystem& found = filesystem.found;
  const auto appliance = target.appliance.find(index);
  const bool trimmed = appliance != target.appliance.end();
  const bool refused = found.refusal != freemap::Refusal::kNone;
  const bool native = !refused && !trimmed;
  return {{"target", Printable(target.disks[found.disk].target)},
          {"place", Printable(found.place)},
          {"type", Printable(found.type)},
          {"label", Printable(found.facts.label)},
          {"uuid", Printable(found.facts.uuid)},
          {"engine", trimmed ? "libguestfs" : "native"},
          {"size_bytes", found.facts.size_bytes},
          {"free_bytes", refused ? Json(nullptr) : Json(found.free_bytes)},
          {"reclaimable_bytes", refused ? Json(nullptr) : Json(filesystem.reclaimable_bytes)},
          {"given_back_bytes", native ? Json(filesystem.given_back_bytes) : Json(nullptr)},
          {"refusal", refused ? Json(freemap::RefusalName(found.refusal)) : Json(nullptr)},
          {"refusal_text", Printable(found.reason)},
          {"appliance_error", trimmed && !appliance->second.ok()
                                  ? Json(Printable(appliance->second.message()))
                                  : Json(nullptr)}};
}

Json TargetJson(const SparsifiedTarget& target) {
  Json json = {{"name", Printable(target.name)}, {"kind", target.is_domain ? "domain" : "image"}};
  AddOutcome(json, target.outcome);
  json["disks"] = Json::array();
  for (size_t i = 0; i < target.disks.size(); ++i) {
    const bool known = target.result && i < target.result->disks.size();
    json["disks"].push_back(DiskJson(target.disks[i], known ? &target.result->disks[i] : nullptr));
  }
  if (!target.output.empty()) {
    json["output"] = Printable(target.output);
    json["output_allocation_bytes"] = OrNull(target.output_bytes);
  }
  if (!target.output.empty() || !target.lost.empty()) json["not_kept"] = target.lost;
  json["filesystems"] = Json::array();
  if (!target.result) return json;
  for (size_t i = 0; i < target.result->filesystems.size(); ++i)
    json["filesystems"].push_back(FilesystemJson(target, i));
  return json;
}

std::string OutputJson(const std::vector<SparsifiedTarget>& targets, bool dry_run) {
  const SparsifyTotal total = TotalOf(targets);
  Json json = {{"schema_version", 1}, {"message_type", dry_run ? "sparsify-plan" : "sparsify"}};
  json["total"] = {{"targets", total.targets},
                   {"allocation_before_bytes", total.before},
                   {"reclaimable_bytes", total.reclaimable},
                   {"given_back_bytes", total.given_back},
                   {"freed_bytes", total.freed}};
  json["targets"] = Json::array();
  for (const SparsifiedTarget& target : targets) json["targets"].push_back(TargetJson(target));
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string FilesystemText(const SparsifiedTarget& target, size_t index) {
  const freemap::Filesystem& found = target.result->filesystems[index].found;
  const auto appliance = target.appliance.find(index);
  if (appliance != target.appliance.end()) {
    return appliance->second.ok()
               ? "by libguestfs"
               : absl::StrCat("left alone: libguestfs: ", Printable(appliance->second.message()));
  }
  if (found.refusal == freemap::Refusal::kNone) return "";
  return absl::StrCat("left alone: ", Printable(found.reason));
}

// What was found in it: one line for each filesystem. What came free of one is what was given back
// of it.
void AddFilesystems(const SparsifiedTarget& target, bool dry_run, TextTable& table) {
  for (size_t i = 0; i < target.result->filesystems.size(); ++i) {
    const sparsify::FilesystemResult& filesystem = target.result->filesystems[i];
    const freemap::Filesystem& found = filesystem.found;
    const bool refused = found.refusal != freemap::Refusal::kNone;
    const std::string disk = Printable(target.disks[found.disk].target);
    table.AddRow(
        {absl::StrCat("  ", disk.empty() || found.mapped ? "" : disk + " ", Printable(found.place)),
         found.type.empty() ? "-" : Printable(found.type),
         found.facts.size_bytes == 0 ? "-" : FormatByteSize(found.facts.size_bytes),
         refused ? "-" : FormatByteSize(found.free_bytes),
         refused ? "-" : FormatByteSize(filesystem.reclaimable_bytes),
         refused || dry_run || target.appliance.contains(i)
             ? "-"
             : FormatByteSize(filesystem.given_back_bytes),
         FilesystemText(target, i)});
  }
}

std::string OutputText(const std::vector<SparsifiedTarget>& targets, bool dry_run) {
  const SparsifyTotal total = TotalOf(targets);
  std::string text =
      absl::StrCat("total: ", total.targets, total.targets == 1 ? " target" : " targets",
                   ", reclaimable ", FormatByteSize(total.reclaimable),
                   dry_run ? "" : absl::StrCat(", freed ", FormatByteSize(total.freed)), "\n");
  if (targets.empty()) return text;
  TextTable table;
  table.AddColumn("TARGET");
  table.AddColumn("TYPE");
  for (const char* title : {"SIZE", "FREE", "RECLAIMABLE", "FREED"})
    table.AddColumn(title, Align::kRight);
  table.AddColumn("RESULT");
  for (const SparsifiedTarget& target : targets) {
    const size_t known = target.result ? target.result->disks.size() : 0;
    for (size_t i = 0; i < target.disks.size() && i < known; ++i) {
      const sparsify::DiskResult& disk = target.result->disks[i];
      const auto freed = disk.freed_bytes();
      const std::string name =
          absl::StrCat(Printable(target.name), target.is_domain ? "/" : "",
                       target.is_domain ? Printable(target.disks[i].target) : "");
      table.AddRow({name, Printable(target.disks[i].spec.format), FormatByteSize(disk.size_bytes),
                    "-", FormatByteSize(disk.reclaimable_bytes),
                    freed ? FormatByteSize(*freed) : "-",
                    i == 0 ? OutcomeText(target.outcome) : ""});
    }
    if (known == 0) {
      table.AddRow({Printable(target.name), "-", "-", "-", "-", "-", OutcomeText(target.outcome)});
    } else {
      AddFilesystems(target, dry_run || !target.output.empty(), table);
    }
  }
  absl::StrAppend(&text, "\n", table.Render());
  for (const SparsifiedTarget& target : targets) {
    if (!target.output.empty()) {
      absl::StrAppend(&text, "\ncopy: '", Printable(target.output), "'");
      if (target.output_bytes) absl::StrAppend(&text, ", ", FormatByteSize(*target.output_bytes));
      absl::StrAppend(&text, "\n");
    }
    if (!target.lost.empty()) {
      absl::StrAppend(&text, target.output.empty() ? "\n" : "",
                      "not kept: ", absl::StrJoin(target.lost, ", "), "\n");
    }
  }
  return text;
}

}  // namespace

namespace {

// --output: the source stays as it is.
std::vector<SparsifiedTarget> MakeCopy(const CommandLine& line, const Services& services,
                                       const SparsifyImagesOptions& images, ProgressLine& progress,
                                       const std::stop_token& stop) {
  SparsifyCopyOptions options;
  options.source = line.domains[0];
  options.source_format = images.format;
  options.output = line.copy;
  const char* temporary = getenv("TMPDIR");
  options.temporary_directory = temporary == nullptr || *temporary == '\0' ? "/tmp" : temporary;
  options.choice = images.choice;
  options.replay = images.replay;
  options.engine = images.engine;
  options.estimate = line.dry_run;
  SparsifyTargetProgress now = {options.source, 1, 1, {}};
  return {SparsifyInto(
      services, options,
      [&](const sparsify::SparsifyProgress& made) {
        now.disks = made;
        progress.Show(ProgressText(now));
      },
      stop)};
}

// A new user writes 'sparsify web.qcow2' in the directory of that image.
std::string HintsForFiles(const CommandLine& line) {
  std::string hints;
  for (const std::string& target : line.domains) {
    if (absl::StrContains(target, '/') || access(target.c_str(), F_OK) != 0) continue;
    absl::StrAppend(&hints, "hint: there is a file '", Printable(target), "' here: write '",
                    Printable(ShellQuote(absl::StrCat("./", target))), "' for it\n");
  }
  return hints;
}

}  // namespace

ProgramResult RunSparsify(const CommandLine& line, const Services& services, ProgressLine& progress,
                          const std::stop_token& stop) {
  const SparsifyImagesOptions options = SparsifyOptionsOf(line);
  std::vector<SparsifiedTarget> targets;
  bool nobody = false;
  if (line.copy.empty()) {
    const auto actions = PlanSparsify(services, options, stop);
    if (!actions.ok()) {
      ProgramResult result = FailWith(actions.status(), line.json);
      if (absl::IsNotFound(actions.status()) && !line.json) result.err += HintsForFiles(line);
      return result;
    }
    nobody = actions->empty() && !line.storage.empty();
    targets = ExecuteSparsify(
        services, options, *actions,
        line.dry_run ? sparsify::Mode::kMeasure : sparsify::Mode::kSparsify,
        [&](const SparsifyTargetProgress& now) { progress.Show(ProgressText(now)); }, stop);
  } else {
    targets = MakeCopy(line, services, options, progress, stop);
  }
  ProgramResult result;
  std::vector<Outcome> outcomes;
  for (const SparsifiedTarget& target : targets) outcomes.push_back(target.outcome);
  result.status = ExitStatusOf(outcomes);
  result.out = line.json ? OutputJson(targets, line.dry_run) : OutputText(targets, line.dry_run);
  if (line.all_off && line.storage.empty() && targets.empty() && !line.json)
    result.err = absl::StrCat("no domain is off on '", Printable(services.hypervisor.Uri()), "'\n");
  // A path with a mistake in it would be silent.
  if (nobody && !line.json)
    result.err = absl::StrCat("no domain that was chosen has an image below '",
                              Printable(line.storage), "'\n");
  if (GoesToJournal(line)) AddResults(targets, line.json, result);
  return result;
}

}  // namespace virt_reclaim
