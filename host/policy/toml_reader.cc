// The only file that knows the TOML parser, whose headers cost seconds of compile time. Without its
// exceptions: parsing gives a table or an error.
#include "host/policy/toml_reader.h"

#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

#include <algorithm>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/escape.h"
#include "base/suggest.h"
#include "host/policy/settings.h"

namespace virt_reclaim::policy {
namespace {

using absl::StrCat;

constexpr size_t kMostWords = 1000;  // of one list

// A key or a value; a long one need not be shown in full.
std::string QuotedWord(absl::string_view text) { return Quoted(text, 100); }

// "/srv/./backup/" is "/srv/backup". ".." stays: behind a link it is not what it looks like.
std::string PlainPath(absl::string_view path) {
  std::string plain;
  for (const absl::string_view part : absl::StrSplit(path, '/')) {
    if (!part.empty() && part != ".") absl::StrAppend(&plain, "/", part);
  }
  return plain.empty() ? "/" : plain;
}

const char* KindOf(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "a list";
    case toml::node_type::string:
      return "a text";
    case toml::node_type::integer:
      return "a whole number";
    case toml::node_type::floating_point:
      return "a broken number";
    case toml::node_type::boolean:
      return "true or false";
    case toml::node_type::date:
    case toml::node_type::time:
    case toml::node_type::date_time:
      return "a date or time";
    case toml::node_type::none:
      break;
  }
  return "nothing";
}

class TomlReader {
 public:
  TomlReader(const std::string& file, Policy& policy) : file_(file), policy_(policy) {}

  absl::Status Read(const std::string& text) {
    const toml::parse_result parsed = toml::parse(std::string_view(text));
    if (!parsed) {
      const std::string_view why = parsed.error().description();
      return Complaint(parsed.error().source(), Lines(why));
    }
    ReadTop(parsed.table());
    if (mistakes_.empty()) return absl::OkStatus();
    // The one that stands first: the parser sorts by key.
    const auto first = std::min_element(mistakes_.begin(), mistakes_.end(), Before);
    return Complaint(first->where, first->what);
  }

 private:
  struct Mistake {
    toml::source_region where;
    std::string what;
  };

  static bool Before(const Mistake& a, const Mistake& b) {
    return std::pair(a.where.begin.line, a.where.begin.column) <
           std::pair(b.where.begin.line, b.where.begin.column);
  }

  static std::string Lines(std::string_view text) {
    std::string line(text);
    std::replace(line.begin(), line.end(), '\n', ' ');
    return Printable(line);
  }

  Origin OriginOf(const toml::source_region& region) const {
    // What the parser gives no place to is about the whole file.
    return {file_, std::max<size_t>(region.begin.line, 1),
            std::max<size_t>(region.begin.column, 1)};
  }

  absl::Status Complaint(const toml::source_region& where, const std::string& what) const {
    return absl::InvalidArgumentError(StrCat(TextOf(OriginOf(where)), ": ", what));
  }

  void Mind(const toml::source_region& where, std::string what) {
    mistakes_.push_back({where, std::move(what)});
  }

  void MindKind(const toml::node& node, const std::string& key, absl::string_view wanted) {
    Mind(node.source(), StrCat(QuotedWord(key), " is ", KindOf(node), ": write ", wanted));
  }

  void MindUnknown(const toml::key& key, const std::vector<std::string>& known) {
    const std::string name(key.str());
    const auto nearest = NearestWord(name, known);
    Mind(key.source(), StrCat("unknown key ", QuotedWord(name),
                              nearest ? StrCat(": did you mean '", *nearest, "'?")
                                      : StrCat("; known here: ", absl::StrJoin(known, ", "))));
  }

  void ReadTop(const toml::table& top) {
    for (const auto& [key, node] : top) {
      const std::string name(key.str());
      if (name == "limits") {
        if (const auto* table = TableOf(node, name))
          ReadValues(*table, LimitSpecs(), {}, policy_.limits);
      } else if (name == "defaults") {
        if (const auto* table = TableOf(node, name))
          ReadValues(*table, DomainSpecs(), {}, policy_.defaults);
      } else if (name == "rule") {
        for (const toml::table* table : TablesOf(node, name)) ReadRule(*table);
      } else if (name == "backups") {
        for (const toml::table* table : TablesOf(node, name)) ReadBackups(*table);
      } else {
        MindUnknown(key, {"limits", "defaults", "rule", "backups"});
      }
    }
  }

  const toml::table* TableOf(const toml::node& node, const std::string& name) {
    if (node.is_table()) return node.as_table();
    MindKind(node, name, StrCat("[", name, "] and keys below it"));
    return nullptr;
  }

  std::vector<const toml::table*> TablesOf(const toml::node& node, const std::string& name) {
    std::vector<const toml::table*> tables;
    const toml::array* array = node.as_array();
    if (array == nullptr) {
      MindKind(node, name, StrCat("[[", name, "]], with two brackets"));
      return tables;
    }
    for (const toml::node& element : *array) {
      if (element.is_table()) {
        tables.push_back(element.as_table());
      } else {
        MindKind(element, name, StrCat("[[", name, "]] and keys below it"));
      }
    }
    return tables;
  }

  // `others`: keys of the section that are no settings, and are read elsewhere.
  template <typename Settings>
  void ReadValues(const toml::table& table, const std::vector<SettingSpec<Settings>>& specs,
                  const std::vector<std::string>& others, Values& values) {
    for (const auto& [key, node] : table) {
      const std::string name(key.str());
      if (std::find(others.begin(), others.end(), name) != others.end()) continue;
      const auto spec = std::find_if(specs.begin(), specs.end(),
                                     [&](const auto& each) { return each.key == name; });
      if (spec == specs.end()) {
        std::vector<std::string> known = others;
        for (const auto& each : specs) known.push_back(each.key);
        MindUnknown(key, known);
        continue;
      }
      const std::optional<std::string> text = ReadText(node, name, spec->form, spec->takes);
      if (!text) continue;
      Settings tried;
      if (const absl::Status set = spec->set(tried, *text); !set.ok()) {
        Mind(node.source(), StrCat(QuotedWord(name), ": ", set.message()));
        continue;
      }
      values[name] = {*text, OriginOf(key.source())};
    }
  }

  // A value as the text that a SettingSpec takes; empty: a mistake was noted.
  std::optional<std::string> ReadText(const toml::node& node, const std::string& key, Form form,
                                      const std::string& takes) {
    if (form == Form::kWords) {
      const auto words = ReadList(node, key);
      if (words.empty()) return std::nullopt;
      return absl::StrJoin(words, kBetweenWords);
    }
    if (form == Form::kFlag && node.is_boolean())
      return *node.value_exact<bool>() ? "true" : "false";
    if ((form == Form::kAmount || form == Form::kCount) && node.is_integer()) {
      const int64_t number = *node.value_exact<int64_t>();
      if (number >= 0) return StrCat(number);
      Mind(node.source(), StrCat(QuotedWord(key), ": ", number, " is less than 0"));
      return std::nullopt;
    }
    if ((form == Form::kAmount || form == Form::kText) && node.is_string()) {
      std::string text = *node.value_exact<std::string>();
      if (!text.empty()) return text;
      Mind(node.source(),
           StrCat(QuotedWord(key), " is empty: write ", takes, ", or take the line out"));
      return std::nullopt;
    }
    const bool quoted = form == Form::kAmount || form == Form::kText;
    MindKind(node, key,
             form == Form::kFlag    ? "true or false"
             : form == Form::kCount ? "a whole number"
             : quoted               ? StrCat("\"", takes, "\"")
                                    : takes);
    return std::nullopt;
  }

  // Texts, each once and none empty; an empty result: a mistake was noted.
  std::vector<std::string> ReadList(const toml::node& node, const std::string& key) {
    const size_t before = mistakes_.size();
    std::vector<std::string> words;
    const toml::array* array = node.as_array();
    if (array == nullptr) {
      MindKind(node, key, "a list of texts: [\"...\", \"...\"]");
      return {};
    }
    if (array->empty() || array->size() > kMostWords) {
      Mind(node.source(),
           StrCat(QuotedWord(key), array->empty() ? " is an empty list" : " is too long a list"));
      return {};
    }
    std::set<std::string> seen;
    for (const toml::node& element : *array) {
      if (!element.is_string()) {
        MindKind(element, key, "a list of texts only");
        continue;
      }
      std::string word = *element.value_exact<std::string>();
      if (word.empty()) Mind(element.source(), StrCat(QuotedWord(key), " has an empty text in it"));
      if (!seen.insert(word).second)
        Mind(element.source(), StrCat(QuotedWord(key), " has ", QuotedWord(word), " twice"));
      words.push_back(std::move(word));
    }
    return mistakes_.size() == before ? words : std::vector<std::string>{};
  }

  List ListOf(const toml::table& table, const std::string& key) {
    const auto found = table.find(key);
    if (found == table.end()) return {};
    return {ReadList(found->second, key), OriginOf(found->first.source())};
  }

  void WantAbsolute(const toml::node& node, const std::string& key, const std::string& path) {
    if (!absl::StartsWith(path, "/"))
      Mind(node.source(), StrCat(QuotedWord(key), ": ", QuotedWord(path), " is no absolute path"));
  }

  void ReadRule(const toml::table& table) {
    const size_t before = mistakes_.size();
    Rule rule;
    rule.domains = ListOf(table, "domains");
    rule.exclude = ListOf(table, "exclude");
    rule.storage = ListOf(table, "storage");
    for (const std::string& path : rule.storage.words)
      WantAbsolute(*table.get("storage"), "storage", path);
    ReadValues(table, DomainSpecs(), {"domains", "exclude", "storage"}, rule.values);
    // What is missing may be what was misspelt.
    if (mistakes_.size() == before) {
      if (rule.domains.words.empty() && rule.storage.words.empty()) {
        Mind(table.source(),
             "the rule says neither 'domains' nor 'storage': what is for all goes into [defaults]");
      } else if (rule.values.empty()) {
        Mind(table.source(), "the rule sets nothing");
      }
    }
    policy_.rules.push_back(std::move(rule));
  }

  void ReadBackups(const toml::table& table) {
    const size_t before = mistakes_.size();
    BackupDirectory backup;
    backup.exclude = ListOf(table, "exclude");
    ReadValues(table, BackupSpecs(), {"directory", "exclude"}, backup.values);
    if (const auto directory = table.find("directory"); directory != table.end()) {
      backup.directory.origin = OriginOf(directory->first.source());
      ReadDirectory(directory->second, backup);
    } else if (mistakes_.size() == before) {
      Mind(table.source(), "'directory' is missing");
    }
    policy_.backups.push_back(std::move(backup));
  }

  void ReadDirectory(const toml::node& node, BackupDirectory& backup) {
    if (!node.is_string()) return MindKind(node, "directory", "\"/PATH\"");
    const std::string said = *node.value_exact<std::string>();
    WantAbsolute(node, "directory", said);
    backup.directory.text = PlainPath(said);
    for (const BackupDirectory& other : policy_.backups) {
      if (other.directory.text != backup.directory.text) continue;
      Mind(node.source(), StrCat("'directory': ", QuotedWord(said),
                                 " is there already: ", TextOf(other.directory.origin)));
    }
  }

  const std::string& file_;
  Policy& policy_;
  std::vector<Mistake> mistakes_;
};

}  // namespace

absl::Status AddToml(const std::string& file, const std::string& text, Policy& policy) {
  return TomlReader(file, policy).Read(text);
}

}  // namespace virt_reclaim::policy
