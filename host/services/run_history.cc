#include "host/services/run_history.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/io.h"
#include "base/status.h"
#include "host/services/json_fields.h"

namespace virt_reclaim {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr int kRunVersion = 1;
constexpr size_t kMaxFileBytes = size_t{64} << 10;
constexpr size_t kMostJobs = 100;  // more are not ours

std::string DirectoryOf(const std::string& state_directory) {
  return absl::StrCat(state_directory, "/runs");
}

// False: it says nothing that we know.
bool Read(const std::string& path, RunRecord& record) {
  const auto text = ReadFile(path, kMaxFileBytes);
  if (!text.ok()) return false;
  const OrderedJson json = OrderedJson::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("schema_version") ||
      json["schema_version"] != kRunVersion)
    return false;
  record.success = TrueField(json, "success");
  const auto freed = json.find("freed_bytes");
  if (freed != json.end() && freed->is_number()) record.freed = freed->get<int64_t>();
  return absl::ParseTime(absl::RFC3339_full, TextField(json, "ended"), &record.ended, nullptr);
}

}  // namespace

std::vector<RunRecord> ReadRuns(const std::string& state_directory) {
  std::vector<RunRecord> records;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(DirectoryOf(state_directory), error), end;
       !error && entry != end && records.size() < kMostJobs; entry.increment(error)) {
    RunRecord record;
    record.job = entry->path().stem().string();
    if (entry->path().extension() == ".json" && Read(entry->path().string(), record))
      records.push_back(std::move(record));
  }
  std::sort(records.begin(), records.end(),
            [](const RunRecord& a, const RunRecord& b) { return a.job < b.job; });
  return records;
}

absl::Status WriteRun(const std::string& state_directory, const RunRecord& record) {
  VR_RETURN_IF_ERROR(MakeDirectories(DirectoryOf(state_directory)));
  const OrderedJson json = {
      {"schema_version", kRunVersion},
      {"ended", absl::FormatTime(absl::RFC3339_full, record.ended, absl::UTCTimeZone())},
      {"success", record.success},
      {"freed_bytes", record.freed}};
  return WriteFileDurably(absl::StrCat(DirectoryOf(state_directory), "/", record.job, ".json"),
                          json.dump(1) + "\n", 0600);
}

}  // namespace virt_reclaim
