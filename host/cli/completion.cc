#include "host/cli/completion.h"

#include <algorithm>
#include <cctype>
#include <set>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "host/cli/command_table.h"
#include "host/cli/completion_scripts.h"
#include "host/cli/help.h"

namespace virt_reclaim {
namespace {

using absl::StrAppend;
using absl::StrCat;

constexpr size_t kMaxSummary = 76;

// Beside those of the table.
const OptionSpec& HelpOption() {
  static const auto& option = *new OptionSpec{"-h,--help", "", {}};
  return option;
}
const OptionSpec& VersionOption() {
  static const auto& option = *new OptionSpec{"-V,--version", "", {}};
  return option;
}

std::vector<std::string> Names(const OptionSpec& option) {
  return absl::StrSplit(option.names, ',');
}

bool TakesValue(const OptionSpec& option) { return !option.value.empty(); }

// Of "keep|auto|NAME" the words that can be written as they are.
std::vector<std::string> Choices(const std::string& value) {
  std::vector<std::string> choices;
  for (const absl::string_view word : absl::StrSplit(value, '|')) {
    if (std::none_of(word.begin(), word.end(), [](unsigned char c) { return std::isupper(c); }))
      choices.emplace_back(word);
  }
  return choices;
}

// What an argument or a value is completed with.
enum class Kind { kNothing, kChoices, kDomain, kFile, kDirectory, kDomainOrFile };

Kind KindOf(const std::string& value) {
  if (value == "DOMAIN" || absl::StartsWith(value, "NAME")) return Kind::kDomain;
  if (value == "FILE" || value == "PATH") return Kind::kFile;
  if (value == "DIR") return Kind::kDirectory;
  if (value == "TARGET") return Kind::kDomainOrFile;
  return value.empty() || Choices(value).empty() ? Kind::kNothing : Kind::kChoices;
}

// An argument that is one of some words names them in the table as a value does.
Kind KindOfOption(const OptionSpec& option) {
  // A disk's target, and a mount point in the guest: nothing of this machine.
  if (option.value == "TARGET" || LongName(option) == "--mount-point") return Kind::kNothing;
  return KindOf(option.value);
}

// ---- What the help says.

absl::string_view HelpOf(const VerbSpec& verb) {
  return HelpText(verb.words.substr(0, verb.words.find(' ')));
}

// Up to the end of its first thought.
std::string Shortened(std::string text) {
  // "auto (default): as far as needed; ..." is more than its first word.
  constexpr size_t kLeast = 16;
  for (const char* end : {". ", ": ", "; ", " ("}) {
    if (text.size() > kLeast) text = text.substr(0, text.find(end, kLeast));
  }
  while (text.size() > kMaxSummary) {
    const size_t comma = text.rfind(", ", kMaxSummary);
    text =
        text.substr(0, comma != text.npos && comma > kLeast ? comma : text.rfind(' ', kMaxSummary));
  }
  // An end within parentheses.
  if (const size_t open = text.rfind('('); open != text.npos && text.find(')', open) == text.npos)
    text = std::string(absl::StripTrailingAsciiWhitespace(text.substr(0, open)));
  return std::string(absl::StripSuffix(absl::StripSuffix(text, "."), ","));
}

std::string Summary(const VerbSpec* verb, const OptionSpec& option) {
  const std::string name = LongName(option);
  std::string summary;
  if (verb != nullptr) summary = HelpSummary(HelpOf(*verb), name, TakesValue(option));
  return summary.empty() ? HelpSummary(HelpText(""), name, TakesValue(option)) : summary;
}

// ---- Verbs and their groups.

struct Group {
  std::string name;                    // "migrate"; empty: the program itself
  std::vector<const VerbSpec*> verbs;  // for the program: of one word
};

std::vector<Group> Groups() {
  std::vector<Group> groups = {{"", {}}};
  for (const VerbSpec& verb : VerbTable()) {
    const size_t space = verb.words.find(' ');
    const std::string name = space == std::string::npos ? "" : verb.words.substr(0, space);
    auto group = std::find_if(groups.begin(), groups.end(),
                              [&name](const Group& known) { return known.name == name; });
    if (group == groups.end()) group = groups.insert(groups.end(), {name, {}});
    group->verbs.push_back(&verb);
  }
  return groups;
}

std::string LastWord(const VerbSpec& verb) { return verb.words.substr(verb.words.rfind(' ') + 1); }

struct WordToType {
  std::string text, summary;
};

// What may stand where the verb does.
std::vector<WordToType> WordsOf(const Group& group) {
  std::vector<WordToType> words;
  for (const VerbSpec* verb : group.verbs) {
    const std::string summary = HelpSummary(HelpText(""), verb->words, false);
    words.push_back({LastWord(*verb), summary});
    if (!verb->alias.empty()) words.push_back({verb->alias, summary});
  }
  if (!group.name.empty()) return words;
  for (const Group& below : Groups()) {
    if (below.name.empty()) continue;
    words.push_back(
        {below.name, absl::StrJoin(below.verbs, ", ", [](std::string* out, const VerbSpec* verb) {
           StrAppend(out, LastWord(*verb));
         })});
  }
  // It has a command line of its own, which is not in the table.
  words.push_back({"virt-sparsify", HelpSummary(HelpText(""), "virt-sparsify", false)});
  return words;
}

std::string JoinWords(const std::vector<WordToType>& words) {
  return absl::StrJoin(words, " ",
                       [](std::string* out, const WordToType& word) { StrAppend(out, word.text); });
}

// ---- bash.

std::string BashKind(Kind kind) {
  switch (kind) {
    case Kind::kDomain:
      return "domain";
    case Kind::kFile:
      return "file";
    case Kind::kDirectory:
      return "directory";
    case Kind::kDomainOrFile:
      return "domain-or-file";
    case Kind::kNothing:
    case Kind::kChoices:
      return "nothing";
  }
  return "";
}

// "--bus=keep|auto|virtio-scsi --diff": what the script splits at spaces.
std::string BashOption(const OptionSpec& option) {
  std::vector<std::string> entries;
  const Kind kind = KindOfOption(option);
  for (const std::string& name : Names(option)) {
    if (!TakesValue(option))
      entries.push_back(name);
    else if (kind == Kind::kChoices)
      entries.push_back(StrCat(name, "=", absl::StrJoin(Choices(option.value), "|")));
    else
      entries.push_back(StrCat(name, "=<", BashKind(kind), ">"));
  }
  return absl::StrJoin(entries, " ");
}

std::string BashScript() {
  std::string options, arguments, words;
  std::vector<std::string> global;
  for (const OptionSpec& option : GlobalOptions()) global.push_back(BashOption(option));
  global.push_back(BashOption(HelpOption()));
  StrAppend(&options, "  [all]='", absl::StrJoin(global, " "), "'\n");
  StrAppend(&options, "  [top]='", BashOption(VersionOption()), "'\n");
  for (const Group& group : Groups()) {
    StrAppend(&words, "  ['", group.name.empty() ? "top" : group.name, "']='",
              JoinWords(WordsOf(group)), "'\n");
    for (const VerbSpec* verb : group.verbs) {
      std::vector<std::string> own;
      for (const OptionSpec& option : verb->options) own.push_back(BashOption(option));
      const Kind kind = KindOf(verb->argument);
      std::vector<std::string> names = {verb->words};
      if (!verb->alias.empty()) names.push_back(verb->alias);
      for (const std::string& name : names) {
        StrAppend(&options, "  ['", name, "']='", absl::StrJoin(own, " "), "'\n");
        StrAppend(&arguments, "  ['", name, "']='",
                  kind == Kind::kChoices ? verb->argument : StrCat("<", BashKind(kind), ">"),
                  "'\n");
      }
    }
  }
  StrAppend(&arguments, "  ['virt-sparsify']='<file>'\n");
  return absl::StrReplaceAll(
      kBashCompletion, {{"@OPTIONS@", options}, {"@ARGUMENTS@", arguments}, {"@WORDS@", words}});
}

// ---- zsh.

std::string ZshQuoted(absl::string_view text) {
  return StrCat("'", absl::StrReplaceAll(text, {{"'", "'\\''"}}), "'");
}

std::string ZshAction(Kind kind, const std::string& value) {
  switch (kind) {
    case Kind::kChoices:
      return StrCat("(", absl::StrJoin(Choices(value), " "), ")");
    case Kind::kDomain:
      return "_virt_reclaim_domains";
    case Kind::kFile:
      return "_files";
    case Kind::kDirectory:
      return "_files -/";
    case Kind::kDomainOrFile:
      return "_virt_reclaim_domains_or_files";
    case Kind::kNothing:
      return " ";
  }
  return "";
}

// '(-m --minimum)'{-m+,--minimum=}'[what it is]:SIZE: '
std::string ZshOption(const OptionSpec& option, const VerbSpec* verb) {
  std::string rest =
      StrCat("[", absl::StrReplaceAll(Summary(verb, option), {{"[", "\\["}, {"]", "\\]"}}), "]");
  if (TakesValue(option)) {
    StrAppend(&rest, ":", absl::StrReplaceAll(option.value, {{":", "\\:"}}), ":",
              ZshAction(KindOfOption(option), option.value));
  }
  const std::vector<std::string> names = Names(option);
  if (names.size() == 1) {
    return ZshQuoted(
        StrCat(option.repeats ? "*" : "", names[0], TakesValue(option) ? "=" : "", rest));
  }
  const bool value = TakesValue(option);
  const std::string excluded =
      option.repeats ? "'*'" : StrCat("'(", absl::StrJoin(names, " "), ")'");
  return StrCat(excluded, "{", names[0], value ? "+" : "", ",", names[1], value ? "=" : "", "}",
                ZshQuoted(rest));
}

// The function that completes behind the program, or behind the name of a group.
std::string ZshFunction(const Group& group) {
  const std::string name = group.name.empty() ? "_virt_reclaim" : "_virt_reclaim_" + group.name;
  std::string items, cases;
  for (const WordToType& word : WordsOf(group))
    StrAppend(&items, "    ", ZshQuoted(StrCat(word.text, ":", word.summary)), "\n");
  for (const VerbSpec* verb : group.verbs) {
    StrAppend(&cases, "    ", LastWord(*verb), verb->alias.empty() ? "" : "|", verb->alias,
              ")\n      _arguments -s $all \\\n");
    for (const OptionSpec& option : verb->options)
      StrAppend(&cases, "        ", ZshOption(option, verb), " \\\n");
    StrAppend(&cases, "        ",
              ZshQuoted(StrCat("*:", absl::AsciiStrToLower(verb->argument), ":",
                               ZshAction(KindOf(verb->argument), verb->argument))),
              "\n      ;;\n");
  }
  if (group.name.empty()) {
    for (const Group& below : Groups()) {
      if (!below.name.empty())
        StrAppend(&cases, "    ", below.name, ")\n      _virt_reclaim_", below.name,
                  "\n      ;;\n");
    }
    StrAppend(&cases, "    virt-sparsify)\n      _files\n      ;;\n");
  }
  return absl::StrReplaceAll(
      kZshFunction,
      {{"@NAME@", name},
       {"@VERBS@", items},
       {"@CASES@", cases},
       {"@TOP@", group.name.empty() ? StrCat(" ", ZshOption(VersionOption(), nullptr)) : ""}});
}

std::string ZshScript() {
  std::string all, functions;
  std::vector<OptionSpec> options = GlobalOptions();
  options.push_back(HelpOption());
  for (const OptionSpec& option : options)
    StrAppend(&all, "    ", ZshOption(option, nullptr), "\n");
  for (const Group& group : Groups()) StrAppend(&functions, ZshFunction(group), "\n");
  return absl::StrReplaceAll(kZshCompletion, {{"@ALL@", all}, {"@FUNCTIONS@", functions}});
}

// ---- fish.

std::string FishQuoted(absl::string_view text) {
  return StrCat("'", absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"'", "\\'"}}), "'");
}

std::string FishKind(Kind kind, const std::string& value) {
  switch (kind) {
    case Kind::kChoices:
      return StrCat(" -a ", FishQuoted(absl::StrJoin(Choices(value), " ")));
    case Kind::kDomain:
      return " -a '(__virt_reclaim_domains)'";
    case Kind::kFile:
      return " -F";
    case Kind::kDirectory:
      return " -a '(__fish_complete_directories)'";
    case Kind::kDomainOrFile:
      return " -F -a '(__virt_reclaim_domains)'";
    case Kind::kNothing:
      return "";
  }
  return "";
}

std::string FishOption(const OptionSpec& option, const VerbSpec* verb, const std::string& where) {
  std::string line = "complete -c virt-reclaim";
  if (!where.empty()) StrAppend(&line, " -n ", FishQuoted("__virt_reclaim_at " + where));
  for (const std::string& name : Names(option)) {
    if (absl::StartsWith(name, "--"))
      StrAppend(&line, " -l ", name.substr(2));
    else
      StrAppend(&line, " -s ", name.substr(1));
  }
  if (TakesValue(option)) {
    const Kind kind = KindOfOption(option);
    // -x: no files, -r: a value is needed.
    StrAppend(&line, kind == Kind::kFile ? " -r" : " -x", FishKind(kind, option.value));
  }
  const std::string summary = Summary(verb, option);
  if (!summary.empty()) StrAppend(&line, " -d ", FishQuoted(summary));
  return line + "\n";
}

std::string FishVerb(const VerbSpec& verb) {
  std::string where = StrCat("\"", verb.words, "\"");
  if (!verb.alias.empty()) StrAppend(&where, " ", verb.alias);
  std::string lines;
  for (const OptionSpec& option : verb.options) StrAppend(&lines, FishOption(option, &verb, where));
  const std::string argument = FishKind(KindOf(verb.argument), verb.argument);
  if (!argument.empty()) {
    StrAppend(&lines, "complete -c virt-reclaim -n ", FishQuoted("__virt_reclaim_at " + where),
              argument, "\n");
  }
  return lines;
}

std::string FishScript() {
  std::set<std::string> with_value;
  std::vector<std::string> groups;
  std::string lines;
  const auto remember = [&with_value](const OptionSpec& option) {
    if (!TakesValue(option)) return;
    for (const std::string& name : Names(option)) with_value.insert(name);
  };
  for (const OptionSpec& option : GlobalOptions()) {
    remember(option);
    StrAppend(&lines, FishOption(option, nullptr, ""));
  }
  StrAppend(&lines, FishOption(HelpOption(), nullptr, ""));
  StrAppend(&lines, FishOption(VersionOption(), nullptr, "\"\""));
  for (const Group& group : Groups()) {
    if (!group.name.empty()) groups.push_back(group.name);
    for (const WordToType& word : WordsOf(group)) {
      StrAppend(&lines, "complete -c virt-reclaim -n ",
                FishQuoted(StrCat("__virt_reclaim_at \"", group.name, "\"")), " -a ", word.text,
                " -d ", FishQuoted(word.summary), "\n");
    }
    for (const VerbSpec* verb : group.verbs) {
      for (const OptionSpec& option : verb->options) remember(option);
      StrAppend(&lines, FishVerb(*verb));
    }
  }
  StrAppend(&lines, "complete -c virt-reclaim -n '__virt_reclaim_at virt-sparsify' -F\n");
  return absl::StrReplaceAll(kFishCompletion, {{"@WITH_VALUE@", absl::StrJoin(with_value, " ")},
                                               {"@GROUPS@", absl::StrJoin(groups, " ")},
                                               {"@LINES@", lines}});
}

}  // namespace

std::string HelpSummary(absl::string_view help, absl::string_view name, bool takes_value) {
  std::string text;
  bool found = false;
  for (absl::string_view line : absl::StrSplit(help, '\n')) {
    const size_t indent = line.size() - absl::StripLeadingAsciiWhitespace(line).size();
    line = absl::StripLeadingAsciiWhitespace(line);
    if (found) {
      // Goes on below itself, far to the right of where options and verbs begin.
      constexpr size_t kTextColumn = 12;
      if (line.empty() || indent < kTextColumn) break;
      StrAppend(&text, " ", line);
      continue;
    }
    if (indent == 0) continue;
    // "-n, --dry-run"
    if (absl::StartsWith(name, "--") && line.size() > 4 && line[0] == '-' && line[2] == ',')
      line.remove_prefix(4);
    if (!absl::ConsumePrefix(&line, name) || !absl::StartsWith(line, " ")) continue;
    line = absl::StripLeadingAsciiWhitespace(line);
    if (takes_value) line.remove_prefix(std::min(line.find(' '), line.size()));
    text = std::string(absl::StripLeadingAsciiWhitespace(line));
    found = true;
  }
  return Shortened(std::string(absl::StripPrefix(text, "... ")));
}

std::string CompletionScript(absl::string_view shell) {
  if (shell == "bash") return BashScript();
  if (shell == "zsh") return ZshScript();
  if (shell == "fish") return FishScript();
  return "";
}

}  // namespace virt_reclaim
