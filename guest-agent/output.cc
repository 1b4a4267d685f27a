// What the commands print (cli.h): a table and sentences for people, JSON for programs. Pure.
#include <array>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/byte_size.h"
#include "base/escape.h"
#include "guest-agent/cli.h"
#include "guest-agent/json.h"

namespace virt_reclaim::agent {
namespace {

bool IsShown(const Filesystem& filesystem, bool all) {
  return all || filesystem.verdict.obstacle != Obstacle::kNoDevice;
}

// "vda1 > vda", "dm-0 > sda2 > sda": for one leg each; a fork shows all names in the order they
// were found.
std::string Way(const DeviceChain& chain) {
  std::vector<std::string> names;
  for (const BlockDevice& device : chain.devices) names.push_back(Printable(device.name));
  return names.empty() ? "-" : absl::StrJoin(names, " > ");
}

absl::string_view ResultName(TrimResult result) {
  switch (result) {
    case TrimResult::kDone:
      return "done";
    case TrimResult::kSkipped:
      return "skipped";
    case TrimResult::kFailed:
      return "failed";
    case TrimResult::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

void WriteDevice(const BlockDevice& device, JsonWriter& json) {
  json.BeginObject();
  json.Field("name", device.name);
  json.Field("device_number", DeviceNumberString(device.number));
  json.Field("kind", DeviceKindName(device.kind));
  json.Strings("parents", device.parents);
  json.Field("size_bytes", device.size_bytes);
  if (device.kind == DeviceKind::kPartition) json.Field("start_bytes", device.start_bytes);
  json.Field("discard_max_bytes", device.discard_max_bytes);
  json.Field("discard_granularity_bytes", device.discard_granularity_bytes);
  const std::pair<absl::string_view, const std::string&> names[] = {
      {"dm_name", device.dm_name},
      {"dm_uuid", device.dm_uuid},
      {"md_level", device.md_level},
      {"serial", device.serial},
      {"wwid", device.wwid},
      {"bus_path", device.bus_path},
      {"scsi_address", device.scsi_address},
      {"backing_file", device.backing_file}};
  for (const auto& [name, value] : names) {
    if (!value.empty()) json.Field(name, value);
  }
  if (device.ata_port != 0) json.Field("ata_port", uint64_t{device.ata_port});
  json.EndObject();
}

void WriteVerdict(const Verdict& verdict, JsonWriter& json) {
  json.Field("obstacle", ObstacleName(verdict.obstacle));
  json.Field("obstacle_device", verdict.device);
}

}  // namespace

std::string ListTable(const FilesystemList& list, bool all) {
  std::vector<std::array<std::string, 6>> rows = {
      {"MOUNTPOINT", "TYPE", "SIZE", "USED", "DEVICES", "TRIM"}};
  for (const Filesystem& filesystem : list.filesystems) {
    if (!IsShown(filesystem, all)) continue;
    const bool possible = filesystem.verdict.obstacle == Obstacle::kNone;
    rows.push_back(
        {Printable(filesystem.mount_points.front()), Printable(filesystem.type),
         FormatByteSize(filesystem.size_bytes), FormatByteSize(filesystem.used_bytes),
         Way(filesystem.chain),
         possible ? "yes" : absl::StrCat("no: ", Printable(DescribeObstacle(filesystem.verdict)))});
    if (filesystem.verdict.obstacle == Obstacle::kPartial) rows.back()[5].replace(0, 2, "partly");
  }
  std::array<size_t, 6> widths = {};
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      const bool number = i == 2 || i == 3;
      const std::string padding(i + 1 == row.size() ? 0 : widths[i] - row[i].size(), ' ');
      absl::StrAppend(&out, i == 0 ? "" : "  ", number ? padding : "", row[i],
                      number ? "" : padding);
    }
    out += '\n';
  }
  return out;
}

std::string ListJson(const FilesystemList& list, bool all) {
  JsonWriter json;
  json.BeginObject();
  json.Field("schema_version", kSchemaVersion);
  json.Key("filesystems");
  json.BeginArray();
  for (const Filesystem& filesystem : list.filesystems) {
    if (!IsShown(filesystem, all)) continue;
    json.BeginObject();
    json.Field("source", filesystem.source);
    json.Field("type", filesystem.type);
    json.Field("uuid", filesystem.uuid);
    json.Strings("mount_points", filesystem.mount_points);
    json.Flag("read_only", filesystem.read_only);
    json.Field("size_bytes", filesystem.size_bytes);
    json.Field("used_bytes", filesystem.used_bytes);
    json.Field("free_bytes", filesystem.free_bytes);
    WriteVerdict(filesystem.verdict, json);
    json.Key("devices");
    json.BeginArray();
    for (const BlockDevice& device : filesystem.chain.devices) WriteDevice(device, json);
    json.EndArray();
    json.EndObject();
  }
  json.EndArray();
  json.Flag("truncated", list.truncated);
  json.EndObject();
  return json.Take();
}

std::string TrimJson(const std::vector<TrimLine>& lines, const TrimTotals& totals, bool dry_run) {
  JsonWriter json;
  json.BeginObject();
  json.Field("schema_version", kSchemaVersion);
  json.Flag("dry_run", dry_run);
  json.Key("filesystems");
  json.BeginArray();
  for (const TrimLine& line : lines) {
    json.BeginObject();
    json.Field("mount_point", line.target.mount_point);
    json.Field("source", line.target.filesystem.source);
    json.Field("type", line.target.filesystem.type);
    json.Field("result", dry_run && line.finished.result == TrimResult::kDone
                             ? "planned"
                             : ResultName(line.finished.result));
    json.Field("trimmed_bytes", line.finished.progress.trimmed_bytes);
    json.Field("chunks", line.finished.progress.chunks);
    json.Field("elapsed_ns", static_cast<uint64_t>(line.finished.elapsed.count()));
    json.Field("error_number", static_cast<uint64_t>(line.finished.error_number));
    json.Field("error_name",
               line.finished.error_number == 0 ? "" : ErrnoName(line.finished.error_number));
    WriteVerdict(line.finished.verdict, json);
    json.Strings("disks", line.target.filesystem.Disks());
    json.EndObject();
  }
  json.EndArray();
  json.Field("done", totals.done);
  json.Field("skipped", totals.skipped);
  json.Field("failed", totals.failed);
  json.Flag("cancelled", totals.cancelled);
  json.Field("elapsed_ns", static_cast<uint64_t>(totals.elapsed.count()));
  json.EndObject();
  return json.Take();
}

std::string TrimSentence(const TrimLine& line, bool dry_run) {
  const std::string where = Printable(line.target.mount_point);
  const std::string source = Printable(line.target.filesystem.source);
  if (dry_run) return absl::StrCat(where, ": 0 B (dry run) trimmed on ", source, "\n");
  const uint64_t bytes = line.finished.progress.trimmed_bytes;
  return absl::StrCat(where, ": ", FormatByteSize(bytes), " (", bytes, " bytes) trimmed on ",
                      source, "\n");
}

std::string TrimWarning(const TrimLine& line) {
  const TrimFinished& finished = line.finished;
  const std::string where = Printable(line.target.mount_point);
  const Verdict& verdict = finished.verdict;
  const bool known = verdict.obstacle != Obstacle::kNone;
  const std::string reason = known ? Printable(DescribeObstacle(verdict)) : "";
  switch (finished.result) {
    case TrimResult::kDone:
      return "";
    case TrimResult::kSkipped:
      return absl::StrCat(where, ": skipped: ", reason);
    case TrimResult::kFailed:
      return absl::StrCat(where, ": cannot trim: ", strerror(finished.error_number), " (",
                          ErrnoName(finished.error_number), ")", known ? ": " : "", reason);
    case TrimResult::kCancelled:
      return absl::StrCat(where, ": stopped after ",
                          FormatByteSize(finished.progress.trimmed_bytes));
  }
  return "";
}

ExitStatus TrimExitStatus(const std::vector<TrimLine>& lines, const TrimTotals& totals) {
  if (totals.cancelled) return kExitInterrupted;
  uint32_t failed = totals.failed;
  for (const TrimLine& line : lines) {
    if (line.finished.result == TrimResult::kSkipped && line.target.named) ++failed;
  }
  if (failed == 0) return kExitDone;
  return totals.done > 0 ? kExitSomeFailed : kExitError;
}

}  // namespace virt_reclaim::agent
