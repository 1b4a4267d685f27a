#include "host/cli/virt_sparsify_speaker.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/escape.h"
#include "base/io.h"
#include "base/status.h"

namespace virt_reclaim {
namespace {

using std::chrono::steady_clock;

constexpr std::chrono::milliseconds kProgressEvery{333};  // as libguestfs's daemon

// A text may have several lines.
std::string PrintableLines(const std::string& text) {
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  return absl::StrJoin(lines, "\n", [](std::string* out, const std::string& line) {
    absl::StrAppend(out, Printable(line));
  });
}

}  // namespace

absl::StatusOr<VirtSparsifySpeaker> VirtSparsifySpeaker::Make(const VirtSparsifyLine& line,
                                                              const VirtSparsifyStreams& streams) {
  UniqueFd json;
  const absl::string_view output = line.machine_output;
  int number = -1;
  if (absl::StartsWith(output, "file:")) {
    const std::string path(output.substr(5));
    json = UniqueFd(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0666));
    if (!json.valid()) return ErrnoStatus(errno, absl::StrCat("open '", Printable(path), "'"));
  } else if (absl::StartsWith(output, "fd:") && absl::SimpleAtoi(output.substr(3), &number)) {
    json = UniqueFd(fcntl(number, F_DUPFD_CLOEXEC, 3));
    if (!json.valid())
      return ErrnoStatus(errno, absl::StrCat("--machine-readable: descriptor ", number));
  }
  return VirtSparsifySpeaker(line, streams, std::move(json));
}

void VirtSparsifySpeaker::Message(const std::string& text) const {
  Json("message", text);
  if (line_->quiet) return;
  const std::chrono::duration<double> since = steady_clock::now() - begin_;
  streams_->out(absl::StrFormat("[%6.1f] %s\n", since.count(), Printable(text)));
}

void VirtSparsifySpeaker::Warning(const std::string& text) const {
  Json("warning", text);
  streams_->out(absl::StrCat("virt-sparsify: warning: ", PrintableLines(text), "\n"));
}

void VirtSparsifySpeaker::Info(const std::string& text) const {
  Json("info", text);
  if (!line_->quiet) streams_->out(absl::StrCat("virt-sparsify: ", text, "\n"));
}

int VirtSparsifySpeaker::Error(const std::string& text) const {
  Json("error", text);
  streams_->err(VirtSparsifyError(PrintableLines(text), !(line_->verbose && line_->trace)));
  return 1;
}

void VirtSparsifySpeaker::Progress(uint64_t done, uint64_t total) {
  if (!line_->machine_readable || line_->quiet) return;
  const auto now = steady_clock::now();
  if (done != total && now - last_progress_ < kProgressEvery) return;
  last_progress_ = now;
  streams_->out(absl::StrCat(done, "/", total, "\n"));
}

void VirtSparsifySpeaker::Json(const char* type, const std::string& text) const {
  if (!line_->machine_readable) return;
  const std::string now =
      absl::FormatTime("%Y-%m-%dT%H:%M:%E9S+00:00", absl::Now(), absl::UTCTimeZone());
  const nlohmann::ordered_json quoted = PrintableLines(text);
  const std::string document = absl::StrCat("{ \"message\": ", quoted.dump(), ", \"timestamp\": \"",
                                            now, "\", \"type\": \"", type, "\" }\n");
  if (json_.valid()) {
    WriteAll(json_.get(), document);  // what cannot be written is lost: the work is more
  } else if (line_->machine_output == "stream:stderr") {
    streams_->err(document);
  } else {
    streams_->out(document);
  }
}

}  // namespace virt_reclaim
