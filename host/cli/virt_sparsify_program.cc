#include "host/cli/virt_sparsify_program.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/escape.h"
#include "base/io.h"
#include "base/status.h"
#include "host/cli/outcome_output.h"
#include "host/cli/virt_sparsify_line.h"
#include "host/cli/virt_sparsify_speaker.h"
#include "host/cli/virt_sparsify_tmp.h"
#include "host/commands/sparsify_copy.h"
#include "host/commands/sparsify_images.h"

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

// An image file is what has a '/' in it.
std::string AsPath(const std::string& disk) {
  return absl::StrContains(disk, '/') ? disk : absl::StrCat("./", disk);
}

std::string Absolute(const std::string& path) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  return error ? path : absolute.string();
}

int SayInterrupted(VirtSparsifySpeaker& speaker, const VirtSparsifyStreams& streams) {
  if (streams.terminated == nullptr || !streams.terminated())
    return speaker.Error("quit (^C) at user request");
  speaker.Plain("virt-sparsify: Exiting on signal SIGTERM\n");
  return 1;
}

class Run {
 public:
  Run(const VirtSparsifyLine& line, const Services& services, VirtSparsifySpeaker& speaker,
      const VirtSparsifyStreams& streams, const std::stop_token& stop)
      : line_(line), services_(services), speaker_(speaker), streams_(streams), stop_(stop) {}

  int Do() {
    if (!line_.keys.empty() || line_.keys_from_stdin) {
      speaker_.Warning(
          "keys are not used: what LUKS has encrypted stays as it is (libguestfs's virt-sparsify "
          "opens it)");
    }
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

  // What is ignored is not zeroed either.
  std::vector<std::string> Zeroed() const {
    std::vector<std::string> devices = line_.zero;
    std::erase_if(devices, [&](const std::string& device) {
      return std::any_of(line_.ignore.begin(), line_.ignore.end(),
                         [&](const std::string& ignored) { return Canonical(ignored) == device; });
    });
    return devices;
  }

  void SayFilesystems(const sparsify::SparsifyResult& result,
                      const std::map<size_t, absl::Status>& appliance, bool in_place) const {
    for (size_t i = 0; i < result.filesystems.size(); ++i) {
      const Filesystem& found = result.filesystems[i].found;
      const std::string name = DeviceOf(found);
      const std::string group = FreeGroupOf(found);
      const auto by_appliance = appliance.find(i);
      const bool trimmed = by_appliance != appliance.end() && by_appliance->second.ok();
      if (IsNamed(found, Zeroed())) {
        speaker_.Message(absl::StrCat("Zeroing ", name));
      } else if (found.refusal == Refusal::kNone || trimmed) {
        speaker_.Message(!group.empty()
                             ? absl::StrCat(in_place ? "Discard space" : "Fill free space",
                                            " in volgroup ", group, in_place ? "" : " with zero")
                         : found.type == "swap" ? absl::StrCat("Clearing Linux swap on ", name)
                         : in_place             ? absl::StrCat("Trimming ", name)
                                    : absl::StrCat("Fill free space in ", name, " with zero"));
      } else if (found.refusal != Refusal::kNotAsked &&
                 (found.refusal != Refusal::kUnknown || !found.type.empty())) {
        speaker_.Warning(absl::StrCat(
            name.empty() ? found.place : name, " (", found.type, ") is left alone: ", found.reason,
            by_appliance == appliance.end() ? "" : "; libguestfs: ",
            by_appliance == appliance.end() ? "" : by_appliance->second.message()));
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
    options.zero = Zeroed();
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
    const auto progress = [&](const SparsifyTargetProgress& now) {
      if (now.disks.total_bytes > 0) speaker_.Progress(now.disks.done_bytes, now.disks.total_bytes);
    };
    const auto targets =
        ExecuteSparsify(services_, options, *actions, sparsify::Mode::kSparsify, progress, stop_);
    const SparsifiedTarget& target = targets.front();
    if (target.result) SayFilesystems(*target.result, target.appliance, true);
    if (const absl::Status failed = ApplianceFailure(target.appliance); !failed.ok())
      return speaker_.Error(absl::StrCat("libguestfs error: ", failed.message()));
    return InPlaceStatus(target);
  }

  int InPlaceStatus(const SparsifiedTarget& target) const {
    const Outcome& outcome = target.outcome;
    if (outcome.kind == OutcomeKind::kCancelled) return Interrupted();
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

  int Interrupted() const { return SayInterrupted(speaker_, streams_); }

  // What is wrong with input or output, found before any work is done.
  std::optional<std::string> CheckFiles(const std::string& input, const std::string& output) const {
    struct stat in;
    struct stat out;
    if (stat(input.c_str(), &in) != 0) {
      const absl::Status why = ErrnoStatus(errno, Printable(input));
      return absl::StrCat("libguestfs error: qemu-img info: ", Printable(Absolute(input)),
                          ": qemu-img info exited with error status 1.\n", why.message());
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

  // Whether there is room for the overlay. Empty: go on; else the status to end with. What the
  // image occupies is the most that anybody could write of it.
  std::optional<int> CheckRoom(const std::string& directory, const std::string& input,
                               uint64_t capacity) const {
    using Check = VirtSparsifyLine::CheckTmpdir;
    struct stat status;
    if (line_.check_tmpdir == Check::kIgnore || stat(input.c_str(), &status) != 0)
      return std::nullopt;
    const uint64_t needed = S_ISBLK(status.st_mode) ? capacity : AllocatedBytes(status);
    const std::string text = TooLittleSpace(directory, needed);
    if (text.empty()) return std::nullopt;
    speaker_.Warning(text);
    if (line_.check_tmpdir == Check::kFail) {
      speaker_.Plain("Exiting because --check-tmpdir=fail was set.\n");
      return 2;
    }
    if (line_.check_tmpdir == Check::kWarn && streams_.wait_for_return) {
      streams_.wait_for_return("Press RETURN to continue or ^C to quit.\n");
      if (stop_.stop_requested()) return Interrupted();
    }
    return std::nullopt;
  }

  int Copy() {
    const std::string input = AsPath(line_.disks[0]);
    const std::string output = AsPath(line_.disks[1]);
    if (const auto wrong = CheckFiles(input, output)) return speaker_.Error(*wrong);
    const auto header = services_.images.ReadHeader(input, line_.format);
    if (!header.ok()) return speaker_.Error(std::string(header.status().message()));
    if (line_.compress && (line_.convert.empty() ? header->format : line_.convert) == "raw") {
      return speaker_.Error(
          "--compress cannot be used for raw output.  Remove this option or use --convert qcow2.");
    }
    const auto tmp = ChooseTmp(line_.tmp, services_.images);
    if (!tmp.ok()) return speaker_.Error(std::string(tmp.status().message()));
    if (tmp->prebuilt.empty() && tmp->device.empty()) {
      if (const auto status = CheckRoom(tmp->directory, input, header->capacity)) return *status;
    }
    if (!tmp->device.empty())
      speaker_.Info(
          absl::StrCat("--tmp ", tmp->device, " is left as it is: no space for zeros is needed"));
    SparsifyCopyOptions options;
    options.source = input;
    options.source_format = line_.format;
    options.output = output;
    options.output_format = line_.convert;
    options.qemu_options = line_.qemu_options;
    options.compress = line_.compress;
    options.temporary_directory = tmp->directory;
    options.prebuilt = tmp->prebuilt;
    options.replay = true;
    options.zero = Zeroed();
    options.engine = Engine();
    const auto plan = PlanSparsifyCopy(services_, options, stop_);
    if (absl::IsCancelled(plan.status())) return Interrupted();
    if (!plan.ok()) return speaker_.Error(std::string(plan.status().message()));
    if (!plan->lost.empty())
      speaker_.Warning(absl::StrCat("the copy does not keep: ", absl::StrJoin(plan->lost, ", ")));
    const SparsifyCopyEvents events = {
        [&](CopyStep step, const SparsifiedCopy& made) { return SayStep(step, *tmp, made); },
        [&](const sparsify::SparsifyProgress& now) {
          speaker_.Progress(now.done_bytes, now.total_bytes);
        }};
    const auto made = ExecuteSparsifyCopy(services_, options, *plan, events, stop_);
    if (absl::IsCancelled(made.status())) return Interrupted();
    if (!made.ok()) return speaker_.Error(std::string(made.status().message()));
    speaker_.Message("Sparsify operation completed with no errors.");
    speaker_.Info(
        "Before deleting the old disk, carefully check that the target disk boots and works "
        "correctly.");
    return 0;
  }

  absl::Status SayStep(CopyStep step, const VirtSparsifyTmp& tmp,
                       const SparsifiedCopy& made) const {
    switch (step) {
      case CopyStep::kOverlay:
        speaker_.Message(
            tmp.prebuilt.empty()
                ? absl::StrCat("Create overlay file in ", tmp.directory, " to protect source disk")
                : absl::StrCat("Using prebuilt file ", tmp.prebuilt, " as overlay"));
        break;
      case CopyStep::kExamine:
        speaker_.Message("Examine source disk");
        break;
      case CopyStep::kExamined:
        SayFilesystems(made.result, made.appliance, false);
        return Annotate(ApplianceFailure(made.appliance), "libguestfs error");
      case CopyStep::kConvert:
        speaker_.Message("Copy to destination and make sparse");
        break;
    }
    return absl::OkStatus();
  }

  const VirtSparsifyLine& line_;
  const Services& services_;
  VirtSparsifySpeaker& speaker_;
  const VirtSparsifyStreams& streams_;
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
  auto made = VirtSparsifySpeaker::Make(line, streams);
  if (!made.ok()) {
    streams.err(VirtSparsifyError(std::string(made.status().message()), true));
    return 1;
  }
  VirtSparsifySpeaker& speaker = *made;
  CommandLine common;
  common.verb = Verb::kSparsify;
  common.domains = {AsPath(line.disks[0])};
  common.drop_in = true;
  const char* no_libvirt = getenv(kNoLibvirtVariable);
  common.no_libvirt = no_libvirt != nullptr && *no_libvirt != '\0';
  if (const char* directory = getenv("VIRT_RECLAIM_RUN_DIR")) common.run_directory = directory;
  int status = 1;
  const absl::Status connected = with_services(common, [&](const Services& services) {
    status = Run(line, services, speaker, streams, stop).Do();
  });
  if (absl::IsCancelled(connected)) return SayInterrupted(speaker, streams);
  return connected.ok() ? status : speaker.Error(std::string(connected.message()));
}

}  // namespace virt_reclaim
