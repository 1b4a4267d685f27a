#include "xml-tools/options.h"

#include <algorithm>
#include <optional>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/escape.h"
#include "base/status.h"
#include "base/suggest.h"
#include "xml-tools/filter.h"
#include "xml-tools/policies.h"

namespace virt_reclaim::xml {
namespace {

constexpr absl::string_view kHelp = R"(Usage: virt-reclaim-xml [OPTION...] [FILE...]

Edits libvirt domain XML so that the guest's discards reach the image: sets
discard='unmap' on every disk that can take it, and raises the machine type only
as far as a virtio disk needs. Reads FILE, or standard input when there is none
or it is '-', and writes the XML to standard output. Every byte outside the edit
stays as it is; a second run changes nothing.

      --diff            print a unified diff instead of the XML
      --check           print nothing; exit with 3 when there is something to change
      --json            print what is changed, refused and warned of, as JSON
  -i, --in-place        edit the files; the old text is kept as FILE.bak
  -O, --output-dir=DIR  write each FILE, edited or not, under its name into DIR
      --disk=TARGET     only this disk (vda); may be given more than once
      --discard=MODE    unmap (default); ignore: undo it; keep
      --detect-zeroes=MODE
                        off, on, unmap; keep (default)
      --machine=MODE    auto: raise the machine type when needed (default); keep;
                        latest or NAME: a newer one of the same family
      --host-machines=NAME[,NAME...]
                        the machine types the host has; the others are not chosen
      --bus=MODE        keep (default); auto: virtio-scsi for a virtio disk when
                        nothing else helps; virtio-scsi: for every disk
      --channel=MODE    add: the port of the guest's agent; keep (default)
      --help, --version

Another bus needs a guest that is ready for it; this program cannot look. The boot
disk of a Windows guest is never moved. Refused disks are named on standard error.
Several FILEs need --in-place, --output-dir, --diff, --check or --json.

Exit status: 0 done; 1 error; 2 wrong usage; 3 --check: something to change, else
some of several files failed; 5 refused.
)";

constexpr absl::string_view kLongOptions[] = {
    "--diff",          "--check",   "--json", "--in-place",      "--output-dir",
    "--disk",          "--machine", "--bus",  "--detect-zeroes", "--discard",
    "--host-machines", "--channel", "--help", "--version"};

absl::Status UnknownOption(absl::string_view name) {
  const std::vector<std::string> known(std::begin(kLongOptions), std::end(kLongOptions));
  const auto nearest = NearestWord(name, known);
  const std::string hint = nearest ? absl::StrCat(": did you mean '", *nearest, "'?") : "";
  return absl::InvalidArgumentError(absl::StrCat("unknown option '", Printable(name), "'", hint));
}

class Parser {
 public:
  explicit Parser(const std::vector<std::string>& arguments) : arguments_(arguments) {}

  absl::StatusOr<Options> Parse() {
    bool only_files = false;
    for (; next_ < arguments_.size(); ++next_) {
      const absl::string_view word = arguments_[next_];
      if (only_files || word == "-" || !absl::StartsWith(word, "-")) {
        options_.files.emplace_back(word);
      } else if (word == "--") {
        only_files = true;
      } else {
        VR_RETURN_IF_ERROR(ParseOption(word));
      }
    }
    if (options_.files.empty()) options_.files.emplace_back("-");
    VR_RETURN_IF_ERROR(Check());
    return options_;
  }

 private:
  absl::Status ParseOption(absl::string_view word) {
    const size_t equals = word.find('=');
    const absl::string_view name = word.substr(0, equals);
    const bool has_value = IsPolicy(name) || name == "--disk" || name == "--host-machines" ||
                           name == "--output-dir" || name == "-O";
    if (has_value) {
      VR_ASSIGN_OR_RETURN(const std::string value, ValueOf(word, equals));
      return SetValue(name, value);
    }
    bool* const flag = name == "--diff"                       ? &options_.diff
                       : name == "--check"                    ? &options_.check
                       : name == "--json"                     ? &options_.json
                       : name == "--in-place" || name == "-i" ? &options_.in_place
                       : name == "--help" || name == "-h"     ? &options_.help
                       : name == "--version"                  ? &options_.version
                                                              : nullptr;
    if (flag == nullptr) return UnknownOption(name);
    if (equals != absl::string_view::npos)
      return absl::InvalidArgumentError(absl::StrCat("option '", name, "' takes no value"));
    *flag = true;
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> ValueOf(absl::string_view word, size_t equals) {
    if (equals != absl::string_view::npos) return std::string(word.substr(equals + 1));
    if (next_ + 1 == arguments_.size())
      return absl::InvalidArgumentError(absl::StrCat("option '", word, "' needs a value"));
    return arguments_[++next_];
  }

  absl::Status SetValue(absl::string_view name, const std::string& value) {
    RewriteOptions& rewrite = options_.rewrite;
    if (IsPolicy(name)) return SetPolicy(name, value, rewrite);
    if (value.empty()) {
      return absl::InvalidArgumentError(
          name == "--disk" ? "option '--disk' needs the target of a disk, such as 'vda'"
                           : absl::StrCat("option '", name, "' needs a value"));
    }
    if (name == "--disk") rewrite.targets.push_back(value);
    if (name == "--host-machines")
      rewrite.known_machines = absl::StrSplit(value, ',', absl::SkipEmpty());
    if (name == "--output-dir" || name == "-O") options_.output_dir = value;
    return absl::OkStatus();
  }

  // Two files of one name would become one.
  absl::Status CheckOutputNames() const {
    std::set<absl::string_view> names;
    for (const absl::string_view file : options_.files) {
      if (file == "-") return absl::InvalidArgumentError("--output-dir needs a FILE");
      const absl::string_view name = BaseName(file);
      if (!names.insert(name).second) {
        return absl::InvalidArgumentError(
            absl::StrCat("two files are named '", Printable(name), "': not with --output-dir"));
      }
    }
    return absl::OkStatus();
  }

  absl::Status Check() const {
    if (options_.help || options_.version) return absl::OkStatus();
    if (options_.diff + options_.check + options_.json > 1) {
      return absl::InvalidArgumentError("only one of --diff, --check and --json can be given");
    }
    if (options_.check && options_.in_place)
      return absl::InvalidArgumentError("--check changes nothing: not with --in-place");
    if (!options_.output_dir.empty()) {
      if (options_.in_place || options_.diff || options_.check)
        return absl::InvalidArgumentError(
            "--output-dir does not go together with --in-place, --diff and --check");
      return CheckOutputNames();
    }
    const bool has_stdin = std::count(options_.files.begin(), options_.files.end(), "-") > 0;
    if (options_.in_place && has_stdin)
      return absl::InvalidArgumentError("--in-place needs a FILE");
    if (options_.files.size() > 1 && !options_.in_place && !options_.diff && !options_.check &&
        !options_.json) {
      return absl::InvalidArgumentError(
          "several files need --in-place, --output-dir, --diff, --check or --json");
    }
    return absl::OkStatus();
  }

  const std::vector<std::string>& arguments_;
  size_t next_ = 0;
  Options options_;
};

}  // namespace

absl::StatusOr<Options> ParseOptions(const std::vector<std::string>& arguments) {
  return Parser(arguments).Parse();
}

absl::string_view HelpText() { return kHelp; }

}  // namespace virt_reclaim::xml
