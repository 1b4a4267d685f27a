#include "host/commands/agent_guest.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "base/escape.h"
#include "base/status.h"

namespace virt_reclaim {
namespace {

constexpr absl::Duration kLooking = absl::Seconds(30);
constexpr absl::Duration kPlacing = absl::Minutes(2);  // a sync of the guest is in it
constexpr absl::Duration kStarting = absl::Minutes(2);
constexpr absl::Duration kCleaning = absl::Seconds(5);
constexpr absl::Duration kWriting = absl::Minutes(10);
constexpr size_t kMaxVersionBytes = 64;
constexpr size_t kMaxWordsBytes = 300;  // of what a program of the guest says
constexpr int kOtherContent = 10;
constexpr int kDoesNotRun = 11;
// Neither systemd nor udev reads files that are called so.
constexpr char kNewSuffix[] = ".virt-reclaim-new";

constexpr absl::string_view kHead =
    "PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C\nexport PATH LC_ALL\n";

// $1: the program; all: files whose digests are wanted.
constexpr absl::string_view kLook = R"sh(
echo "system $(uname -s)"
echo "user $(id -u)"
[ -d /run/systemd/system ] && echo systemd
systemctl is-active --quiet virt-reclaim-agent.service 2>/dev/null && echo active
dpkg-query -W -f '${Status}' virt-reclaim-agent 2>/dev/null | grep -q ' installed$' && echo packaged
rpm -q virt-reclaim-agent >/dev/null 2>&1 && echo packaged
[ -x "$1" ] && echo "version $("$1" --version 2>/dev/null | head -n 1)"
for file; do [ -f "$file" ] && echo "digest $(sha256sum "$file")"; done
exit 0
)sh";

constexpr absl::string_view kPrepare = R"sh(
set -e
for file; do mkdir -p "${file%/*}"; rm -f "$file"; done
)sh";

constexpr absl::string_view kClean = "rm -f \"$@\"\n";

// Four words a file: digest, mode, where it is, where it goes; first the program, or $0 is 'units'.
constexpr absl::string_view kPlace = R"sh(
set -e
check() {
  while [ $# -gt 0 ]; do
    sum=$(sha256sum "$3")
    [ "${sum%% *}" = "$1" ] || { echo "$4" >&2; exit 10; }
    chmod "$2" "$3"
    shift 4
  done
}
place() {
  while [ $# -gt 0 ]; do
    mv -f "$3" "$4"
    if command -v restorecon >/dev/null 2>&1; then restorecon "$4" || :; fi
    shift 4
  done
}
check "$@"
if [ "$0" = program ]; then
  version=$("$3" --version) || exit 11
  echo "$version"
fi
sync
place "$@"
sync
)sh";

constexpr absl::string_view kStart = R"sh(
set -e
systemctl daemon-reload
udevadm control --reload
if [ -e /dev/virtio-ports/org.virt_reclaim.agent.v1 ]; then
  udevadm trigger --settle --subsystem-match=virtio-ports
  systemctl restart virt-reclaim-agent.service
fi
)sh";

std::vector<std::string> Shell(absl::string_view script, std::string zero,
                               std::vector<std::string> words) {
  std::vector<std::string> arguments = {"/bin/sh", "-c", absl::StrCat(kHead, script),
                                        std::move(zero)};
  arguments.insert(arguments.end(), std::make_move_iterator(words.begin()),
                   std::make_move_iterator(words.end()));
  return arguments;
}

std::string Words(absl::string_view text) {
  return Printable(absl::StripAsciiWhitespace(text), kMaxWordsBytes);
}

// "virt-reclaim-agent 0.1.0": the last word.
std::string VersionOf(absl::string_view text) {
  const std::vector<absl::string_view> words =
      absl::StrSplit(absl::StripAsciiWhitespace(text), absl::ByAnyChar(" \n"), absl::SkipEmpty());
  return words.empty() ? "" : Printable(words.back(), kMaxVersionBytes);
}

absl::Status EndStatus(const GuestProgramEnd& end, absl::string_view what) {
  if (end.exit_status == 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, " failed in the guest with status ",
                                          end.exit_status, ": ", Words(end.err)));
}

std::vector<std::string> NewNames(const std::vector<AgentFile>& files) {
  std::vector<std::string> names;
  for (const AgentFile& file : files) names.push_back(absl::StrCat(file.path, kNewSuffix));
  return names;
}

absl::Status WriteNew(GuestPrograms& programs, const std::vector<AgentFile>& files,
                      const PutContext& context, const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const GuestProgramEnd prepared,
                      programs.Run(Shell(kPrepare, "prepare", NewNames(files)), kLooking, stop));
  VR_RETURN_IF_ERROR(EndStatus(prepared, "making the directories"));
  const absl::Time deadline = context.now() + kWriting;
  for (const AgentFile& file : files) {
    const size_t all = std::max<size_t>(file.content.size(), 1);
    const auto progress = [&](size_t written) {
      if (context.progress)
        context.progress(absl::StrCat("copy ", file.path, ": ", written * 100 / all, " %"));
    };
    VR_RETURN_IF_ERROR(Annotate(programs.WriteFile(absl::StrCat(file.path, kNewSuffix),
                                                   file.content, deadline, progress, stop),
                                absl::StrCat("copy '", file.path, "'")));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Place(GuestPrograms& programs, const std::vector<AgentFile>& files,
                                  const std::stop_token& stop) {
  const bool program = files.front().path == kAgentProgram;
  std::vector<std::string> words;
  for (const AgentFile& file : files)
    words.insert(words.end(),
                 {file.digest, file.mode, absl::StrCat(file.path, kNewSuffix), file.path});
  VR_ASSIGN_OR_RETURN(
      const GuestProgramEnd end,
      programs.Run(Shell(kPlace, program ? "program" : "units", std::move(words)), kPlacing, stop));
  if (end.exit_status == kOtherContent)
    return absl::DataLossError(absl::StrCat("what arrived in the guest is not what was sent: ",
                                            Words(end.err), "; nothing was put in place"));
  if (end.exit_status == kDoesNotRun)
    return absl::FailedPreconditionError(absl::StrCat(
        "the program does not run in the guest: ", Words(end.err), "; nothing was put in place"));
  VR_RETURN_IF_ERROR(EndStatus(end, "putting the files in place"));
  return program ? VersionOf(end.out) : "";
}

}  // namespace

absl::StatusOr<GuestLook> LookAtGuest(GuestPrograms& programs, const std::vector<AgentFile>& files,
                                      const std::stop_token& stop) {
  std::vector<std::string> paths;
  for (const AgentFile& file : files) paths.push_back(file.path);
  VR_ASSIGN_OR_RETURN(const GuestProgramEnd end,
                      programs.Run(Shell(kLook, "look", std::move(paths)), kLooking, stop));
  GuestLook look;
  for (absl::string_view line : absl::StrSplit(end.out, '\n')) {
    if (line == "system Linux") look.linux = true;
    if (line == "user 0") look.root = true;
    if (line == "systemd") look.systemd = true;
    if (line == "packaged") look.packaged = true;
    if (line == "active") look.active = true;
    if (absl::ConsumePrefix(&line, "version ")) look.version = VersionOf(line);
    if (!absl::ConsumePrefix(&line, "digest ")) continue;
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(line, absl::MaxSplits("  ", 1));
    look.digests[std::string(parts.second)] = std::string(parts.first);
  }
  return look;
}

absl::StatusOr<std::string> PutIntoGuest(GuestPrograms& programs,
                                         const std::vector<AgentFile>& files,
                                         const PutContext& context, const std::stop_token& stop) {
  const absl::Status written = WriteNew(programs, files, context, stop);
  if (context.progress && written.ok()) context.progress("check");
  // A stop no longer ends what is renamed together.
  absl::StatusOr<std::string> version =
      written.ok() ? Place(programs, files, {}) : absl::StatusOr<std::string>(written);
  // Also after a stop, and on a full disk above all.
  if (!version.ok())
    programs.Run(Shell(kClean, "clean", NewNames(files)), kCleaning, {}).IgnoreError();
  return version;
}

absl::Status StartInGuest(GuestPrograms& programs, const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const GuestProgramEnd end,
                      programs.Run(Shell(kStart, "start", {}), kStarting, stop));
  return EndStatus(end, "starting the agent");
}

}  // namespace virt_reclaim
