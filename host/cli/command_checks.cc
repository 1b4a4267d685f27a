#include "host/cli/command_checks.h"

#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "base/escape.h"
#include "base/status.h"

namespace virt_reclaim {
namespace {

using absl::InvalidArgumentError;
using absl::StrCat;

bool Given(const CommandLine& line, absl::string_view option) {
  return line.given.contains(std::string(option));
}

absl::Status CheckSelection(const CommandLine& line, absl::string_view verb) {
  if (line.all && !line.domains.empty())
    return InvalidArgumentError("--all and domain names exclude each other");
  if (!line.all && line.domains.empty() && line.plan_file.empty())
    return InvalidArgumentError(StrCat("migrate ", verb, ": name the domains, or write --all"));
  return absl::OkStatus();
}

// "host:/path" and "rsync://...": what others copy to.
bool IsRemote(absl::string_view path) {
  const size_t colon = path.find(':');
  return colon != absl::string_view::npos && colon > 0 && colon < path.find('/');
}

}  // namespace

absl::Status CheckTrim(const CommandLine& line) {
  if (line.pause > absl::Seconds(60)) return InvalidArgumentError("--pause: at most 60 s");
  if (line.timeout <= absl::ZeroDuration())
    return InvalidArgumentError("--timeout: must be longer than 0");
  if (line.max_duration && *line.max_duration <= absl::ZeroDuration())
    return InvalidArgumentError("--max-duration: must be longer than 0");
  for (const std::string& path : line.mount_points) {
    if (path.front() != '/')
      return InvalidArgumentError(StrCat("--mount-point: '", Printable(path),
                                         "' is no path in the guest, which begins with a '/'"));
  }
  if (line.gentle && (Given(line, "--chunk") || Given(line, "--pause")))
    return InvalidArgumentError("--gentle excludes --chunk and --pause: it chooses them");
  return absl::OkStatus();
}

absl::Status CheckMachine(const CommandLine& line) {
  return Given(line, "--machine") && Given(line, "--keep-machine")
             ? InvalidArgumentError("--machine and --keep-machine exclude each other")
             : absl::OkStatus();
}

absl::Status CheckApply(const CommandLine& line) {
  VR_RETURN_IF_ERROR(CheckMachine(line));
  for (const char* option : {"--machine", "--keep-machine", "--bus", "--channel", "--detect-zeroes",
                             "--disk", "--fix-guest", "--allow-thick", "--assume"}) {
    // A saved plan says itself what is to be done.
    if (!line.plan_file.empty() && Given(line, option))
      return InvalidArgumentError("--plan: the plan says already what to change, and how");
  }
  return CheckSelection(line, "apply");
}

absl::Status CheckRollback(const CommandLine& line) {
  if (line.fix_guest && line.power_cycle != "shutdown")
    return InvalidArgumentError("--fix-guest: a rollback needs --power-cycle=shutdown for it");
  return CheckSelection(line, "rollback");
}

absl::Status CheckExplain(const CommandLine& line) {
  if (line.codes && (line.probe || line.ask_qemu || !line.domains.empty()))
    return InvalidArgumentError("--codes: it is about no domain");
  if (line.domains.empty() && !line.codes)
    return InvalidArgumentError("explain: name the domain, or a disk of it: DOMAIN:TARGET");
  return absl::OkStatus();
}

absl::Status CheckAgentInstall(const CommandLine& line) {
  if (!line.domains.empty()) return absl::OkStatus();
  return InvalidArgumentError("agent install: name the domains");
}

absl::Status CheckPunch(const CommandLine& line) {
  if (line.null && line.files_from.empty())
    return InvalidArgumentError("--null: it is about --files-from");
  if (line.files.empty() && line.files_from.empty())
    return InvalidArgumentError("punch: name files, or give a list with --files-from");
  return absl::OkStatus();
}

absl::Status CheckSync(const CommandLine& line) {
  if (!line.sync_domain.empty()) {
    for (const char* option : {"--recursive", "--one-file-system", "--compare", "--format",
                               "--overwrite-device", "--no-reflink"}) {
      if (Given(line, option))
        return InvalidArgumentError(StrCat(option, ": it is about files, not --domain"));
    }
    if (line.files.size() == 1) return absl::OkStatus();
    return InvalidArgumentError("sync --domain: name one directory for the copies");
  }
  for (const char* option : {"--freeze", "--clean"}) {
    if (Given(line, option)) return InvalidArgumentError(StrCat(option, ": it is about --domain"));
  }
  if (line.files.size() < 2)
    return InvalidArgumentError("sync: name what to copy, and where to: sync SRC... DST");
  for (const std::string& path : line.files) {
    if (IsRemote(path) && access(path.c_str(), F_OK) != 0) {
      return InvalidArgumentError(
          StrCat("sync: '", Printable(path),
                 "' looks like another machine's: sync works on this "
                 "machine's files; see virt-reclaim(1), BACKUPS ELSEWHERE"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSparsify(const CommandLine& line) {
  const auto first_domain =
      std::find_if(line.domains.begin(), line.domains.end(),
                   [](const std::string& target) { return target.find('/') == std::string::npos; });
  const bool domain = first_domain != line.domains.end();
  if (line.all_off && domain)
    return InvalidArgumentError("--all-off and domain names exclude each other");
  if (!line.all_off && line.domains.empty())
    return InvalidArgumentError("sparsify: name domains or image files, or write --all-off");
  if (!line.storage.empty() && !domain && !line.all_off)
    return InvalidArgumentError("--storage: it is about domains, and none is named");
  if (line.no_libvirt && line.all_off)
    return InvalidArgumentError("--no-libvirt and --all-off exclude each other: who would know");
  if (line.no_libvirt && domain)
    return InvalidArgumentError(
        StrCat("--no-libvirt: then there are no domains; an image file has "
               "a '/' in it: './",
               Printable(*first_domain), "'"));
  const bool one_image = line.domains.size() == 1 && !domain && !line.all_off;
  if (!line.copy.empty() && (!one_image || line.least_freed > 0))
    return InvalidArgumentError("--output: of one image file or device, without --threshold");
  if (line.replay && line.engine == "native")
    return InvalidArgumentError("--replay: journals are replayed by libguestfs only");
  return absl::OkStatus();
}

absl::Status CheckRun(const CommandLine& line) {
  if (line.resume && !line.emergency)
    return InvalidArgumentError("--resume is for what --emergency has made room for");
  if (line.wait && line.emergency)
    return InvalidArgumentError("--wait: in an emergency no window counts");
  if (line.domains.empty()) return absl::OkStatus();
  return InvalidArgumentError(
      "run: the policy says which domains; one by its name: trim, sparsify");
}

absl::Status CheckConfigCheck(const CommandLine& line) {
  if (line.domains.empty()) return absl::OkStatus();
  return InvalidArgumentError("config check: it takes no names; another file: --config");
}

absl::Status CheckCompletion(const CommandLine& line) {
  const std::vector<std::string> shells = absl::StrSplit(kShells, '|');
  if (line.domains.size() == 1 &&
      std::find(shells.begin(), shells.end(), line.domains.front()) != shells.end())
    return absl::OkStatus();
  return InvalidArgumentError("completion: write bash, zsh or fish");
}

}  // namespace virt_reclaim
