#include "host/cli/virt_sparsify_program.h"

#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/cli/outcome_output.h"
#include "host/cli/virt_sparsify_line.h"
#include "host/commands/sparsify_images.h"
#include "host/sparsify/overlay.h"

namespace virt_reclaim {
namespace {

using freemap::Filesystem;
using freemap::Refusal;

// "/dev/vda1" and "/dev/hda1" are "/dev/sda1" to libguestfs.
std::string Canonical(const std::string& device) {
  for (const char* prefix : {"/dev/vd", "/dev/hd"}) {
    if (absl::StartsWith(device, prefix)) return "/dev/sd" + device.substr(7);
  }
  return device;
}

// The group of "vg (free extents)"; empty: it is something else.
std::string FreeGroupOf(const Filesystem& found) {
  const size_t at = found.place.find(" (free extents)");
  return found.mapped && at != std::string::npos ? found.place.substr(0, at) : "";
}

// Says things as virt-sparsify does: with the seconds since the start, or as JSON.
class Speaker {
 public:
  Speaker(const VirtSparsifyLine& line, const VirtSparsifyStreams& streams)
      : line_(line), streams_(streams), begin_(std::chrono::steady_clock::now()) {}

  void Message(const std::string& text) const {
    Json("message", text);
    if (line_.quiet) return;
    const std::chrono::duration<double> since = std::chrono::steady_clock::now() - begin_;
    streams_.out(absl::StrFormat("[%6.1f] %s\n", since.count(), Printable(text)));
  }
  void Warning(const std::string& text) const {
    Json("warning", text);
    streams_.out(absl::StrCat("virt-sparsify: warning: ", Printable(text), "\n"));
  }
  void Info(const std::string& text) const {
    Json("info", text);
    if (!line_.quiet) streams_.out(absl::StrCat("virt-sparsify: ", text, "\n"));
  }
  // Returns the status.
  int Error(const std::string& text) const {
    Json("error", text);
    streams_.err(VirtSparsifyError(Printable(text), !(line_.verbose && line_.trace)));
    return 1;
  }

 private:
  void Json(const char* type, const std::string& text) const {
    if (!line_.machine_readable) return;
    const std::string now =
        absl::FormatTime("%Y-%m-%dT%H:%M:%E9S+00:00", absl::Now(), absl::UTCTimeZone());
    const nlohmann::ordered_json quoted = Printable(text);
    const std::string document =
        absl::StrCat("{ \"message\": ", quoted.dump(), ", \"timestamp\": \"", now,
                     "\", \"type\": \"", type, "\" }\n");
    if (line_.machine_output == "stream:stderr") {
      streams_.err(document);
    } else if (line_.machine_output.empty() || line_.machine_output == "stream:stdout") {
      streams_.out(document);
    }
  }

  const VirtSparsifyLine& line_;
  const VirtSparsifyStreams& streams_;
  const std::chrono::steady_clock::time_point begin_;
};

// An image file is what has a '/' in it.
std::string AsPath(const std::string& disk) {
  return absl::StrContains(disk, '/') ? disk : absl::StrCat("./", disk);
}

std::string Absolute(const std::string& path) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  return error ? path : absolute.string();
}

class Run {
 public:
  Run(const VirtSparsifyLine& line, const Services& services, const Speaker& speaker,
      const std::stop_token& stop)
      : line_(line), services_(services), speaker_(speaker), stop_(stop) {}

  int Do() {
    if (!line_.zero.empty())
      return speaker_.Error(
          "--zero is not done by virt-reclaim yet: run libguestfs's virt-sparsify for it");
    return line_.in_place ? InPlace() : Copy();
  }

 private:
  sparsify::SparsifyOptions Engine() const {
    sparsify::SparsifyOptions engine;
    engine.worker.read.take_swap = true;
    engine.leave_out = [this](const Filesystem& found) {
      const std::string group = FreeGroupOf(found);
      const std::string name = group.empty() ? DeviceOf(found) : group;
      return std::any_of(line_.ignore.begin(), line_.ignore.end(),
                         [&](const std::string& ignored) { return Canonical(ignored) == name; });
    };
    return engine;
  }

  void SayFilesystems(const sparsify::SparsifyResult& result,
                      const std::map<size_t, absl::Status>& appliance, bool in_place) const {
    for (size_t i = 0; i < result.filesystems.size(); ++i) {
      const Filesystem& found = result.filesystems[i].found;
      const std::string name = DeviceOf(found);
      const std::string group = FreeGroupOf(found);
      const auto by_appliance = appliance.find(i);
      const bool trimmed = by_appliance != appliance.end() && by_appliance->second.ok();
      if (found.refusal == Refusal::kNone || trimmed) {
        speaker_.Message(!group.empty()
                             ? absl::StrCat(in_place ? "Discard space" : "Fill free space",
                                            " in volgroup ", group, in_place ? "" : " with zero")
                         : found.type == "swap" ? absl::StrCat("Clearing Linux swap on ", name)
                         : in_place             ? absl::StrCat("Trimming ", name)
                                    : absl::StrCat("Fill free space in ", name, " with zero"));
      } else if (found.refusal != Refusal::kNotAsked &&
                 (found.refusal != Refusal::kUnknown || !found.type.empty())) {
        speaker_.Warning(absl::StrCat(name.empty() ? found.place : name, " (", found.type,
                                      ") is left alone: ", found.reason));
      }
    }
  }

  int InPlace() {
    SparsifyImagesOptions options;
    options.targets = {AsPath(line_.disks[0])};
    options.format = line_.format;
    options.with_bitmaps = true;
    options.allow_thick = true;
    options.replay = true;
    options.engine = Engine();
    const auto actions = PlanSparsify(services_, options, stop_);
    if (!actions.ok()) return speaker_.Error(std::string(actions.status().message()));
    for (const SparsifyAction& action : *actions) {
      for (const SparsifyDisk& disk : action.disks) {
        if (disk.header.bitmaps)
          speaker_.Warning("the image has persistent bitmaps: what is trimmed counts as changed");
      }
      for (const Blocker& blocker : action.outcome.reasons) {
        if (blocker.reason == Reason::kImageFormat)
          return speaker_.Error(
              absl::StrCat("libguestfs error: discard cannot be enabled on this drive: qemu does "
                           "not support discard for ‘",
                           blocker.detail, "’ format files"));
      }
    }
    const auto targets =
        ExecuteSparsify(services_, options, *actions, sparsify::Mode::kSparsify, {}, stop_);
    const SparsifiedTarget& target = targets.front();
    if (target.result) SayFilesystems(*target.result, target.appliance, true);
    return InPlaceStatus(target);
  }

  int InPlaceStatus(const SparsifiedTarget& target) const {
    const Outcome& outcome = target.outcome;
    if (outcome.kind == OutcomeKind::kCancelled) return speaker_.Error("quit (^C) at user request");
    if (outcome.kind == OutcomeKind::kFailed)
      return speaker_.Error(std::string(outcome.error.message()));
    if (outcome.kind == OutcomeKind::kSkipped) {
      // Nothing that is known is done to, as by virt-sparsify; everything else was refused.
      const bool only_unknown = std::all_of(
          outcome.reasons.begin(), outcome.reasons.end(),
          [](const Blocker& blocker) { return blocker.reason == Reason::kFilesystemRefused; });
      // libguestfs trims an overlay, and an image with snapshots, for nothing.
      const bool for_nothing =
          std::all_of(outcome.reasons.begin(), outcome.reasons.end(), [](const Blocker& blocker) {
            return blocker.reason == Reason::kOverlay ||
                   blocker.reason == Reason::kInternalSnapshots;
          });
      if (!only_unknown && !for_nothing) {
        const bool unsupported = std::any_of(
            outcome.reasons.begin(), outcome.reasons.end(),
            [](const Blocker& blocker) { return blocker.reason == Reason::kStorageCannotPunch; });
        const int status = speaker_.Error(unsupported ? "discard/trim is not supported"
                                                      : BlockerTexts(outcome.reasons));
        return unsupported ? 3 : status;
      }
      if (for_nothing) speaker_.Warning(BlockerTexts(outcome.reasons));
    }
    speaker_.Message("Sparsify in-place operation completed with no errors");
    return 0;
  }

  // What is wrong with input or output, found before any work is done.
  std::optional<std::string> CheckFiles(const std::string& input, const std::string& output) const {
    struct stat in;
    struct stat out;
    if (stat(input.c_str(), &in) != 0) {
      return absl::StrCat("libguestfs error: qemu-img info: ", Absolute(input),
                          ": qemu-img info exited with error status 1.\n",
                          ErrnoStatus(errno, input).message());
    }
    if (stat(output.c_str(), &out) == 0) {
      if (in.st_dev == out.st_dev && in.st_ino == out.st_ino)
        return "you cannot use the same disk image for input and output";
      if (S_ISCHR(out.st_mode))
        return absl::StrCat("output ‘", output,
                            "’ cannot be a character device, it must be a regular file");
      if (S_ISDIR(out.st_mode)) return absl::StrCat("output ‘", output, "’ is a directory");
      return std::nullopt;
    }
    const size_t slash = output.rfind('/');
    const std::string directory = slash == 0 ? "/" : output.substr(0, slash);
    if (stat(directory.c_str(), &out) != 0 || !S_ISDIR(out.st_mode))
      return absl::StrCat("output ‘", output, "’: there is no directory ‘", directory, "’");
    return std::nullopt;
  }

  // Where the overlay's metadata goes.
  absl::StatusOr<std::string> TemporaryDirectory() const {
    struct stat status;
    if (line_.tmp.empty()) {
      const char* set = getenv("TMPDIR");
      const std::string directory = set == nullptr ? "/tmp" : set;
      if (stat(directory.c_str(), &status) != 0) {
        return absl::NotFoundError(
            absl::StrCat("libguestfs error: converting path to absolute path: TMPDIR: ", directory,
                         ": realpath: No such file or directory"));
      }
      return directory;
    }
    if (absl::StartsWith(line_.tmp, "prebuilt:") || stat(line_.tmp.c_str(), &status) != 0 ||
        !S_ISDIR(status.st_mode)) {
      // A block device or a prebuilt overlay is for the space that zeros take; none are written
      // here.
      if (absl::StartsWith(line_.tmp, "prebuilt:") ||
          (stat(line_.tmp.c_str(), &status) == 0 && S_ISBLK(status.st_mode)))
        return std::string("/tmp");
      return absl::InvalidArgumentError(
          "--tmp parameter must point to a directory, block device or prebuilt file");
    }
    return line_.tmp;
  }

  int Copy() {
    const std::string input = AsPath(line_.disks[0]);
    const std::string output = AsPath(line_.disks[1]);
    if (const auto wrong = CheckFiles(input, output)) return speaker_.Error(*wrong);
    const auto header = services_.images.ReadHeader(input, line_.format);
    if (!header.ok()) return speaker_.Error(std::string(header.status().message()));
    const std::string format = line_.convert.empty() ? header->format : line_.convert;
    if (line_.compress && format == "raw") {
      return speaker_.Error(
          "--compress cannot be used for raw output.  Remove this option or use --convert qcow2.");
    }
    const auto directory = TemporaryDirectory();
    if (!directory.ok()) return speaker_.Error(std::string(directory.status().message()));
    speaker_.Message(
        absl::StrCat("Create overlay file in ", *directory, " to protect source disk"));
    const absl::Status copied =
        CopyBy(Absolute(input), header->format, *directory,
               {Absolute(output), format, line_.qemu_options, line_.compress});
    if (absl::IsCancelled(copied)) return speaker_.Error("quit (^C) at user request");
    if (!copied.ok()) return speaker_.Error(std::string(copied.message()));
    speaker_.Message("Sparsify operation completed with no errors.");
    speaker_.Info(
        "Before deleting the old disk, carefully check that the target disk boots and works "
        "correctly.");
    return 0;
  }

  absl::Status CopyBy(const std::string& input, const std::string& format,
                      const std::string& directory, const sparsify::Overlay::Output& output) const {
    VR_ASSIGN_OR_RETURN(sparsify::Overlay overlay,
                        sparsify::Overlay::Make(input, format, directory, stop_));
    speaker_.Message("Examine source disk");
    VR_ASSIGN_OR_RETURN(const sparsify::SparsifyResult result,
                        services_.zero_free(overlay, Engine(), {}, stop_));
    std::map<size_t, absl::Status> appliance;
    const std::vector<ApplianceJob> jobs = ApplianceJobs(result, SparsifyEngine::kAuto, true);
    if (!jobs.empty() && services_.offline_guest != nullptr) {
      std::vector<std::string> devices;
      for (const ApplianceJob& job : jobs) devices.push_back(job.device);
      const auto trimmed = services_.offline_guest->Trim({{"qcow2", overlay.path()}}, devices,
                                                         absl::Hours(1), stop_);
      for (size_t i = 0; i < jobs.size(); ++i)
        appliance[jobs[i].filesystem] = trimmed.ok() ? (*trimmed)[i] : trimmed.status();
    }
    SayFilesystems(result, appliance, false);
    speaker_.Message("Copy to destination and make sparse");
    return overlay.Convert(output, stop_);
  }

  const VirtSparsifyLine& line_;
  const Services& services_;
  const Speaker& speaker_;
  const std::stop_token& stop_;
};

}  // namespace

int RunVirtSparsify(const std::vector<std::string>& arguments, const WithServices& with_services,
                    const VirtSparsifyStreams& streams, const std::stop_token& stop) {
  const auto parsed = ParseVirtSparsify(arguments);
  if (const auto* end = std::get_if<VirtSparsifyEnd>(&parsed)) {
    streams.out(end->out);
    streams.err(end->err);
    return end->status;
  }
  const auto& line = std::get<VirtSparsifyLine>(parsed);
  const Speaker speaker(line, streams);
  CommandLine common;
  common.verb = Verb::kSparsify;
  common.domains = {AsPath(line.disks[0])};
  if (const char* directory = getenv("VIRT_RECLAIM_RUN_DIR")) common.run_directory = directory;
  int status = 1;
  const absl::Status connected = with_services(
      common, [&](const Services& services) { status = Run(line, services, speaker, stop).Do(); });
  return connected.ok() ? status : speaker.Error(std::string(connected.message()));
}

}  // namespace virt_reclaim
