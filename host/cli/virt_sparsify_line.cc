#include "host/cli/virt_sparsify_line.h"

#include <getopt.h>

#include <array>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace virt_reclaim {
namespace {

constexpr char kName[] = "virt-sparsify";
// The one whose command line this is.
constexpr char kVersion[] = "virt-sparsify 1.48.2\n";

constexpr char kHelp[] =
    R"(virt-sparsify: sparsify a virtual machine disk

 virt-sparsify [--options] indisk outdisk

 virt-sparsify [--options] --in-place disk

A short summary of the options is given below.  This is the virt-sparsify of virt-reclaim: virt-reclaim(1)
says what it does otherwise.

Options:
  --check-tmpdir <ignore|...>         Check there is enough space in $TMPDIR
  --color, --colors, --colour, --colours
                                      Taken, and changes nothing
  --compress                          Compressed output format
  --convert <format>                  Format of output disk (default: same as input)
  --echo-keys                         Taken, and changes nothing
  --format <format>                   Format of input disk
  --help                              Display brief help
  --ignore <fs>                       Ignore filesystem
  --in-place, --inplace               Modify the disk image in-place
  --key <SELECTOR>                    Specify a LUKS key
  --keys-from-stdin                   Read passphrases from stdin
  --machine-readable[=format]         Make output machine readable
  -o <option>                         Add qemu-img options
  -q, --quiet                         Don’t print progress messages
  --tmp <block|dir|prebuilt:file>     Set temporary block device, directory or prebuilt file
  -V, --version                       Display version and exit
  -v, --verbose                       With -x: no advice on reporting bugs
  --wrap                              Taken, and changes nothing
  -x                                  With -v: no advice on reporting bugs
  --zero <fs>                         Zero filesystem
)";

constexpr char kTry[] =
    "Try ‘virt-sparsify --help’ or consult virt-sparsify(1) for more information.\n";
// What --machine-readable alone prints: what this program can.
constexpr char kCapabilities[] =
    "virt-sparsify\nlinux-swap\nzero\ncheck-tmpdir\nin-place\ntmp-option\nntfs\nbtrfs\n";

enum Option : int {
  kCheckTmpdir = 256,
  kColour,
  kCompress,
  kConvert,
  kDebugGc,
  kEchoKeys,
  kFormat,
  kHelpOption,
  kIgnore,
  kInPlace,
  kKey,
  kKeysFromStdin,
  kLongOptions,
  kMachineReadable,
  kShortOptions,
  kTmp,
  kWrap,
  kZero,
};

// Sorted, as --long-options prints them; what it hides is at the end.
constexpr option kOptions[] = {
    {"check-tmpdir", required_argument, nullptr, kCheckTmpdir},
    {"color", no_argument, nullptr, kColour},
    {"colors", no_argument, nullptr, kColour},
    {"colour", no_argument, nullptr, kColour},
    {"colours", no_argument, nullptr, kColour},
    {"compress", no_argument, nullptr, kCompress},
    {"convert", required_argument, nullptr, kConvert},
    {"debug-gc", no_argument, nullptr, kDebugGc},
    {"echo-keys", no_argument, nullptr, kEchoKeys},
    {"format", required_argument, nullptr, kFormat},
    {"help", no_argument, nullptr, kHelpOption},
    {"ignore", required_argument, nullptr, kIgnore},
    {"in-place", no_argument, nullptr, kInPlace},
    {"inplace", no_argument, nullptr, kInPlace},
    {"key", required_argument, nullptr, kKey},
    {"keys-from-stdin", no_argument, nullptr, kKeysFromStdin},
    {"machine-readable", optional_argument, nullptr, kMachineReadable},
    {"quiet", no_argument, nullptr, 'q'},
    {"tmp", required_argument, nullptr, kTmp},
    {"version", no_argument, nullptr, 'V'},
    {"verbose", no_argument, nullptr, 'v'},
    {"wrap", no_argument, nullptr, kWrap},
    {"zero", required_argument, nullptr, kZero},
    {"long-options", no_argument, nullptr, kLongOptions},
    {"short-options", no_argument, nullptr, kShortOptions},
    {nullptr, 0, nullptr, 0},
};
constexpr size_t kHidden = 2;

std::string LongOptions() {
  std::string text;
  for (size_t i = 0; i + 1 + kHidden < std::size(kOptions); ++i)
    absl::StrAppend(&text, "--", kOptions[i].name, "\n");
  return text;
}

// Options that it never had, and guides name all the same.
std::string HintFor(absl::string_view word) {
  while (absl::ConsumePrefix(&word, "-")) {
  }
  const absl::string_view name = word.substr(0, word.find('='));
  if (name == "no-zero")
    return "virt-sparsify: there is no --no-zero: '--ignore FILESYSTEM' leaves one as it is\n";
  if (name == "overwrite")
    return "virt-sparsify: there is no --overwrite: outdisk is always overwritten\n";
  return "";
}

// The word that getopt_long has just looked at.
size_t LastWord() { return optind > 0 ? static_cast<size_t>(optind) - 1 : 0; }

// One run over the words.
class LineParser {
 public:
  std::variant<VirtSparsifyLine, VirtSparsifyEnd> Parse(const std::vector<std::string>& arguments) {
    std::vector<std::string> words = {kName};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    optind = 0;  // glibc: begin anew
    opterr = 1;  // its messages, on stderr
    while (true) {
      const int found = getopt_long_only(static_cast<int>(words.size()), argv.data(), "o:qVvx",
                                         kOptions, nullptr);
      if (found == -1) break;
      if (found == '?') return VirtSparsifyEnd{"", kTry + HintFor(argv[LastWord()]), 1};
      if (auto end = Take(found, optarg == nullptr ? "" : optarg)) return *std::move(end);
    }
    for (size_t i = static_cast<size_t>(optind); i < words.size(); ++i)
      line_.disks.emplace_back(argv[i]);
    return Check();
  }

 private:
  VirtSparsifyEnd Fail(const std::string& text) const {
    return {"", VirtSparsifyError(text, !(line_.verbose && line_.trace)), 1};
  }

  // What ends it at once; empty: go on.
  std::optional<VirtSparsifyEnd> Take(int found, const std::string& value) {
    switch (found) {
      case kCheckTmpdir:
        return TakeCheckTmpdir(value);
      case kColour:
        line_.colours = true;
        break;
      case kCompress:
        line_.compress = true;
        break;
      case kConvert:
        line_.convert = value;
        break;
      case kEchoKeys:
        line_.echo_keys = true;
        break;
      case kFormat:
        line_.format = value;
        break;
      case kHelpOption:
        return VirtSparsifyEnd{kHelp, "", 0};
      case kIgnore:
        line_.ignore.push_back(value);
        break;
      case kInPlace:
        line_.in_place = true;
        break;
      case kKey:
        if (!IsSelector(value))
          return Fail(absl::StrCat("invalid selector string for --key: ", value));
        line_.keys.push_back(value);
        break;
      case kKeysFromStdin:
        line_.keys_from_stdin = true;
        break;
      case kLongOptions:
        return VirtSparsifyEnd{LongOptions(), "", 0};
      case kMachineReadable:
        return TakeMachineReadable(value);
      case kShortOptions:
        return VirtSparsifyEnd{"-o\n-q\n-V\n-v\n-x\n", "", 0};
      case kTmp:
        line_.tmp = value;
        break;
      case kWrap:
        line_.wrap = true;
        break;
      case kZero:
        line_.zero.push_back(value);
        break;
      case 'o':
        line_.qemu_options = value;
        break;
      case 'q':
        line_.quiet = true;
        break;
      case 'v':
        line_.verbose = true;
        break;
      case 'x':
        line_.trace = true;
        break;
      case 'V':
        return VirtSparsifyEnd{kVersion, "", 0};
      default:  // --debug-gc: is about a runtime that we do not have
        break;
    }
    return std::nullopt;
  }

  std::optional<VirtSparsifyEnd> TakeCheckTmpdir(const std::string& value) {
    using Check = VirtSparsifyLine::CheckTmpdir;
    struct Word {
      absl::string_view text;
      Check check;
    };
    static constexpr Word kWords[] = {
        {"ignore", Check::kIgnore}, {"i", Check::kIgnore},   {"continue", Check::kContinue},
        {"cont", Check::kContinue}, {"c", Check::kContinue}, {"warn", Check::kWarn},
        {"warning", Check::kWarn},  {"w", Check::kWarn},     {"fail", Check::kFail},
        {"f", Check::kFail},        {"error", Check::kFail},
    };
    for (const Word& word : kWords) {
      if (value != word.text) continue;
      line_.check_tmpdir = word.check;
      return std::nullopt;
    }
    return Fail(absl::StrCat("--check-tmpdir: unknown argument ‘", value, "’"));
  }

  // "ID:key:STRING", "ID:file:NAME", "ID:clevis".
  static bool IsSelector(absl::string_view value) {
    const size_t colon = value.find(':');
    if (colon == absl::string_view::npos) return false;
    const absl::string_view rest = value.substr(colon + 1);
    return rest == "clevis" || absl::StartsWith(rest, "key:") || absl::StartsWith(rest, "file:");
  }

  std::optional<VirtSparsifyEnd> TakeMachineReadable(const std::string& value) {
    line_.machine_readable = true;
    line_.machine_output = value;
    if (value.empty()) return std::nullopt;
    const size_t colon = value.find(':');
    if (colon == std::string::npos)
      return Fail(absl::StrCat("invalid format string for --machine-readable: ", value));
    const std::string kind = value.substr(0, colon);
    const std::string what = value.substr(colon + 1);
    if (kind == "stream" && what != "stdout" && what != "stderr")
      return Fail(absl::StrCat("invalid output stream for --machine-readable: ", value));
    const bool number = !what.empty() && what.find_first_not_of("0123456789") == std::string::npos;
    if (kind == "fd" && (!number || what.size() > 6))
      return Fail(absl::StrCat("invalid output fd for --machine-readable: ", value));
    if (kind != "file" && kind != "stream" && kind != "fd")
      return Fail(absl::StrCat("invalid output for --machine-readable: ", value));
    return std::nullopt;
  }

  std::variant<VirtSparsifyLine, VirtSparsifyEnd> Check() const {
    if (line_.disks.empty() && line_.machine_readable) return VirtSparsifyEnd{kCapabilities, "", 0};
    if (!line_.in_place) {
      if (line_.disks.size() != 2) return Fail("usage: virt-sparsify [--options] indisk outdisk");
      if (line_.disks[0] == line_.disks[1])
        return Fail("you cannot use the same disk image for input and output");
      return line_;
    }
    if (line_.disks.size() != 1) return Fail("usage: virt-sparsify --in-place [--options] indisk");
    struct Forbidden {
      const char* name;
      bool given;
    };
    const Forbidden forbidden[] = {
        {"--check-tmpdir", line_.check_tmpdir != VirtSparsifyLine::CheckTmpdir::kWarn},
        {"--compress", line_.compress},
        {"--convert", !line_.convert.empty()},
        {"-o", !line_.qemu_options.empty()},
        {"--tmp", !line_.tmp.empty()},
    };
    for (const Forbidden& option : forbidden) {
      if (option.given)
        return Fail(
            absl::StrCat("you cannot use --in-place and ", option.name, " options together"));
    }
    return line_;
  }

  VirtSparsifyLine line_;
};

}  // namespace

std::variant<VirtSparsifyLine, VirtSparsifyEnd> ParseVirtSparsify(
    const std::vector<std::string>& arguments) {
  return LineParser().Parse(arguments);
}

std::string VirtSparsifyError(const std::string& text, bool advice) {
  std::string message = absl::StrCat("virt-sparsify: error: ", text, "\n");
  if (advice) {
    absl::StrAppend(&message,
                    "\nIf reporting bugs, run virt-sparsify with debugging enabled and include the "
                    "complete output:\n\n  virt-sparsify -v -x [...]\n");
  }
  return message;
}

}  // namespace virt_reclaim
