#include "host/cli/config_program.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/escape.h"
#include "host/cli/hints.h"
#include "host/cli/json_parts.h"
#include "host/cli/text_table.h"
#include "host/commands/run.h"
#include "host/policy/read_policy.h"
#include "host/policy/settings.h"

namespace virt_reclaim {
namespace {

using policy::Origin;
using policy::Policy;
using policy::Value;
using policy::Values;

// One line of `config show`.
struct Row {
  std::string section;  // "defaults", "rule 1", "domain web"
  std::string key;
  Value value;
};

std::string Counted(size_t count, absl::string_view one, absl::string_view many) {
  return absl::StrCat(count, " ", count == 1 ? one : many);
}

void Add(const std::string& section, const Values& values, std::vector<Row>& rows) {
  for (const auto& [key, value] : values) rows.push_back({section, key, value});
}

void AddList(const std::string& section, const std::string& key, const policy::List& list,
             std::vector<Row>& rows) {
  if (!list.words.empty())
    rows.push_back({section, key, {absl::StrJoin(list.words, policy::kBetweenWords), list.origin}});
}

// What is said of a key, or what is built in.
template <typename Settings>
Values Whole(const std::vector<policy::SettingSpec<Settings>>& specs, const Values& said) {
  Values values = policy::BuiltIn(specs);
  for (const auto& [key, value] : said) values[key] = value;
  return values;
}

std::vector<Row> RowsOf(const Policy& policy) {
  std::vector<Row> rows;
  Add("limits", Whole(policy::LimitSpecs(), policy.limits), rows);
  Add("defaults", Whole(policy::DomainSpecs(), policy.defaults), rows);
  size_t number = 0;
  for (const policy::Rule& rule : policy.rules) {
    const std::string section = absl::StrCat("rule ", ++number);
    AddList(section, "domains", rule.domains, rows);
    AddList(section, "exclude", rule.exclude, rows);
    AddList(section, "storage", rule.storage, rows);
    Add(section, rule.values, rows);
  }
  number = 0;
  for (const policy::BackupDirectory& backup : policy.backups) {
    const std::string section = absl::StrCat("backups ", ++number);
    rows.push_back({section, "directory", backup.directory});
    AddList(section, "exclude", backup.exclude, rows);
    Add(section, Whole(policy::BackupSpecs(), backup.values), rows);
  }
  return rows;
}

std::string ShowText(const std::vector<Row>& rows) {
  TextTable table;
  for (const char* title : {"SECTION", "KEY", "VALUE", "ORIGIN"}) table.AddColumn(title);
  for (const Row& row : rows) {
    table.AddRow({Printable(row.section), row.key,
                  row.value.text.empty() ? "-" : Printable(row.value.text),
                  TextOf(row.value.origin)});
  }
  return table.Render();
}

Json FilesJson(const Policy& policy) {
  Json files = Json::array();
  for (const std::string& file : policy.files) files.push_back(Text(file));
  return files;
}

std::string ShowJson(const Policy& policy, const std::vector<Row>& rows) {
  Json json = Document("config");
  json["files"] = FilesJson(policy);
  json["settings"] = Json::array();
  for (const Row& row : rows) {
    const Origin& origin = row.value.origin;
    const bool in_file = origin.line > 0;
    json["settings"].push_back(
        {{"section", Text(row.section)},
         {"key", row.key},
         {"value", row.value.text.empty() ? Json(nullptr) : Json(Text(row.value.text))},
         {"origin", Text(origin.file)},
         {"line", in_file ? Json(origin.line) : Json(nullptr)},
         {"column", in_file ? Json(origin.column) : Json(nullptr)}});
  }
  return Print(json);
}

std::string CheckText(const Policy& policy, const std::string& wanted) {
  if (policy.files.empty())
    return absl::StrCat("there is no '", Printable(wanted),
                        "', nor a file in conf.d beside it: what is built in counts\n");
  return absl::StrCat(
      "no mistake in ", Counted(policy.files.size(), "file", "files"), ": ",
      Counted(policy.rules.size(), "rule", "rules"), ", ",
      Counted(policy.backups.size(), "directory of backups", "directories of backups"), "\n");
}

std::string CheckJson(const Policy& policy) {
  Json json = Document("config-check");
  json["files"] = FilesJson(policy);
  json["rules"] = policy.rules.size();
  json["backups"] = policy.backups.size();
  return Print(json);
}

}  // namespace

ProgramResult RunConfig(const CommandLine& line, const WithServices& with_services,
                        const std::stop_token& stop) {
  const auto policy = policy::ReadPolicy(line.config, line.given.contains("--config"));
  if (!policy.ok()) return FailWith(policy.status(), line.json);
  ProgramResult result;
  if (line.verb == Verb::kConfigCheck) {
    result.out = line.json ? CheckJson(*policy) : CheckText(*policy, line.config);
    return result;
  }
  std::vector<Row> rows;
  if (line.domains.empty()) {
    rows = RowsOf(*policy);
  } else {
    absl::StatusOr<std::vector<DomainPolicy>> domains;
    const absl::Status connected = with_services(line, [&](const Services& services) {
      domains = ResolvePolicies(services, *policy, line.domains, stop);
    });
    if (!connected.ok()) {
      result = FailWith(connected, line.json);
      const auto hint = HintForConnection(connected, line.connect);
      if (hint && !line.json) absl::StrAppend(&result.err, "hint: ", *hint, "\n");
      return result;
    }
    if (!domains.ok()) return FailWith(domains.status(), line.json);
    for (const DomainPolicy& domain : *domains)
      Add(absl::StrCat("domain ", domain.domain.name), domain.values, rows);
  }
  result.out = line.json ? ShowJson(*policy, rows) : ShowText(rows);
  return result;
}

}  // namespace virt_reclaim
