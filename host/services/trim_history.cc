#include "host/services/trim_history.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/io.h"
#include "base/status.h"
#include "host/services/json_fields.h"
#include "host/services/state_path.h"

namespace virt_reclaim {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr int kHistoryVersion = 1;
constexpr size_t kMaxFileBytes = size_t{4} << 20;

template <typename T>
OrderedJson OrNull(const std::optional<T>& value) {
  return value ? OrderedJson(*value) : OrderedJson(nullptr);
}

OrderedJson ToJson(const TrimRecord& record) {
  OrderedJson json = {
      {"began", absl::FormatTime(absl::RFC3339_full, record.began, absl::UTCTimeZone())},
      {"seconds", absl::ToDoubleSeconds(record.took)},
      {"way", record.way},
      {"status", record.status},
      {"whole", record.whole},
      {"complete", record.complete},
      {"next", nullptr},
      {"expected_bytes", OrNull(record.expected)},
      {"trimmed_bytes", record.trimmed},
      {"freed_bytes", OrNull(record.freed)},
      {"disks", OrderedJson::array()}};
  if (record.next) {
    json["next"] = {{"mount_point", Printable(record.next->mount_point)},
                    {"uuid", Printable(record.next->uuid)},
                    {"offset_bytes", record.next->offset},
                    {"after", record.next->after}};
  }
  for (const TrimRecordDisk& disk : record.disks) {
    json["disks"].push_back({{"target", Printable(disk.target)},
                             {"image", Printable(disk.image)},
                             {"trimmed_bytes", OrNull(disk.trimmed)},
                             {"freed_bytes", OrNull(disk.freed)},
                             {"allocation_bytes", OrNull(disk.allocation)}});
  }
  return json;
}

template <typename T>
std::optional<T> Number(const OrderedJson& json, const char* key) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_number()) return std::nullopt;
  return found->get<T>();
}

std::optional<TrimRecord> RecordOf(const OrderedJson& json) {
  if (!json.is_object()) return std::nullopt;
  TrimRecord record;
  if (!absl::ParseTime(absl::RFC3339_full, TextField(json, "began"), &record.began, nullptr))
    return std::nullopt;
  record.took = absl::Seconds(Number<double>(json, "seconds").value_or(0));
  record.way = TextField(json, "way");
  record.status = TextField(json, "status");
  record.whole = TrueField(json, "whole");
  record.complete = record.whole || TrueField(json, "complete");
  if (const auto next = json.find("next"); next != json.end() && next->is_object())
    record.next = {TextField(*next, "mount_point"), TextField(*next, "uuid"),
                   Number<uint64_t>(*next, "offset_bytes").value_or(0), TrueField(*next, "after")};
  record.expected = Number<uint64_t>(json, "expected_bytes");
  record.trimmed = Number<uint64_t>(json, "trimmed_bytes").value_or(0);
  record.freed = Number<int64_t>(json, "freed_bytes");
  if (!json.contains("disks") || !json["disks"].is_array()) return record;
  for (const OrderedJson& disk : json["disks"]) {
    if (!disk.is_object()) return std::nullopt;
    record.disks.push_back({TextField(disk, "target"), TextField(disk, "image"),
                            Number<uint64_t>(disk, "trimmed_bytes"),
                            Number<int64_t>(disk, "freed_bytes"),
                            Number<uint64_t>(disk, "allocation_bytes")});
  }
  return record;
}

std::string PathOf(const std::string& directory, const std::string& uuid) {
  return absl::StrCat(directory, "/", uuid, ".json");
}

}  // namespace

TrimHistory::TrimHistory(const std::string& state_directory, absl::string_view uri)
    : directory_(StatePath(state_directory, "history", uri)) {}

std::vector<TrimRecord> TrimHistory::Read(const std::string& uuid) const {
  std::vector<TrimRecord> records;
  const auto text = ReadFile(PathOf(directory_, uuid), kMaxFileBytes);
  if (!text.ok()) return records;
  const OrderedJson json = OrderedJson::parse(*text, nullptr, /*allow_exceptions=*/false);
  const bool known = json.is_object() && json.contains("schema_version") &&
                     json["schema_version"] == kHistoryVersion && json.contains("trims") &&
                     json["trims"].is_array();
  if (!known) return records;
  for (const OrderedJson& trim : json["trims"]) {
    if (auto record = RecordOf(trim)) records.push_back(*std::move(record));
  }
  return records;
}

absl::Status TrimHistory::Append(const std::string& uuid, const std::string& name,
                                 const TrimRecord& record) const {
  VR_RETURN_IF_ERROR(MakeDirectories(directory_));
  std::vector<TrimRecord> records = Read(uuid);
  if (!records.empty() && records.back().began == record.began) records.pop_back();
  records.push_back(record);
  const size_t first = records.size() - std::min(records.size(), kMostRecords);
  OrderedJson json = {{"schema_version", kHistoryVersion},
                      {"domain", Printable(name)},
                      {"trims", OrderedJson::array()}};
  for (size_t i = first; i < records.size(); ++i) json["trims"].push_back(ToJson(records[i]));
  // Right after a trim a sync of the directory has all its holes to write down. Without it, a power
  // cut may leave the history as of the trim before.
  return ReplaceFile(PathOf(directory_, uuid),
                     json.dump(1, ' ', false, OrderedJson::error_handler_t::replace) + "\n", 0600);
}

}  // namespace virt_reclaim
