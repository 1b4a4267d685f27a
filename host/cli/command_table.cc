#include "host/cli/command_table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/byte_size.h"
#include "base/duration.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/cli/command_checks.h"
#include "xml-tools/policies.h"

namespace virt_reclaim {
namespace {

using absl::InvalidArgumentError;
using absl::StrCat;

// ---- Kinds of options.

OptionSpec Flag(std::string names, bool CommandLine::*member) {
  return {std::move(names), "", [member](CommandLine& line, const std::string&) {
            line.*member = true;
            return absl::OkStatus();
          }};
}

// What is empty, as a variable of a script may be, would count as not given: `--storage ""` as
// every storage.
absl::Status CheckNotEmpty(const std::string& text) {
  if (!text.empty()) return absl::OkStatus();
  return InvalidArgumentError("needs a value, and '' is none");
}

OptionSpec TextOption(std::string names, std::string value, std::string CommandLine::*member) {
  return {std::move(names), std::move(value), [member](CommandLine& line, const std::string& text) {
            line.*member = text;
            return CheckNotEmpty(text);
          }};
}

OptionSpec Texts(std::string names, std::string value,
                 std::vector<std::string> CommandLine::*member) {
  return {std::move(names), std::move(value),
          [member](CommandLine& line, const std::string& text) {
            (line.*member).push_back(text);
            return CheckNotEmpty(text);
          },
          /*repeats=*/true};
}

template <typename T, typename Parse>
OptionSpec Parsed(std::string names, std::string value, T CommandLine::*member, Parse parse) {
  return {std::move(names), std::move(value),
          [member, parse](CommandLine& line, const std::string& text) -> absl::Status {
            VR_ASSIGN_OR_RETURN(line.*member, parse(text));
            return absl::OkStatus();
          }};
}

OptionSpec Size(std::string names, uint64_t CommandLine::*member) {
  return Parsed(std::move(names), "SIZE", member, ParseByteSize);
}

OptionSpec Time(std::string names, absl::Duration CommandLine::*member) {
  return Parsed(std::move(names), "TIME", member, ParseDuration);
}

// One of `words` ("never|shutdown").
OptionSpec Word(std::string names, std::string words, std::string CommandLine::*member) {
  const std::vector<std::string> list = absl::StrSplit(words, '|');
  return {std::move(names), std::move(words),
          [member, list](CommandLine& line, const std::string& text) -> absl::Status {
            line.*member = text;
            if (std::find(list.begin(), list.end(), text) != list.end()) return absl::OkStatus();
            const std::vector<std::string> first(list.begin(), list.end() - 1);
            return InvalidArgumentError(StrCat("'", Printable(text), "': write ",
                                               absl::StrJoin(first, ", "), " or ", list.back()));
          }};
}

OptionSpec PolicyOption(const std::string& name, std::string words) {
  return {name, std::move(words), [name](CommandLine& line, const std::string& text) {
            return xml::SetPolicy(name, text, line.rewrite);
          }};
}

absl::StatusOr<size_t> ParseCount(absl::string_view text) {
  size_t count = 0;
  if (absl::SimpleAtoi(text, &count)) return count;
  return InvalidArgumentError(StrCat("'", Printable(text), "' is no number"));
}

absl::StatusOr<size_t> ParsePerStorage(absl::string_view text) {
  VR_ASSIGN_OR_RETURN(const size_t count, ParseCount(text));
  if (count > 0) return count;
  return InvalidArgumentError("at least 1");
}

// "10%,30%": warning and critical.
absl::StatusOr<CheckThresholds> ParseCheck(absl::string_view text) {
  const std::vector<std::string> parts = absl::StrSplit(text, ',');
  if (parts.size() != 2)
    return InvalidArgumentError(
        StrCat("'", Printable(text), "': write two thresholds, for example 20%,40% or 50G,200G"));
  CheckThresholds thresholds;
  VR_ASSIGN_OR_RETURN(thresholds.warning, ParseThreshold(parts[0]));
  VR_ASSIGN_OR_RETURN(thresholds.critical, ParseThreshold(parts[1]));
  const auto [warning, critical] = thresholds;
  // A size and a percentage can only be compared when it is known of what.
  const bool alike = (warning.bytes > 0) == (critical.bytes > 0);
  if (alike && (warning.bytes > critical.bytes || warning.percent > critical.percent))
    return InvalidArgumentError(
        StrCat("'", Printable(text), "': the first threshold, of a warning, is above the second"));
  return thresholds;
}

absl::StatusOr<std::optional<TrimWay>> ParseWay(absl::string_view text) {
  if (text == "auto") return std::nullopt;
  for (const TrimWay way : {TrimWay::kAgent, TrimWay::kQemuAgent}) {
    if (text == Name(way)) return way;
  }
  return InvalidArgumentError(StrCat("'", Printable(text), "': write agent, qemu-agent or auto"));
}

// "5", or "20%" of all.
absl::StatusOr<std::string> ParseBatch(const std::string& text) {
  absl::string_view number = text;
  const bool percent = absl::ConsumeSuffix(&number, "%");
  const auto count = ParseCount(number);
  if (count.ok() && *count > 0 && (!percent || *count <= 100)) return text;
  return InvalidArgumentError(
      StrCat("'", Printable(text), "' is no number of domains: write for example 5 or 20%"));
}

// ---- The table.

std::vector<OptionSpec> Join(std::vector<std::vector<OptionSpec>> parts) {
  std::vector<OptionSpec> all;
  for (std::vector<OptionSpec>& part : parts)
    all.insert(all.end(), std::make_move_iterator(part.begin()),
               std::make_move_iterator(part.end()));
  return all;
}

// Of migrate plan and apply: what to change.
std::vector<OptionSpec> ChangeOptions() {
  return {
      Flag("--diff", &CommandLine::diff),
      {"--disk", "TARGET",
       [](CommandLine& line, const std::string& target) {
         line.rewrite.targets.push_back(target);
         return CheckNotEmpty(target);
       },
       /*repeats=*/true},
      PolicyOption("--machine", "auto|keep|latest|NAME"),
      {"--keep-machine", "",
       [](CommandLine& line, const std::string&) {
         return xml::SetPolicy("--machine", "keep", line.rewrite);
       }},
      PolicyOption("--bus", "keep|auto|virtio-scsi"),
      PolicyOption("--channel", "keep|add"),
      PolicyOption("--detect-zeroes", "keep|off|on|unmap"),
      Flag("--fix-guest", &CommandLine::fix_guest),
      Flag("--allow-thick", &CommandLine::allow_thick),
      Flag("--assume", &CommandLine::assume),
  };
}

// Of migrate apply and rollback.
std::vector<OptionSpec> PowerOptions() {
  return {
      Flag("--all", &CommandLine::all),
      Word("--power-cycle", "never|shutdown|when-off", &CommandLine::power_cycle),
      Time("--shutdown-timeout", &CommandLine::shutdown_timeout),
      Time("--verify-timeout", &CommandLine::verify_timeout),
  };
}

// Of report, run and config.
OptionSpec ConfigOption() {
  OptionSpec option = TextOption("--config", "FILE", &CommandLine::config);
  option.environment = "VIRT_RECLAIM_CONFIG";
  return option;
}

OptionSpec PlanFileOption() { return TextOption("--plan", "FILE", &CommandLine::plan_file); }

std::vector<VerbSpec> MakeVerbs() {
  return {
      {Verb::kReport,
       "report",
       "df",
       "DOMAIN",
       {Flag("--exact", &CommandLine::exact),
        Parsed("--check", "WARNING,CRITICAL", &CommandLine::check, ParseCheck),
        TextOption("--html", "FILE", &CommandLine::html), ConfigOption()},
       {}},
      {Verb::kExplain,
       "explain",
       "",
       "DOMAIN",
       {Flag("--probe", &CommandLine::probe), Flag("--ask-qemu", &CommandLine::ask_qemu),
        Flag("--codes", &CommandLine::codes)},
       CheckExplain},
      {Verb::kTrim,
       "trim",
       "",
       "DOMAIN",
       {
           Size("-m,--minimum", &CommandLine::minimum),
           Size("--chunk", &CommandLine::chunk),
           Time("--pause", &CommandLine::pause),
           Time("--timeout", &CommandLine::timeout),
           Texts("--mount-point", "PATH", &CommandLine::mount_points),
           Parsed("--way", "auto|agent|qemu-agent", &CommandLine::way, ParseWay),
           TextOption("--storage", "DIR", &CommandLine::storage),
           Parsed("--threshold", "SIZE|N%", &CommandLine::threshold, ParseThreshold),
           Parsed("--min-freed", "SIZE", &CommandLine::min_freed, ParseByteSize),
           Parsed("--per-storage", "N", &CommandLine::per_storage, ParsePerStorage),
           Parsed("--window", "HH:MM-HH:MM", &CommandLine::window, ParseDailyWindow),
           Parsed("--max-duration", "TIME", &CommandLine::max_duration, ParseDuration),
           Size("--max-rate", &CommandLine::max_rate),
           Flag("--gentle", &CommandLine::gentle),
       },
       CheckTrim},
      {Verb::kMigratePlan, "migrate plan", "", "DOMAIN",
       Join({ChangeOptions(), {TextOption("--save", "FILE", &CommandLine::save)}}), CheckMachine},
      {Verb::kMigrateApply, "migrate apply", "", "DOMAIN",
       Join({ChangeOptions(),
             PowerOptions(),
             {
                 PlanFileOption(),
                 Flag("-y,--yes", &CommandLine::yes),
                 Parsed("--batch", "N|N%", &CommandLine::batch, ParseBatch),
                 Parsed("--max-failures", "N", &CommandLine::max_failures, ParseCount),
                 Time("--pause", &CommandLine::pause),
                 Parsed("--window", "HH:MM-HH:MM", &CommandLine::window, ParseDailyWindow),
             }}),
       CheckApply},
      {Verb::kMigrateVerify,
       "migrate verify",
       "",
       "DOMAIN",
       {PlanFileOption(), Time("--verify-timeout", &CommandLine::verify_timeout)},
       {}},
      {Verb::kMigrateRollback, "migrate rollback", "", "DOMAIN",
       Join({PowerOptions(), {PlanFileOption(), Flag("--fix-guest", &CommandLine::fix_guest)}}),
       CheckRollback},
      {Verb::kMigrateStatus, "migrate status", "", "DOMAIN", {PlanFileOption()}, {}},
      {Verb::kAgentStatus, "agent status", "", "DOMAIN", {}, {}},
      {Verb::kAgentInstall,
       "agent install",
       "",
       "DOMAIN",
       {TextOption("--agent-binary", "FILE", &CommandLine::agent_binary)},
       CheckAgentInstall},
      {Verb::kPunch,
       "punch",
       "",
       "FILE",
       {
           Flag("-r,--recursive", &CommandLine::recursive),
           Flag("-x,--one-file-system", &CommandLine::one_file_system),
           TextOption("--files-from", "FILE", &CommandLine::files_from),
           Flag("-0,--null", &CommandLine::null),
           Flag("--report", &CommandLine::dry_run),
           Flag("--live", &CommandLine::live),
           Flag("--unwritten", &CommandLine::unwritten),
           Flag("--no-release", &CommandLine::no_release),
           Flag("--new-mtime", &CommandLine::new_mtime),
           Size("--min-hole", &CommandLine::min_hole),
           Size("--max-rate", &CommandLine::max_rate),
           Flag("--idle", &CommandLine::idle),
       },
       CheckPunch},
      {Verb::kSync,
       "sync",
       "",
       "FILE",
       {
           Flag("-r,--recursive", &CommandLine::recursive),
           Flag("-x,--one-file-system", &CommandLine::one_file_system),
           Flag("--compare", &CommandLine::compare),
           Flag("--atomic", &CommandLine::atomic),
           Flag("--overwrite-device", &CommandLine::overwrite_device),
           Flag("--verify", &CommandLine::verify),
           TextOption("--format", "FORMAT", &CommandLine::format),
           TextOption("--domain", "NAME[:TARGET]", &CommandLine::sync_domain),
           Flag("--freeze", &CommandLine::freeze),
           Flag("--clean", &CommandLine::clean),
           Flag("--no-reflink", &CommandLine::no_reflink),
           Size("--max-rate", &CommandLine::max_rate),
           Flag("--idle", &CommandLine::idle),
       },
       CheckSync},
      {Verb::kSparsify,
       "sparsify",
       "",
       "TARGET",
       {
           Flag("--all-off", &CommandLine::all_off),
           TextOption("--storage", "DIR", &CommandLine::storage),
           Flag("--estimate", &CommandLine::dry_run),
           Flag("--report", &CommandLine::dry_run),
           TextOption("--output", "FILE", &CommandLine::copy),
           Word("--format", "raw|qcow2", &CommandLine::image_format),
           Size("--threshold", &CommandLine::least_freed),
           Word("--engine", "auto|native|libguestfs", &CommandLine::engine),
           Flag("--replay", &CommandLine::replay),
           Flag("--strict", &CommandLine::strict),
           Flag("--keep-swap", &CommandLine::keep_swap),
           Flag("--allow-thick", &CommandLine::allow_thick),
           Flag("--with-bitmaps", &CommandLine::with_bitmaps),
           Flag("--no-libvirt", &CommandLine::no_libvirt),
       },
       CheckSparsify},
      {Verb::kRun,
       "run",
       "",
       "",
       {Word("--job", "trim|sparsify|punch", &CommandLine::job),
        Parsed("--wait", "TIME", &CommandLine::wait, ParseDuration),
        Flag("--emergency", &CommandLine::emergency), Flag("--resume", &CommandLine::resume),
        ConfigOption()},
       CheckRun},
      {Verb::kConfigCheck, "config check", "", "", {ConfigOption()}, CheckConfigCheck},
      {Verb::kConfigShow, "config show", "", "DOMAIN", {ConfigOption()}, {}},
      {Verb::kCompletion, "completion", "", kShells, {}, CheckCompletion},
      {Verb::kMetrics,
       "metrics",
       "",
       "DOMAIN",
       {TextOption("--textfile", "FILE", &CommandLine::textfile)},
       {}},
  };
}

std::vector<OptionSpec> MakeGlobalOptions() {
  OptionSpec state = TextOption("--state-dir", "DIR", &CommandLine::state_directory);
  state.environment = "VIRT_RECLAIM_STATE_DIR";
  OptionSpec run = TextOption("--run-dir", "DIR", &CommandLine::run_directory);
  run.environment = "VIRT_RECLAIM_RUN_DIR";
  OptionSpec connect = {"-c,--connect", "URI", [](CommandLine& line, const std::string& text) {
                          line.connect = text;  // '' is libvirt's own choice, as of virsh
                          return absl::OkStatus();
                        }};
  return {std::move(connect),
          Flag("--json", &CommandLine::json),
          Flag("-n,--dry-run", &CommandLine::dry_run),
          Flag("--debug", &CommandLine::debug),
          std::move(state),
          std::move(run)};
}

}  // namespace

const std::vector<OptionSpec>& GlobalOptions() {
  static const auto& options = *new std::vector<OptionSpec>(MakeGlobalOptions());
  return options;
}

const std::vector<VerbSpec>& VerbTable() {
  static const auto& verbs = *new std::vector<VerbSpec>(MakeVerbs());
  return verbs;
}

std::string LongName(const OptionSpec& option) {
  return option.names.substr(option.names.find("--"));
}

}  // namespace virt_reclaim
