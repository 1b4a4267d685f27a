// The only file that knows the option parser: CLI11 costs seconds of compile time per file.
#include "host/cli/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/escape.h"
#include "base/status.h"
#include "base/suggest.h"
#include "host/cli/command_table.h"
#include "host/cli/completion.h"
#include "host/cli/help.h"

namespace virt_reclaim {
namespace {

// The option and verb names that are known at the place where parsing stopped, for "did you mean".
std::vector<std::string> KnownWords(const CLI::App& root, bool options) {
  std::vector<std::string> words;
  std::vector<const CLI::App*> open{&root};
  while (!open.empty()) {
    const CLI::App* app = open.back();
    open.pop_back();
    if (options) {
      for (const CLI::Option* option : app->get_options()) {
        for (const std::string& name : option->get_lnames())
          words.push_back(absl::StrCat("--", name));
      }
      words.emplace_back("--help");
    }
    for (const CLI::App* sub : app->get_subcommands([](const CLI::App*) { return true; })) {
      if (!options) words.push_back(sub->get_name());
      if (sub->parsed()) open.push_back(sub);
    }
  }
  return words;
}

// `group`: the first word of the verb, whose help has more; empty: none is known.
absl::Status UsageError(absl::string_view message, absl::string_view group) {
  return absl::InvalidArgumentError(
      absl::StrCat(message, "; see 'virt-reclaim", group.empty() ? "" : " ", group, " --help'"));
}

absl::Status UnknownWord(const CLI::App& root, const std::string& word, absl::string_view group) {
  const bool is_option = absl::StartsWith(word, "-");
  const std::string name = word.substr(0, word.find('='));
  const std::vector<std::string> known = KnownWords(root, is_option);
  // "--config X run": known to the verb that comes later.
  if (is_option && std::find(known.begin(), known.end(), name) != known.end())
    return UsageError(absl::StrCat("option '", name, "' belongs behind its verb"), "");
  const auto nearest = NearestWord(name, known);
  const std::string what =
      absl::StrCat(is_option ? "unknown option '" : "unknown verb '", Printable(name), "'");
  return nearest
             ? absl::InvalidArgumentError(absl::StrCat(what, ": did you mean '", *nearest, "'?"))
             : UsageError(what, group);
}

std::string OneLine(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return Printable(text);
}

// What CLI11 says of an option's values, in our words.
std::string Mismatch(absl::string_view text) {
  const std::string option(text.substr(0, text.find_first_of(": ")));
  // "--chunk: 1 required TEXT missing"
  if (absl::EndsWith(text, " missing")) return absl::StrCat(option, " needs a value");
  // "--chunk: At Most 1 required but received 2"
  if (absl::StrContains(text, "At Most")) return absl::StrCat(option, ": only once");
  // "json was given a disallowed flag override"
  if (absl::EndsWith(text, "override")) return absl::StrCat("--", option, " takes no value");
  return OneLine(std::string(text));
}

// Makes the parser that the command table describes, and a CommandLine of what it hears.
class OptionParser {
 public:
  OptionParser() : root_("", "virt-reclaim") {
    root_.set_help_flag();
    root_.add_flag("-h,--help", help_);
    root_.add_flag("-V,--version", version_);
    for (const OptionSpec& option : GlobalOptions()) Declare(root_, option);
    for (const VerbSpec& verb : VerbTable()) Declare(verb);
  }

  absl::StatusOr<std::variant<CommandLine, PrintAndExit>> Parse(
      std::vector<std::string> arguments) {
    std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them as a stack
    const absl::Status parsed = Hear(std::move(arguments));
    if (version_) return PrintAndExit{absl::StrCat("virt-reclaim ", VIRT_RECLAIM_VERSION, "\n")};
    if (help_) return PrintAndExit{std::string(HelpText(GroupName()))};
    VR_RETURN_IF_ERROR(parsed);
    // The mark after which nothing is an option stays among what is left over.
    std::vector<std::string> extras = root_.remaining(true);
    std::erase(extras, "--");
    if (!extras.empty()) return UnknownWord(root_, extras.front(), GroupName());
    VR_ASSIGN_OR_RETURN(const VerbSpec* const verb, FindVerb());
    line_.verb = verb->verb;
    LookIntoEnvironment(*verb);
    VR_RETURN_IF_ERROR(SetAll());
    const absl::Status checked = verb->check ? verb->check(line_) : absl::OkStatus();
    if (!checked.ok()) return UsageError(checked.message(), GroupName());
    if (verb->verb == Verb::kCompletion)
      return PrintAndExit{CompletionScript(line_.domains.front())};
    return line_;
  }

 private:
  struct Said {
    const OptionSpec* option;
    std::string text;
  };

  void Declare(CLI::App& app, const OptionSpec& option) {
    const auto say = [this, &option](const std::string& text) { said_.push_back({&option, text}); };
    if (option.value.empty()) {
      app.add_flag_function(option.names, [say](int64_t) { say(""); })->disable_flag_override();
    } else if (option.repeats) {
      app.add_option_function<std::vector<std::string>>(
             option.names,
             [say](const std::vector<std::string>& texts) {
               for (const std::string& text : texts) say(text);
             })
          ->allow_extra_args(false);
    } else {
      app.add_option_function<std::string>(option.names, say);
    }
  }

  // "migrate plan" is the verb plan below a group migrate.
  void Declare(const VerbSpec& verb) {
    CLI::App* app = &root_;
    std::string words;
    for (const std::string& word : Words(verb)) {
      absl::StrAppend(&words, " ", word);
      CLI::App*& entry = by_words_[words];
      if (entry == nullptr) entry = AddApp(*app, word);
      app = entry;
    }
    if (!verb.alias.empty()) app->alias(verb.alias);
    // What is one of some words, or not wanted at all, has no name that CLI11 would take.
    const bool no_name = verb.argument.empty() || absl::StrContains(verb.argument, "|");
    app->add_option(no_name ? "WORD" : verb.argument,
                    verb.argument == "FILE" ? line_.files : line_.domains);
    for (const OptionSpec& option : verb.options) Declare(*app, option);
    apps_.emplace_back(&verb, app);
  }

  CLI::App* AddApp(CLI::App& parent, const std::string& name) {
    CLI::App* app = parent.add_subcommand(name);
    app->set_help_flag();
    app->add_flag("-h,--help", help_);
    app->fallthrough();
    return app;
  }

  static std::vector<std::string> Words(const VerbSpec& verb) {
    return absl::StrSplit(verb.words, ' ');
  }

  // Lets CLI11 parse; its exceptions end here.
  absl::Status Hear(std::vector<std::string> arguments) {
    try {
      root_.parse(arguments);
    } catch (const CLI::ExtrasError&) {
      // Reported by our own words.
    } catch (const CLI::ArgumentMismatch& error) {
      return UsageError(Mismatch(error.what()), GroupName());
    } catch (const CLI::ParseError& error) {
      return UsageError(OneLine(error.what()), GroupName());
    }
    return absl::OkStatus();
  }

  // The first word of what was parsed; empty: no verb.
  std::string GroupName() const {
    for (const auto& [verb, app] : apps_) {
      const std::string group = Words(*verb).front();
      if (root_.get_subcommand(group)->parsed()) return group;
    }
    return "";
  }

  absl::StatusOr<const VerbSpec*> FindVerb() const {
    std::set<std::string> groups;
    const VerbSpec* found = nullptr;
    size_t count = 0;
    for (const auto& [verb, app] : apps_) {
      const std::string group = Words(*verb).front();
      if (root_.get_subcommand(group)->parsed()) groups.insert(group);
      if (!app->parsed()) continue;
      found = verb;
      count += app->count();
    }
    if (groups.size() > 1 || count > 1) return TwoVerbs();
    if (found != nullptr) return found;
    if (groups.empty()) return UsageError("no verb: write for example 'virt-reclaim report'", "");
    return UsageError(WhatOf(*groups.begin()), *groups.begin());
  }

  absl::Status TwoVerbs() const {
    std::vector<std::string> said;
    for (const CLI::App* group : root_.get_subcommands()) {
      const std::vector<CLI::App*> verbs = group->get_subcommands();
      if (verbs.empty()) said.push_back(group->get_name());
      for (const CLI::App* verb : verbs)
        said.push_back(absl::StrCat(group->get_name(), " ", verb->get_name()));
    }
    said.resize(2, said.front());
    return UsageError(
        absl::StrCat("two verbs, '", said[0], "' and '", said[1], "': one call takes one"), "");
  }

  // "migrate what? write 'migrate plan', apply or status".
  std::string WhatOf(const std::string& group) const {
    std::vector<std::string> words;
    for (const auto& [verb, app] : apps_) {
      if (Words(*verb).front() == group) words.push_back(Words(*verb).back());
    }
    std::string text = absl::StrCat(group, " what? write '", group, " ", words.front(), "'");
    for (size_t i = 1; i < words.size(); ++i)
      absl::StrAppend(&text, i + 1 == words.size() ? " or " : ", ", words[i]);
    return text;
  }

  // Stands in for what is not said. CLI11 would ask it for options of the same name of other verbs,
  // too, and those would come last.
  void LookIntoEnvironment(const VerbSpec& verb) {
    for (const std::vector<OptionSpec>* options : {&GlobalOptions(), &verb.options}) {
      for (const OptionSpec& option : *options) {
        const bool is_said = std::any_of(said_.begin(), said_.end(),
                                         [&](const Said& said) { return said.option == &option; });
        if (is_said || option.environment.empty()) continue;
        const char* const text = getenv(option.environment.c_str());
        if (text != nullptr && *text != '\0') said_.push_back({&option, text});
      }
    }
  }

  absl::Status SetAll() {
    for (const Said& said : said_) {
      const std::string name = LongName(*said.option);
      line_.given.insert(name);
      const absl::Status set = said.option->set(line_, said.text);
      if (set.ok()) continue;
      const bool named = absl::StartsWith(set.message(), name);
      return UsageError(
          named ? std::string(set.message()) : absl::StrCat(name, ": ", set.message()),
          GroupName());
    }
    return absl::OkStatus();
  }

  CommandLine line_;
  bool help_ = false;
  bool version_ = false;
  CLI::App root_;
  std::vector<std::pair<const VerbSpec*, CLI::App*>> apps_;  // in the order of the table
  std::map<std::string, CLI::App*> by_words_;                // groups, too
  std::vector<Said> said_;
};

}  // namespace

absl::StatusOr<std::variant<CommandLine, PrintAndExit>> ParseCommandLine(
    const std::vector<std::string>& arguments) {
  return OptionParser().Parse(arguments);
}

}  // namespace virt_reclaim
