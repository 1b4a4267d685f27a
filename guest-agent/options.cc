#include "guest-agent/options.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/byte_size.h"
#include "base/escape.h"
#include "base/status.h"

namespace virt_reclaim::agent {

const absl::string_view kHelpText = R"(Usage: virt-reclaim-agent list [--json] [--all]
       virt-reclaim-agent trim --all | MOUNTPOINT... [options]
       virt-reclaim-agent preflight [--json]
       virt-reclaim-agent daemon [--port PATH]

Gives a virtual machine's free disk space back to its host: tells the host what
filesystems there are and trims them when it asks. Runs inside the guest.

Commands:
  list              the mounted filesystems, what a discard meets on its way to
                    the disk, and whether a trim is possible
  trim              discard the unused blocks of filesystems, as fstrim(8) does
  preflight         what decides whether this guest boots after its disks moved
                    to virtio-scsi: drivers, names of devices; changes nothing
  daemon            serve the host over the virtio-serial port until stopped

Options of list:
  --all             also filesystems without a disk (tmpfs, overlay, proc, ...)
  --json            print one JSON document

Options of trim:
  -a, --all         every mounted filesystem that can be trimmed, each once
  -m, --minimum N   leave free extents shorter than N bytes alone
  --chunk N         length of one step, rounded up to what the filesystem
                    honours (default: 1 GiB on ext4, an allocation group on XFS)
  --pause T         time between two steps, at most 60s: 200ms, 1.5s
  -n, --dry-run     choose and print, trim nothing
  --json            print one JSON document

Options of preflight:
  --json            print one JSON document

Options of daemon:
  --port PATH       the port's device, or a unix socket (default: the port named
                    org.virt_reclaim.agent.v1)

  -h, --help        print this help
  -V, --version     print the version

N is a number of bytes, or has a suffix: 64K, 1M, 2G (powers of 1024).

Exit status: 0 done, 1 error, 2 wrong usage, 3 some filesystems failed,
130 interrupted.

See also virt-reclaim-agent(8), fstrim(8).
)";

namespace {

struct Option {
  absl::string_view name;
  char letter;  // 0: none
  bool has_value;
  std::array<bool, 5> of;  // list, trim, preflight, daemon, worker
};

constexpr Option kOptions[] = {
    {"--all", 'a', false, {true, true, false, false, false}},
    {"--json", 0, false, {true, true, true, false, false}},
    {"--minimum", 'm', true, {false, true, false, false, false}},
    {"--chunk", 0, true, {false, true, false, false, false}},
    {"--pause", 0, true, {false, true, false, false, false}},
    {"--dry-run", 'n', false, {false, true, false, false, false}},
    {"--port", 0, true, {false, false, false, true, false}},
    {"--help", 'h', false, {true, true, true, true, true}},
    {"--version", 'V', false, {true, true, true, true, true}},
};

struct Verb {
  absl::string_view name;
  Command command;
  size_t column;  // in Option::of
};
// worker and clean-up are for the daemon, not for people: they stand in no help.
constexpr Verb kVerbs[] = {
    {"list", Command::kList, 0},           {"trim", Command::kTrim, 1},
    {"preflight", Command::kPreflight, 2}, {"daemon", Command::kDaemon, 3},
    {"worker", Command::kWorker, 4},       {"clean-up", Command::kCleanUp, 4}};

// Letters to add, remove or change to get from `a` to `b`.
size_t Distance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0]++;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, change});
    }
  }
  return row.back();
}

// ": did you mean '--json'?", or a pointer to the help when nothing is near.
std::string Suggest(absl::string_view wrong, const std::vector<absl::string_view>& candidates) {
  absl::string_view best;
  size_t best_distance =
      wrong.size() <= 64 ? std::max<size_t>(1, std::min<size_t>(3, wrong.size() / 2)) + 1 : 0;
  for (const absl::string_view candidate : candidates) {
    if (best_distance == 0) break;
    const size_t distance = Distance(wrong, candidate);
    if (distance < best_distance) best = candidate, best_distance = distance;
  }
  return best.empty() ? " (see --help)" : absl::StrCat(": did you mean '", best, "'?");
}

// What was typed need not be shown in full.
std::string QuotedWord(absl::string_view word) { return Quoted(word, 200); }

absl::Status WrongOption(absl::string_view name, const Verb* verb) {
  std::vector<absl::string_view> candidates;
  for (const Option& option : kOptions) {
    if (verb != nullptr && !option.of[verb->column]) continue;
    candidates.push_back(option.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown option ", QuotedWord(name), Suggest(name, candidates)));
}

absl::StatusOr<std::chrono::milliseconds> ParsePause(absl::string_view text) {
  absl::Duration pause;
  if (!absl::ParseDuration(text, &pause)) {
    return absl::InvalidArgumentError(
        absl::StrCat(QuotedWord(text), " is no time (write 200ms or 1.5s)"));
  }
  if (pause < absl::ZeroDuration() || pause > absl::Seconds(60)) {
    return absl::InvalidArgumentError("the pause must be between 0 and 60 seconds");
  }
  return absl::ToChronoMilliseconds(absl::Ceil(pause, absl::Milliseconds(1)));
}

absl::Status Apply(const Option& option, absl::string_view value, CommandLine& line) {
  if (option.name == "--all") line.all = true;
  if (option.name == "--json") line.json = true;
  if (option.name == "--dry-run") line.dry_run = true;
  if (option.name == "--help") line.command = Command::kHelp;
  if (option.name == "--version") line.command = Command::kVersion;
  if (option.name == "--port") {
    if (value.empty()) return absl::InvalidArgumentError("the path is empty");
    line.port = std::string(value);
  }
  if (option.name == "--minimum") {
    VR_ASSIGN_OR_RETURN(line.trim.minimum_bytes, ParseByteSize(value));
  }
  if (option.name == "--chunk") {
    VR_ASSIGN_OR_RETURN(line.trim.chunk_bytes, ParseByteSize(value));
  }
  if (option.name == "--pause") {
    VR_ASSIGN_OR_RETURN(line.trim.pace.pause, ParsePause(value));
  }
  return absl::OkStatus();
}

// Reads the words one by one; --help and --version end it.
class Parser {
 public:
  explicit Parser(std::span<const char* const> arguments) : arguments_(arguments) {}

  absl::StatusOr<CommandLine> Parse() {
    bool options_over = false;
    while (next_ < arguments_.size()) {
      const absl::string_view word = arguments_[next_++];
      if (!options_over && word == "--") {
        options_over = true;
      } else if (!options_over && word.size() > 1 && word[0] == '-') {
        VR_RETURN_IF_ERROR(word[1] == '-' ? Long(word) : Letters(word));
        if (done_) return line_;
      } else {
        VR_RETURN_IF_ERROR(Word(word));
      }
    }
    VR_RETURN_IF_ERROR(Check());
    return line_;
  }

 private:
  absl::Status Long(absl::string_view word) {
    const size_t equals = word.find('=');
    const absl::string_view name = word.substr(0, equals);
    const Option* option = Find([&](const Option& candidate) { return candidate.name == name; });
    if (option == nullptr) return WrongOption(name, verb_);
    std::optional<absl::string_view> value;
    if (equals != absl::string_view::npos) value = word.substr(equals + 1);
    if (value && !option->has_value) {
      return absl::InvalidArgumentError(absl::StrCat("option '", option->name, "' takes no value"));
    }
    return Take(*option, value);
  }

  // -a, -nm64K, -m 64K
  absl::Status Letters(absl::string_view word) {
    for (size_t i = 1; i < word.size() && !done_; ++i) {
      const Option* option =
          Find([&](const Option& candidate) { return candidate.letter == word[i]; });
      if (option == nullptr) return WrongOption(word, verb_);
      std::optional<absl::string_view> value;
      if (option->has_value && i + 1 < word.size()) value = word.substr(i + 1);
      VR_RETURN_IF_ERROR(Take(*option, value));
      if (value) break;
    }
    return absl::OkStatus();
  }

  absl::Status Take(const Option& option, std::optional<absl::string_view> value) {
    if (option.has_value && !value) {
      if (next_ == arguments_.size()) {
        return absl::InvalidArgumentError(absl::StrCat("option '", option.name, "' needs a value"));
      }
      value = arguments_[next_++];
    }
    done_ = option.name == "--help" || option.name == "--version";
    if (!done_ && verb_ == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("option '", option.name, "' comes after the command (see --help)"));
    }
    if (!done_ && !option.of[verb_->column]) {
      return absl::InvalidArgumentError(
          absl::StrCat("option '", option.name, "' is none of '", verb_->name, "'"));
    }
    return Annotate(Apply(option, value.value_or(""), line_),
                    absl::StrCat("option '", option.name, "'"));
  }

  absl::Status Word(absl::string_view word) {
    if (verb_ == nullptr) {
      const auto* found = std::find_if(std::begin(kVerbs), std::end(kVerbs),
                                       [&](const Verb& verb) { return verb.name == word; });
      if (found == std::end(kVerbs)) {
        return absl::InvalidArgumentError(
            absl::StrCat("unknown command ", QuotedWord(word),
                         Suggest(word, {"list", "trim", "preflight", "daemon"})));
      }
      verb_ = found;
      line_.command = found->command;
      return absl::OkStatus();
    }
    if (verb_->command != Command::kTrim) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", verb_->name, "' takes no argument ", QuotedWord(word)));
    }
    if (word.empty()) return absl::InvalidArgumentError("a mount point is empty");
    line_.mount_points.emplace_back(word);
    return absl::OkStatus();
  }

  absl::Status Check() const {
    if (verb_ == nullptr)
      return absl::InvalidArgumentError("no command: list, trim, preflight or daemon (see --help)");
    if (verb_->command != Command::kTrim) return absl::OkStatus();
    if (line_.all && !line_.mount_points.empty()) {
      return absl::InvalidArgumentError("either --all or mount points, not both");
    }
    if (!line_.all && line_.mount_points.empty()) {
      return absl::InvalidArgumentError("trim what? name mount points, or give --all");
    }
    return CheckTrimOptions(line_.trim);
  }

  template <typename Match>
  const Option* Find(Match match) const {
    const auto* found = std::find_if(std::begin(kOptions), std::end(kOptions), match);
    return found == std::end(kOptions) ? nullptr : found;
  }

  std::span<const char* const> arguments_;
  size_t next_ = 0;
  const Verb* verb_ = nullptr;
  bool done_ = false;
  CommandLine line_;
};

}  // namespace

absl::StatusOr<CommandLine> ParseCommandLine(std::span<const char* const> arguments) {
  return Parser(arguments).Parse();
}

}  // namespace virt_reclaim::agent
