// virt-reclaim-xml: the rewriter as a filter. Data on stdout, refusals, warnings and errors on
// stderr. One thread.
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/io.h"
#include "base/standard_fds.h"
#include "base/status.h"
#include "xml-tools/filter.h"
#include "xml-tools/options.h"
#include "xml-tools/rewrite.h"

namespace virt_reclaim::xml {
namespace {

enum ExitStatus {
  kDone = 0,
  kError = 1,
  kUsage = 2,
  kSomeFailed = 3,
  kWouldChange = 3,
  kRefused = 5
};

using Json = nlohmann::ordered_json;

// Names come from an XML file and may hold anything; JSON is UTF-8.
std::string Text(absl::string_view text) { return Printable(text); }

Json NotesAsJson(const std::vector<Refusal>& notes) {
  Json list = Json::array();
  for (const Refusal& note : notes) {
    list.push_back(
        {{"target", Text(note.target)}, {"reason", note.reason}, {"detail", note.detail}});
  }
  return list;
}

Json AsJson(const std::string& file, const absl::StatusOr<Rewritten>& result) {
  Json json = {{"file", Text(file)}};
  if (!result.ok()) {
    json["error"] = Text(result.status().message());
    return json;
  }
  json["changed"] = !result->changes.empty();
  json["changes"] = Json::array();
  for (const Change& change : result->changes) {
    json["changes"].push_back({{"target", Text(change.target)},
                               {"what", change.what},
                               {"before", Text(change.before)},
                               {"after", change.after},
                               {"reason", Text(change.reason)}});
  }
  json["refusals"] = NotesAsJson(result->refusals);
  json["warnings"] = NotesAsJson(result->warnings);
  return json;
}

int ExitStatusOf(const absl::Status& status) {
  const bool refused = absl::IsFailedPrecondition(status) || absl::IsUnimplemented(status);
  return refused ? kRefused : kError;
}

class Program {
 public:
  explicit Program(Options options) : options_(std::move(options)) {}

  int Run() {
    if (!options_.output_dir.empty()) {
      if (absl::Status status = MakeDirectories(options_.output_dir); !status.ok()) {
        Fail("--output-dir", status, kError);
        return kError;
      }
    }
    for (const std::string& file : options_.files) One(file);
    if (options_.json) {
      const Json json = {{"schema_version", 1}, {"files", files_}};
      Write(json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
    }
    if (std::fflush(stdout) != 0) output_failed_ = true;
    if (output_failed_) {
      std::fputs("virt-reclaim-xml: write standard output failed\n", stderr);
      return kError;
    }
    if (failed_ != 0)
      return failed_ < options_.files.size() && !options_.check ? kSomeFailed : failure_;
    return options_.check && changed_ != 0 ? kWouldChange : kDone;
  }

 private:
  void One(const std::string& file) {
    absl::StatusOr<std::string> text = ReadText(file);
    absl::StatusOr<Rewritten> result = text.ok() ? Rewrite(*text, options_.rewrite) : text.status();
    if (result.ok() && options_.in_place && !result->changes.empty()) {
      if (absl::Status status = ReplaceText(file, *text, result->text); !status.ok())
        result = status;
    }
    if (result.ok() && !options_.output_dir.empty()) {
      if (absl::Status status = WriteBeside(options_.output_dir, file, result->text); !status.ok())
        result = status;
    }
    if (options_.json) files_.push_back(AsJson(file, result));
    const std::string name = file == "-" ? "standard input" : Quoted(file);
    if (!text.ok()) return Fail(name, text.status(), kError);
    if (!result.ok()) return Fail(name, result.status(), ExitStatusOf(result.status()));
    if (!result->changes.empty()) ++changed_;
    for (const Refusal& refusal : result->refusals) Note(name, "left as it is", refusal);
    for (const Refusal& warning : result->warnings) Note(name, "warning", warning);
    if (options_.diff) {
      Write(UnifiedDiff(*text, result->text, file, file));
    } else if (!options_.json && !options_.check && !options_.in_place &&
               options_.output_dir.empty()) {
      Write(result->text);
    }
  }

  void Fail(const std::string& name, const absl::Status& status, int exit_status) {
    ++failed_;
    failure_ = exit_status;
    std::fputs(
        absl::StrCat("virt-reclaim-xml: ", name, ": ", Printable(status.message()), "\n").c_str(),
        stderr);
  }

  void Note(const std::string& name, absl::string_view what, const Refusal& note) {
    const std::string where =
        note.target.empty() ? "domain" : absl::StrCat("disk '", Printable(note.target), "'");
    std::fputs(
        absl::StrCat(name, ": ", where, ": ", what, " (", note.reason, "): ", note.detail, "\n")
            .c_str(),
        stderr);
  }

  void Write(const std::string& text) {
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) output_failed_ = true;
  }

  const Options options_;
  Json files_ = Json::array();
  size_t failed_ = 0, changed_ = 0;
  int failure_ = kDone;
  bool output_failed_ = false;
};

int Main(const std::vector<std::string>& arguments) {
  absl::StatusOr<Options> options = ParseOptions(arguments);
  if (options.ok() && options->help) {
    std::fputs(std::string(HelpText()).c_str(), stdout);
    return kDone;
  }
  if (options.ok() && options->version) {
    std::puts("virt-reclaim-xml " VIRT_RECLAIM_VERSION);
    return kDone;
  }
  if (options.ok() && arguments.empty() && isatty(STDIN_FILENO) == 1) {
    options = absl::InvalidArgumentError("no FILE, and standard input is a terminal");
  }
  if (!options.ok()) {
    const absl::string_view message = options.status().message();
    // "did you mean '--diff'?" says it all.
    const absl::string_view more =
        absl::EndsWith(message, "?") ? "" : "; see 'virt-reclaim-xml --help'";
    std::fputs(absl::StrCat("virt-reclaim-xml: ", message, more, "\n").c_str(), stderr);
    return kUsage;
  }
  return Program(*std::move(options)).Run();
}

}  // namespace
}  // namespace virt_reclaim::xml

int main(int argc, char** argv) {
  virt_reclaim::KeepStandardFds();
  try {
    return virt_reclaim::xml::Main(
        std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc));
  } catch (const std::exception& exception) {
    std::fprintf(stderr, "virt-reclaim-xml: internal error: %s\n", exception.what());
    return virt_reclaim::xml::kError;
  }
}
