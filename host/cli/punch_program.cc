#include "host/cli/punch_program.h"

#include <chrono>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/byte_size.h"
#include "base/escape.h"
#include "base/io.h"
#include "base/status.h"
#include "host/cli/files_progress.h"
#include "host/cli/journal_output.h"
#include "host/cli/json_parts.h"
#include "host/cli/outcome_output.h"
#include "host/cli/text_table.h"
#include "host/commands/punch_files.h"

namespace virt_reclaim {
namespace {

using Align = TextTable::Align;

constexpr size_t kMaxListBytes = size_t{256} << 20;  // a million paths

// The names in a list: one a line, or each with a NUL behind it.
absl::StatusOr<std::vector<std::string>> ReadList(const std::string& path, bool null) {
  VR_ASSIGN_OR_RETURN(const std::string text,
                      ReadFile(path == "-" ? "/dev/stdin" : path, kMaxListBytes));
  return std::vector<std::string>(absl::StrSplit(text, null ? '\0' : '\n', absl::SkipEmpty()));
}

absl::StatusOr<PunchFilesOptions> PunchOptionsOf(const CommandLine& line) {
  PunchFilesOptions options;
  options.paths = line.files;
  if (!line.files_from.empty()) {
    VR_ASSIGN_OR_RETURN(const std::vector<std::string> list, ReadList(line.files_from, line.null));
    options.paths.insert(options.paths.end(), list.begin(), list.end());
  }
  options.find = {line.recursive, line.one_file_system};
  options.engine.live = line.live;
  options.engine.unwritten = line.unwritten;
  options.engine.release = !line.no_release;
  options.engine.keep_mtime = !line.new_mtime;
  options.engine.min_hole_bytes = line.min_hole;
  options.engine.max_bytes_per_second = line.max_rate;
  options.idle = line.idle;
  return options;
}

absl::string_view Name(punch::Way way) {
  switch (way) {
    case punch::Way::kPlain:
      return "plain";
    case punch::Way::kAtomic:
      return "atomic";
    case punch::Way::kDevice:
      return "device";
  }
  return "unknown";
}

Json FileJson(const PunchedFile& file) {
  const punch::PunchResult& result = file.result;
  Json json = {{"path", Printable(file.path)}};
  AddOutcome(json, file.outcome);
  json["way"] = file.way ? Json(std::string(Name(*file.way))) : Json(nullptr);
  json["size_bytes"] = file.size;
  json["read_bytes"] = result.read_bytes;
  json["zero_bytes"] = result.zero_bytes;
  json["punched_bytes"] = result.punched_bytes;
  json["holes"] = result.holes;
  json["shared_bytes"] = result.shared_bytes;
  json["moved_bytes"] = result.moved_bytes;
  json["freed_bytes"] = result.freed_bytes ? Json(*result.freed_bytes) : Json(nullptr);
  json["unwritten_bytes"] = file.skipped.unwritten_bytes;
  json["compressed_bytes"] = file.skipped.compressed_bytes;
  json["compressed_cluster_bytes"] = file.skipped.compressed_cluster_bytes;
  json["interrupted"] = result.interrupted;
  json["mtime_kept"] = result.mtime_kept;
  return json;
}

std::string OutputJson(const std::vector<PunchedFile>& files, bool dry_run) {
  const PunchTotal total = TotalOf(files);
  Json json = {{"schema_version", 1}, {"message_type", dry_run ? "punch-plan" : "punch"}};
  json["total"] = {{"files", total.files},
                   {"read_bytes", total.read},
                   {"zero_bytes", total.zero},
                   {"punched_bytes", total.punched},
                   {"freed_bytes", total.freed_known ? Json(total.freed) : Json(nullptr)}};
  json["files"] = Json::array();
  for (const PunchedFile& file : files) json["files"].push_back(FileJson(file));
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string OutputText(const std::vector<PunchedFile>& files, bool dry_run) {
  const PunchTotal total = TotalOf(files);
  std::string text =
      absl::StrCat("total: ", total.files, total.files == 1 ? " file" : " files", ", read ",
                   FormatByteSize(total.read),
                   dry_run ? absl::StrCat(", zeroes in blocks ", FormatByteSize(total.zero))
                           : absl::StrCat(", punched ", FormatByteSize(total.punched), ", freed ",
                                          total.freed_known ? FormatByteSize(total.freed) : "-"),
                   "\n");
  TextTable table;
  table.AddColumn("FILE");
  for (const char* title : {"READ", "ZERO", "PUNCHED", "FREED"})
    table.AddColumn(title, Align::kRight);
  table.AddColumn("RESULT");
  size_t rows = 0;
  for (const PunchedFile& file : files) {
    const bool done = file.outcome.kind == OutcomeKind::kDone;
    // Of a whole directory only what there is something to say of.
    if (done && !file.outcome.asked_for && file.result.zero_bytes == 0) continue;
    ++rows;
    const bool looked = done || file.result.read_bytes > 0;
    const auto size = [&](uint64_t bytes) { return looked ? FormatByteSize(bytes) : "-"; };
    table.AddRow({Printable(file.path), size(file.result.read_bytes), size(file.result.zero_bytes),
                  dry_run ? "-" : size(file.result.punched_bytes),
                  file.result.freed_bytes ? FormatByteSize(*file.result.freed_bytes) : "-",
                  OutcomeText(file.outcome)});
  }
  if (rows > 0) absl::StrAppend(&text, "\n", table.Render());
  return text;
}

}  // namespace

ProgramResult RunPunch(const CommandLine& line, ProgressLine& progress,
                       const std::stop_token& stop) {
  const auto options = PunchOptionsOf(line);
  if (!options.ok()) return FailWith(options.status(), line.json);
  const auto actions = FindPunchActions(*options, stop);
  if (!actions.ok()) return FailWith(actions.status(), line.json);
  const punch::SteadyClock clock = [] { return std::chrono::steady_clock::now(); };
  const FilesProgress progress_text(clock);
  const std::vector<PunchedFile> files = PunchFiles(
      *options, *actions, line.dry_run ? PunchMode::kMeasure : PunchMode::kPunch, clock,
      [&](const PunchFilesProgress& now) { progress.Show(progress_text.Of(now)); }, stop);
  ProgramResult result;
  std::vector<Outcome> outcomes;
  for (const PunchedFile& file : files) outcomes.push_back(file.outcome);
  result.status = ExitStatusOf(outcomes);
  result.out = line.json ? OutputJson(files, line.dry_run) : OutputText(files, line.dry_run);
  if (GoesToJournal(line)) AddResults(files, line.json, result);
  return result;
}

}  // namespace virt_reclaim
