#include "host/services/offline_guest.h"

#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <mutex>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/escape.h"
#include "base/status.h"
#include "base/subprocess.h"
#include "base/temporary_directory.h"
#include "host/services/guest_preflight_proto.h"
#include "virt_reclaim/agent/v1/agent.pb.h"

extern char** environ;

namespace virt_reclaim {
namespace {

constexpr size_t kMaxResponseBytes = size_t{1} << 20;  // the contract's limit for a message
constexpr size_t kMaxReasonBytes = 256;
// To power its appliance off and to take its directories away.
constexpr std::chrono::seconds kGrace{5};

// What an administrator sets to make libguestfs work on a machine; nothing else of our environment.
std::vector<std::string> GuestfsEnvironment(const std::string& directory) {
  std::vector<std::string> environment = {absl::StrCat("TMPDIR=", directory)};
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const absl::string_view text(*variable);
    if (absl::StartsWith(text, "LIBGUESTFS_") || absl::StartsWith(text, "SUPERMIN_"))
      environment.emplace_back(text);
  }
  return environment;
}

// The overlays over the images: they grow by what a mount writes. Not below /run, which is memory.
absl::StatusOr<TemporaryDirectory> MakeTemporaryDirectory() {
  const char* parent = getenv("TMPDIR");
  return TemporaryDirectory::Make(parent == nullptr || *parent == '\0' ? "/tmp" : parent,
                                  "virt-reclaim-guestfs-");
}

// What virt-reclaim-guestfs says of one device, behind its name.
absl::Status StatusOfTrim(absl::string_view text) {
  const std::string reason = Printable(text, kMaxReasonBytes);
  if (text == "ok") return absl::OkStatus();
  if (absl::StartsWith(text, "mount: ")) return absl::UnavailableError(reason);
  if (absl::StartsWith(text, "unsupported: ")) return absl::UnimplementedError(reason);
  return absl::InternalError(reason);
}

class GuestfsProgram : public OfflineGuest {
 public:
  explicit GuestfsProgram(std::string program) : program_(std::move(program)) {}

  absl::StatusOr<GuestPreflight> Read(const std::vector<OfflineDisk>& disks, absl::Duration timeout,
                                      const std::stop_token& stop) override {
    VR_ASSIGN_OR_RETURN(const std::string output, Run({}, disks, timeout, stop));
    agent::v1::PreflightResponse response;
    if (output.empty() || !response.ParseFromString(output)) {
      return absl::DataLossError("virt-reclaim-guestfs tells nothing that can be read");
    }
    return virt_reclaim::FromProto(response);
  }

  absl::StatusOr<std::vector<absl::Status>> Trim(const std::vector<OfflineDisk>& disks,
                                                 const std::vector<OfflineJob>& jobs,
                                                 absl::Duration timeout,
                                                 const std::stop_token& stop) override {
    std::vector<std::string> options;
    for (const OfflineJob& job : jobs)
      options.push_back(absl::StrCat(job.zero ? "--zero=" : "--trim=", job.device));
    VR_ASSIGN_OR_RETURN(const std::string output, Run(options, disks, timeout, stop));
    const std::vector<std::string> lines = absl::StrSplit(output, '\n', absl::SkipEmpty());
    if (lines.size() != jobs.size())
      return absl::DataLossError("virt-reclaim-guestfs does not say what it did");
    std::vector<absl::Status> statuses;
    for (size_t i = 0; i < lines.size(); ++i) {
      absl::string_view line = lines[i];
      if (!absl::ConsumePrefix(&line, jobs[i].device + "\t"))
        return absl::DataLossError("virt-reclaim-guestfs does not say what it did");
      statuses.push_back(StatusOfTrim(line));
    }
    return statuses;
  }

 private:
  // What it says.
  absl::StatusOr<std::string> Run(const std::vector<std::string>& options,
                                  const std::vector<OfflineDisk>& disks, absl::Duration timeout,
                                  const std::stop_token& stop) {
    if (access(program_.c_str(), X_OK) != 0) {
      return absl::UnimplementedError("virt-reclaim-guestfs is not installed");
    }
    // One appliance at a time: each takes a gigabyte of memory and all processors it gets.
    const std::lock_guard lock(mutex_);
    VR_ASSIGN_OR_RETURN(const TemporaryDirectory directory, MakeTemporaryDirectory());
    std::vector<std::string> arguments = {program_};
    arguments.insert(arguments.end(), options.begin(), options.end());
    for (const OfflineDisk& disk : disks) {
      arguments.push_back(absl::StrCat(disk.format, ":", disk.path));
    }
    CommandLimits limits;
    limits.deadline = absl::ToChronoMilliseconds(timeout);
    limits.max_output_bytes = kMaxResponseBytes;
    limits.fail_when_full = true;
    limits.separate_errors = true;
    limits.grace = kGrace;
    limits.environment = GuestfsEnvironment(directory.path());
    limits.stop = stop;
    const auto result = RunCommand(arguments, limits);
    if (absl::IsResourceExhausted(result.status())) {
      return absl::DataLossError("virt-reclaim-guestfs tells more than it may");
    }
    VR_RETURN_IF_ERROR(result.status());
    if (result->exit_status != 0) {
      const absl::string_view reason = absl::StripAsciiWhitespace(result->errors);
      return absl::FailedPreconditionError(
          reason.empty() ? absl::StrCat("virt-reclaim-guestfs ended with ", result->exit_status)
                         : Printable(reason, kMaxReasonBytes));
    }
    return result->output;
  }

  const std::string program_;
  std::mutex mutex_;
};

}  // namespace

std::unique_ptr<OfflineGuest> NewOfflineGuest(std::string program) {
  return std::make_unique<GuestfsProgram>(std::move(program));
}

}  // namespace virt_reclaim
