#include "host/services/migration_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/handle.h"
#include "base/io.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "host/services/json_fields.h"
#include "host/services/state_path.h"

namespace virt_reclaim {
namespace {

using nlohmann::json;

constexpr int kJournalVersion = 1;
constexpr size_t kMaxJournalBytes = size_t{4} << 20;
constexpr size_t kMaxXmlFileBytes = size_t{4} << 20;

json ToJson(const MigrationRecord& record) {
  json line = {{"schema_version", kJournalVersion},
               {"step", std::string(Name(record.step))},
               {"time", absl::FormatTime(absl::RFC3339_full, record.time, absl::UTCTimeZone())}};
  if (!record.detail.empty()) line["detail"] = record.detail;
  if (!record.before_digest.empty()) line["before_sha256"] = record.before_digest;
  if (!record.after_digest.empty()) line["after_sha256"] = record.after_digest;
  if (record.was_running) line["was_running"] = true;
  if (record.had_agent) line["had_agent"] = true;
  if (record.stop_guest) line["stop_guest"] = true;
  if (record.may_power_off) line["may_power_off"] = true;
  for (const ExpectedMount& mount : record.mounts) {
    line["mounts"].push_back({{"mount_point", mount.mount_point},
                              {"type", mount.type},
                              {"uuid", mount.uuid},
                              {"image", mount.image},
                              {"root", mount.root}});
  }
  return line;
}

std::optional<MigrationRecord> FromJson(const std::string& text) {
  const json line = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!line.is_object() || line.value("schema_version", 0) != kJournalVersion) return std::nullopt;
  const auto step = MigrationStepOf(TextField(line, "step"));
  MigrationRecord record;
  if (!step || !absl::ParseTime(absl::RFC3339_full, TextField(line, "time"), &record.time, nullptr))
    return std::nullopt;
  record.step = *step;
  record.detail = TextField(line, "detail");
  record.before_digest = TextField(line, "before_sha256");
  record.after_digest = TextField(line, "after_sha256");
  record.was_running = TrueField(line, "was_running");
  record.had_agent = TrueField(line, "had_agent");
  record.stop_guest = TrueField(line, "stop_guest");
  record.may_power_off = TrueField(line, "may_power_off");
  if (!line.contains("mounts") || !line["mounts"].is_array()) return record;
  for (const json& mount : line["mounts"]) {
    if (!mount.is_object()) return std::nullopt;
    record.mounts.push_back({TextField(mount, "mount_point"), TextField(mount, "type"),
                             TextField(mount, "uuid"), TextField(mount, "image"),
                             TextField(mount, "root")});
  }
  return record;
}

absl::StatusOr<std::vector<std::string>> Entries(const std::string& directory) {
  const Handle<DIR, closedir> dir(opendir(directory.c_str()));
  if (dir == nullptr) return ErrnoStatus(errno, absl::StrCat("open '", directory, "'"));
  std::vector<std::string> names;
  while (const dirent* entry = readdir(dir.get())) {
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

// Its guest could not be prepared: libvirt never heard of it, and the one before is in force.
bool CameToNothing(const std::vector<MigrationRecord>& journal) {
  return journal.back().step == MigrationStep::kUndone &&
         std::none_of(journal.begin(), journal.end(), [](const MigrationRecord& record) {
           return record.step == MigrationStep::kDefining;
         });
}

std::string NumberName(size_t number) { return absl::StrFormat("%04d", number); }

}  // namespace

absl::StatusOr<std::string> StoredMigration::OldXml() const {
  return ReadFile(old_xml_path(), kMaxXmlFileBytes);
}

absl::StatusOr<std::string> StoredMigration::NewXml() const {
  return ReadFile(directory_ + "/new.xml", kMaxXmlFileBytes);
}

absl::Status StoredMigration::Append(MigrationRecord record) {
  const std::string path = directory_ + "/journal.jsonl";
  // A line that was cut off stays as it is, on a line of its own: readers skip it.
  std::string line =
      absl::StrCat(ToJson(record).dump(-1, ' ', false, json::error_handler_t::replace), "\n");
  UniqueFd fd(open(path.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("open '", path, "'"));
  char last = '\n';
  const off_t end = lseek(fd.get(), 0, SEEK_END);
  if (end > 0 && pread(fd.get(), &last, 1, end - 1) == 1 && last != '\n') line.insert(0, "\n");
  size_t done = 0;
  while (done < line.size()) {
    const ssize_t n = write(fd.get(), line.data() + done, line.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, absl::StrCat("write '", path, "'"));
    done += static_cast<size_t>(n);
  }
  if (fsync(fd.get()) != 0) return ErrnoStatus(errno, absl::StrCat("fsync '", path, "'"));
  if (end == 0) VR_RETURN_IF_ERROR(SyncDirectory(directory_));
  journal_.push_back(std::move(record));
  return absl::OkStatus();
}

MigrationStore::MigrationStore(const std::string& state_directory, const std::string& uri)
    : directory_(StatePath(state_directory, "migrate", uri)) {}

absl::StatusOr<StoredMigration> MigrationStore::Begin(const std::string& uuid,
                                                      const std::string& old_xml,
                                                      const std::string& new_xml,
                                                      MigrationRecord begun) const {
  const std::string domain = absl::StrCat(directory_, "/", uuid);
  VR_RETURN_IF_ERROR(MakeDirectoriesDurably(domain));
  VR_ASSIGN_OR_RETURN(const std::vector<std::string> numbers, Entries(domain));
  size_t number = 0;
  for (const std::string& name : numbers) {
    size_t value = 0;
    if (absl::SimpleAtoi(name, &value)) number = std::max(number, value);
  }
  StoredMigration migration;
  migration.directory_ = absl::StrCat(domain, "/", NumberName(number + 1));
  VR_RETURN_IF_ERROR(MakeDirectoriesDurably(migration.directory_));
  VR_RETURN_IF_ERROR(WriteFileDurably(migration.old_xml_path(), old_xml, 0600));
  VR_RETURN_IF_ERROR(WriteFileDurably(migration.directory_ + "/new.xml", new_xml, 0600));
  VR_RETURN_IF_ERROR(migration.Append(std::move(begun)));
  return migration;
}

absl::StatusOr<std::optional<StoredMigration>> MigrationStore::Latest(
    const std::string& uuid) const {
  const auto numbers = Entries(absl::StrCat(directory_, "/", uuid));
  if (absl::IsNotFound(numbers.status())) return std::nullopt;
  if (!numbers.ok()) return numbers.status();
  for (auto name = numbers->rbegin(); name != numbers->rend(); ++name) {
    StoredMigration migration;
    migration.directory_ = absl::StrCat(directory_, "/", uuid, "/", *name);
    const std::string path = migration.directory_ + "/journal.jsonl";
    const auto text = ReadFile(path, kMaxJournalBytes);
    // Killed before its first line was there: nothing had been done yet.
    if (absl::IsNotFound(text.status())) continue;
    if (!text.ok()) return text.status();
    const std::vector<std::string> lines = absl::StrSplit(*text, '\n');
    for (size_t i = 0; i < lines.size(); ++i) {
      if (lines[i].empty()) continue;
      auto record = FromJson(lines[i]);
      if (record) {
        migration.journal_.push_back(*std::move(record));
        continue;
      }
      // What a power cut left of a line does not parse as JSON; anything else is not ours to guess.
      if (json::accept(lines[i]))
        return absl::DataLossError(
            absl::StrCat("'", path, "', line ", i + 1, ": not known to this version"));
    }
    if (!migration.journal_.empty() && !CameToNothing(migration.journal_)) return migration;
  }
  return std::nullopt;
}

absl::StatusOr<std::vector<std::string>> MigrationStore::Domains() const {
  auto names = Entries(directory_);
  if (absl::IsNotFound(names.status())) return std::vector<std::string>();
  return names;
}

}  // namespace virt_reclaim
