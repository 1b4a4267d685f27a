#include "host/cli/options.h"

#include <CLI/CLI.hpp>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/byte_size.h"
#include "base/escape.h"
#include "base/status.h"
#include "base/suggest.h"
#include "host/cli/help.h"
#include "xml-tools/policies.h"

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

absl::Status UsageError(absl::string_view message) {
  return absl::InvalidArgumentError(absl::StrCat(message, "; see 'virt-reclaim --help'"));
}

absl::Status UnknownWord(const CLI::App& root, const std::string& word) {
  const bool is_option = absl::StartsWith(word, "-");
  const std::string name = word.substr(0, word.find('='));
  const auto nearest = NearestWord(name, KnownWords(root, is_option));
  const std::string what =
      absl::StrCat(is_option ? "unknown option '" : "unknown verb '", Printable(name), "'");
  return nearest
             ? absl::InvalidArgumentError(absl::StrCat(what, ": did you mean '", *nearest, "'?"))
             : UsageError(what);
}

// Texts that become numbers after parsing, so that the messages are ours.
struct RawValues {
  std::string minimum, chunk, pause, timeout, shutdown_timeout, verify_timeout, max_failures,
      window;
  std::vector<std::pair<std::string, std::string>> policies;  // "--bus", its word
  bool keep_machine = false;
  bool help = false;
};

absl::StatusOr<size_t> ParseCount(absl::string_view text) {
  size_t count = 0;
  if (absl::SimpleAtoi(text, &count)) return count;
  return absl::InvalidArgumentError(absl::StrCat("'", Printable(text), "' is no number"));
}

template <typename T, typename Parser>
absl::Status Convert(const std::string& text, absl::string_view option, T& out, Parser parse) {
  if (text.empty()) return absl::OkStatus();
  auto value = parse(text);
  if (!value.ok()) return UsageError(absl::StrCat(option, ": ", value.status().message()));
  out = *value;
  return absl::OkStatus();
}

absl::Status ConvertAll(const RawValues& raw, CommandLine& line) {
  VR_RETURN_IF_ERROR(Convert(raw.minimum, "--minimum", line.minimum, ParseByteSize));
  VR_RETURN_IF_ERROR(Convert(raw.chunk, "--chunk", line.chunk, ParseByteSize));
  VR_RETURN_IF_ERROR(Convert(raw.pause, "--pause", line.pause, ParseDuration));
  VR_RETURN_IF_ERROR(Convert(raw.timeout, "--timeout", line.timeout, ParseDuration));
  VR_RETURN_IF_ERROR(
      Convert(raw.shutdown_timeout, "--shutdown-timeout", line.shutdown_timeout, ParseDuration));
  VR_RETURN_IF_ERROR(
      Convert(raw.verify_timeout, "--verify-timeout", line.verify_timeout, ParseDuration));
  VR_RETURN_IF_ERROR(Convert(raw.max_failures, "--max-failures", line.max_failures, ParseCount));
  VR_RETURN_IF_ERROR(Convert(raw.window, "--window", line.window, ParseDailyWindow));
  for (const auto& [option, word] : raw.policies) {
    const absl::Status status = xml::SetPolicy(option, word, line.rewrite);
    if (!status.ok()) return UsageError(status.message());
    if (option == "--machine" && raw.keep_machine)
      return UsageError("--machine and --keep-machine exclude each other");
  }
  if (raw.keep_machine) line.rewrite.machine = xml::MachinePolicy::kKeep;
  if (line.verb == Verb::kTrim && line.pause > absl::Seconds(60))
    return UsageError("--pause: at most 60 s");
  if (line.timeout <= absl::ZeroDuration()) return UsageError("--timeout: must be longer than 0");
  return absl::OkStatus();
}

// "5", or "20%" of all.
absl::Status CheckBatch(const std::string& text) {
  absl::string_view number = text;
  const bool percent = absl::ConsumeSuffix(&number, "%");
  const auto count = ParseCount(number);
  if (!text.empty() && (!count.ok() || *count == 0 || (percent && *count > 100))) {
    return UsageError(absl::StrCat("--batch: '", Printable(text),
                                   "' is no number of domains: write for example 5 or 20%"));
  }
  return absl::OkStatus();
}

CLI::App* AddVerb(CLI::App& parent, const std::string& name, RawValues& raw) {
  CLI::App* verb = parent.add_subcommand(name);
  verb->set_help_flag();
  verb->add_flag("-h,--help", raw.help);
  verb->fallthrough();
  return verb;
}

// Declares everything; `verbs` remembers which sub-command means which verb.
class Parser {
 public:
  Parser() : root_("", "virt-reclaim") {
    root_.set_help_flag();
    root_.add_flag("-h,--help", raw_.help);
    root_.add_flag("-V,--version", version_);
    root_.add_option("-c,--connect", line_.connect);
    root_.add_flag("--json", line_.json);
    root_.add_flag("-n,--dry-run", line_.dry_run);
    root_.add_flag("--debug", line_.debug);
    root_.add_option("--state-dir", line_.state_directory)->envname("VIRT_RECLAIM_STATE_DIR");
    root_.add_option("--run-dir", line_.run_directory)->envname("VIRT_RECLAIM_RUN_DIR");
    DeclareVerbs();
  }

  absl::StatusOr<std::variant<CommandLine, PrintAndExit>> Parse(
      std::vector<std::string> arguments) {
    std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them as a stack
    try {
      root_.parse(arguments);
    } catch (const CLI::ExtrasError&) {
      // Reported below, by name.
    } catch (const CLI::ArgumentMismatch& error) {
      // "--chunk: 1 required TEXT missing"
      const absl::string_view text = error.what();
      if (!raw_.help)
        return UsageError(absl::StrCat(text.substr(0, text.find(": ")), " needs a value"));
    } catch (const CLI::ParseError& error) {
      if (!raw_.help) return UsageError(OneLine(error.what()));
    }
    if (version_) return PrintAndExit{absl::StrCat("virt-reclaim ", VIRT_RECLAIM_VERSION, "\n")};
    if (raw_.help) return PrintAndExit{std::string(HelpText(CurrentVerb()))};
    const std::vector<std::string> extras = root_.remaining(true);
    if (!extras.empty()) return UnknownWord(root_, extras.front());
    VR_RETURN_IF_ERROR(FindVerb());
    VR_RETURN_IF_ERROR(ConvertAll(raw_, line_));
    return line_;
  }

 private:
  void DeclareVerbs() {
    report_ = AddVerb(root_, "report", raw_);
    report_->alias("df");
    AddDomains(*report_);

    explain_ = AddVerb(root_, "explain", raw_);
    AddDomains(*explain_);
    explain_->add_flag("--probe", line_.probe);

    trim_ = AddVerb(root_, "trim", raw_);
    AddDomains(*trim_);
    trim_->add_option("-m,--minimum", raw_.minimum);
    trim_->add_option("--chunk", raw_.chunk);
    trim_->add_option("--pause", raw_.pause);
    trim_->add_option("--timeout", raw_.timeout);
    trim_->add_option("--mount-point", line_.mount_points)->allow_extra_args(false);

    migrate_ = AddVerb(root_, "migrate", raw_);
    plan_ = AddVerb(*migrate_, "plan", raw_);
    apply_ = AddVerb(*migrate_, "apply", raw_);
    for (CLI::App* verb : {plan_, apply_}) {
      AddDomains(*verb);
      verb->add_flag("--diff", line_.diff);
      verb->add_flag("--keep-machine", raw_.keep_machine);
      for (const char* policy : {"--machine", "--bus", "--channel", "--detect-zeroes"}) {
        verb->add_option_function<std::string>(policy, [this, policy](const std::string& word) {
          raw_.policies.emplace_back(policy, word);
        });
      }
      verb->add_flag("--allow-thick", line_.allow_thick);
      verb->add_flag("--assume", line_.assume);
      verb->add_option("--disk", line_.rewrite.targets)->allow_extra_args(false);
    }
    for (CLI::App* verb : {plan_, apply_}) verb->add_flag("--fix-guest", line_.fix_guest);
    plan_->add_option("--save", line_.save);
    apply_->add_flag("-y,--yes", line_.yes);
    apply_->add_option("--window", raw_.window);
    verify_ = AddVerb(*migrate_, "verify", raw_);
    rollback_ = AddVerb(*migrate_, "rollback", raw_);
    migrate_status_ = AddVerb(*migrate_, "status", raw_);
    for (CLI::App* verb : {verify_, rollback_, migrate_status_}) AddDomains(*verb);
    for (CLI::App* verb : {apply_, verify_, rollback_, migrate_status_})
      verb->add_option("--plan", line_.plan_file);
    rollback_->add_flag("--fix-guest", line_.fix_guest);
    for (CLI::App* verb : {apply_, rollback_}) {
      verb->add_flag("--all", line_.all);
      verb->add_option("--power-cycle", line_.power_cycle);
      verb->add_option("--shutdown-timeout", raw_.shutdown_timeout);
    }
    for (CLI::App* verb : {apply_, verify_, rollback_})
      verb->add_option("--verify-timeout", raw_.verify_timeout);
    apply_->add_option("--batch", line_.batch);
    apply_->add_option("--max-failures", raw_.max_failures);
    apply_->add_option("--pause", raw_.pause);

    agent_ = AddVerb(root_, "agent", raw_);
    status_ = AddVerb(*agent_, "status", raw_);
    AddDomains(*status_);
  }

  void AddDomains(CLI::App& verb) { verb.add_option("DOMAIN", line_.domains); }

  absl::string_view CurrentVerb() const {
    if (migrate_->parsed()) return "migrate";
    if (agent_->parsed()) return "agent";
    if (trim_->parsed()) return "trim";
    if (explain_->parsed()) return "explain";
    return report_->parsed() ? "report" : "";
  }

  absl::Status FindVerb() {
    size_t verbs = 0;
    for (const CLI::App* verb : {report_, explain_, trim_, migrate_, agent_})
      verbs += verb->count();
    if (verbs > 1) {
      return UsageError("two verbs: one call takes one");
    }
    if (report_->parsed()) {
      line_.verb = Verb::kReport;
    } else if (explain_->parsed()) {
      line_.verb = Verb::kExplain;
    } else if (trim_->parsed()) {
      line_.verb = Verb::kTrim;
    } else if (plan_->parsed()) {
      line_.verb = Verb::kMigratePlan;
    } else if (apply_->parsed()) {
      line_.verb = Verb::kMigrateApply;
    } else if (verify_->parsed()) {
      line_.verb = Verb::kMigrateVerify;
    } else if (rollback_->parsed()) {
      line_.verb = Verb::kMigrateRollback;
    } else if (migrate_status_->parsed()) {
      line_.verb = Verb::kMigrateStatus;
    } else if (status_->parsed()) {
      line_.verb = Verb::kAgentStatus;
    } else if (migrate_->parsed()) {
      return UsageError("migrate what? write 'migrate plan', apply, verify, rollback or status");
    } else if (agent_->parsed()) {
      return UsageError("agent what? write 'agent status'");
    } else {
      return UsageError("no verb: write for example 'virt-reclaim report'");
    }
    return CheckSelection();
  }

  // A saved plan says itself what is to be done.
  absl::Status CheckPlan() const {
    if (line_.plan_file.empty()) return absl::OkStatus();
    const bool fix = line_.fix_guest && line_.verb == Verb::kMigrateApply;
    const bool more = raw_.keep_machine || !raw_.policies.empty() || fix || line_.allow_thick ||
                      line_.assume || !line_.rewrite.targets.empty();
    if (more) return UsageError("--plan: the plan says already what to change, and how");
    return absl::OkStatus();
  }

  absl::Status CheckSelection() const {
    VR_RETURN_IF_ERROR(CheckPlan());
    if (line_.verb == Verb::kExplain && line_.domains.empty())
      return UsageError("explain: name the domain, or a disk of it: DOMAIN:TARGET");
    if (line_.verb != Verb::kMigrateApply && line_.verb != Verb::kMigrateRollback)
      return absl::OkStatus();
    VR_RETURN_IF_ERROR(CheckBatch(line_.batch));
    if (line_.power_cycle != "never" && line_.power_cycle != "shutdown" &&
        line_.power_cycle != "when-off") {
      return UsageError(absl::StrCat("--power-cycle: '", Printable(line_.power_cycle),
                                     "': write never, shutdown or when-off"));
    }
    if (line_.verb == Verb::kMigrateRollback && line_.fix_guest && line_.power_cycle != "shutdown")
      return UsageError("--fix-guest: a rollback needs --power-cycle=shutdown for it");
    if (line_.all && !line_.domains.empty())
      return UsageError("--all and domain names exclude each other");
    if (!line_.all && line_.domains.empty() && line_.plan_file.empty())
      return UsageError(absl::StrCat("migrate ",
                                     line_.verb == Verb::kMigrateApply ? "apply" : "rollback",
                                     ": name the domains, or write --all"));
    return absl::OkStatus();
  }

  static std::string OneLine(std::string text) {
    std::replace(text.begin(), text.end(), '\n', ' ');
    return Printable(text);
  }

  CommandLine line_;
  RawValues raw_;
  bool version_ = false;
  CLI::App root_;
  CLI::App* report_ = nullptr;
  CLI::App* explain_ = nullptr;
  CLI::App* trim_ = nullptr;
  CLI::App* migrate_ = nullptr;
  CLI::App* plan_ = nullptr;
  CLI::App* apply_ = nullptr;
  CLI::App* verify_ = nullptr;
  CLI::App* rollback_ = nullptr;
  CLI::App* migrate_status_ = nullptr;
  CLI::App* agent_ = nullptr;
  CLI::App* status_ = nullptr;
};

}  // namespace

absl::StatusOr<std::variant<CommandLine, PrintAndExit>> ParseCommandLine(
    const std::vector<std::string>& arguments) {
  return Parser().Parse(arguments);
}

absl::StatusOr<absl::Duration> ParseDuration(absl::string_view text) {
  absl::Duration duration;
  double seconds = 0;
  if (absl::SimpleAtod(text, &seconds)) {
    duration = absl::Seconds(seconds);
  } else if (!absl::ParseDuration(text, &duration)) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", Printable(text), "' is no time: write for example 200ms, 90s or 5m"));
  }
  if (duration < absl::ZeroDuration() || duration > absl::Hours(24 * 30)) {
    return absl::InvalidArgumentError(absl::StrCat("'", Printable(text), "' is out of range"));
  }
  return duration;
}

}  // namespace virt_reclaim
