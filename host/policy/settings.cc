#include "host/policy/settings.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/byte_size.h"
#include "base/duration.h"
#include "base/escape.h"
#include "base/status.h"
#include "base/suggest.h"

namespace virt_reclaim::policy {
namespace {

using absl::InvalidArgumentError;
using absl::StrCat;

template <typename Settings>
SettingSpec<Settings> Flag(std::string key, bool Settings::*member, bool standard = false) {
  return {std::move(key), Form::kFlag, "true|false", standard ? "true" : "false",
          [member](Settings& settings, const std::string& text) {
            settings.*member = text == "true";
            return absl::OkStatus();
          }};
}

// By a function that makes a value of the text.
template <typename Settings, typename T, typename Parse>
SettingSpec<Settings> Parsed(std::string key, Form form, std::string takes, T Settings::*member,
                             Parse parse, std::string standard = "") {
  return {std::move(key), form, std::move(takes), std::move(standard),
          [member, parse](Settings& settings, const std::string& text) -> absl::Status {
            VR_ASSIGN_OR_RETURN(settings.*member, parse(text));
            return absl::OkStatus();
          }};
}

template <typename Settings, typename T>
SettingSpec<Settings> Size(std::string key, T Settings::*member) {
  return Parsed(std::move(key), Form::kAmount, "SIZE", member, ParseByteSize);
}

template <typename Settings>
SettingSpec<Settings> Window(std::optional<DailyWindow> Settings::*member) {
  return Parsed("window", Form::kText, "HH:MM-HH:MM", member, ParseDailyWindow);
}

absl::Status UnknownWord(const std::string& word, const std::vector<std::string>& known) {
  const auto nearest = NearestWord(word, known);
  if (nearest)
    return InvalidArgumentError(StrCat("'", Printable(word), "': did you mean '", *nearest, "'?"));
  return InvalidArgumentError(
      StrCat("'", Printable(word), "': write ", absl::StrJoin(known, " or ")));
}

// One of `words`, as it is.
SettingSpec<DomainSettings> Word(std::string key, const std::string& words,
                                 std::string DomainSettings::*member, std::string standard) {
  const std::vector<std::string> known = absl::StrSplit(words, '|');
  return Parsed(
      std::move(key), Form::kText, words, member,
      [known](const std::string& text) -> absl::StatusOr<std::string> {
        if (std::find(known.begin(), known.end(), text) != known.end()) return text;
        return UnknownWord(text, known);
      },
      std::move(standard));
}

constexpr char kPunchWay[] = "punch";

absl::Status SetWays(DomainSettings& settings, const std::string& text) {
  settings.agent = settings.qemu_agent = settings.sparsify = settings.punch = false;
  const std::vector<std::string> words = absl::StrSplit(text, kBetweenWords);
  for (const std::string& word : words) {
    if (word == "agent") {
      settings.agent = true;
    } else if (word == "qemu-agent") {
      settings.qemu_agent = true;
    } else if (word == "sparsify") {
      settings.sparsify = true;
    } else if (word == kPunchWay) {
      settings.punch = true;
    } else {
      return UnknownWord(word, {"agent", "qemu-agent", "sparsify", kPunchWay});
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<absl::Duration> ParseSomeTime(const std::string& text) {
  VR_ASSIGN_OR_RETURN(const absl::Duration time, ParseDuration(text));
  if (time > absl::ZeroDuration()) return time;
  return InvalidArgumentError("must be longer than 0");
}

absl::StatusOr<size_t> ParseSome(const std::string& text) {
  constexpr size_t kMost = 1000;  // more is a slip of the finger
  size_t count = 0;
  if (absl::SimpleAtoi(text, &count) && count > 0 && count <= kMost) return count;
  return InvalidArgumentError(StrCat("'", Printable(text), "': write a number from 1 to ", kMost));
}

std::vector<SettingSpec<DomainSettings>> MakeDomainSpecs() {
  using S = DomainSettings;
  return {
      Flag("enabled", &S::enabled, true),
      {"ways", Form::kWords, "agent|qemu-agent|sparsify|punch", "agent, qemu-agent, sparsify",
       SetWays},
      Parsed("threshold", Form::kAmount, "SIZE|N%", &S::threshold, ParseThreshold),
      Size("min-freed", &S::min_freed),
      Window(&S::window),
      Flag("gentle", &S::gentle),
      Size("max-rate", &S::max_rate),
      Parsed("timeout", Form::kAmount, "TIME", &S::timeout, ParseSomeTime),
      Parsed("per-storage", Form::kCount, "N", &S::per_storage, ParseSome),
      Word("engine", "auto|native|libguestfs", &S::engine, "auto"),
      Flag("strict", &S::strict),
      Flag("keep-swap", &S::keep_swap),
      Flag("allow-thick", &S::allow_thick),
      Flag("with-bitmaps", &S::with_bitmaps),
  };
}

std::vector<SettingSpec<BackupSettings>> MakeBackupSpecs() {
  using S = BackupSettings;
  return {
      Flag("recursive", &S::recursive, true),
      Flag("one-file-system", &S::one_file_system, true),
      Flag("live", &S::live),
      Flag("unwritten", &S::unwritten),
      Flag("idle", &S::idle, true),
      Size("min-hole", &S::min_hole),
      Size("max-rate", &S::max_rate),
      Window(&S::window),
  };
}

std::vector<SettingSpec<RunLimits>> MakeLimitSpecs() {
  using S = RunLimits;
  return {
      Parsed("per-storage", Form::kCount, "N", &S::per_storage, ParseSome, "1"),
      Parsed("max-duration", Form::kAmount, "TIME", &S::max_duration, ParseSomeTime),
  };
}

bool AllowsPunch(const Values& values) {
  const auto ways = values.find("ways");
  if (ways == values.end()) return false;
  const std::vector<std::string> words = absl::StrSplit(ways->second.text, kBetweenWords);
  return std::find(words.begin(), words.end(), kPunchWay) != words.end();
}

}  // namespace

bool MayPunchDomains(const Policy& policy) {
  return AllowsPunch(policy.defaults) ||
         std::any_of(policy.rules.begin(), policy.rules.end(),
                     [](const Rule& rule) { return AllowsPunch(rule.values); });
}

const std::vector<SettingSpec<DomainSettings>>& DomainSpecs() {
  static const auto& specs = *new std::vector<SettingSpec<DomainSettings>>(MakeDomainSpecs());
  return specs;
}

const std::vector<SettingSpec<BackupSettings>>& BackupSpecs() {
  static const auto& specs = *new std::vector<SettingSpec<BackupSettings>>(MakeBackupSpecs());
  return specs;
}

const std::vector<SettingSpec<RunLimits>>& LimitSpecs() {
  static const auto& specs = *new std::vector<SettingSpec<RunLimits>>(MakeLimitSpecs());
  return specs;
}

}  // namespace virt_reclaim::policy
