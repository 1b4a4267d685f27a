#include "guest-agent/service.h"

#include <chrono>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/utf8.h"
#include "guest-agent/convert.h"
#include "guest-agent/guest_info.h"
#include "guest-agent/trimmer.h"

namespace virt_reclaim::agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr int kMaxNamedMountPoints = 4096;
constexpr milliseconds kProgressInterval{100};
// For a trim that nobody waits for any more: that its host has gone may be noticed only now.
constexpr milliseconds kNoticeWait{500};
// For a trim that is being stopped: its grace, and the time a busy guest's kernel takes to notice
// the kill.
constexpr milliseconds kPlaceWait = kStopGrace + milliseconds(3000);

constexpr char kPlaceTaken[] = "another trim is under way";

absl::Status Unimplemented() { return absl::UnimplementedError("not a call of this agent"); }

absl::StatusOr<milliseconds> ReadPause(const google::protobuf::Duration& pause) {
  // Before anything is multiplied: a Duration holds far more than a clock does.
  if (pause.seconds() < 0 || pause.seconds() > 60 || pause.nanos() < 0 ||
      pause.nanos() > 999'999'999) {
    return absl::InvalidArgumentError("the pause must be between 0 and 60 seconds");
  }
  return std::chrono::ceil<milliseconds>(std::chrono::seconds(pause.seconds()) +
                                         std::chrono::nanoseconds(pause.nanos()));
}

absl::StatusOr<TrimOptions> ReadOptions(const v1::TrimRequest& request) {
  if (request.mount_points_size() > kMaxNamedMountPoints) {
    return absl::InvalidArgumentError(
        absl::StrCat("more than ", kMaxNamedMountPoints, " mount points"));
  }
  for (const std::string& point : request.mount_points()) {
    VR_RETURN_IF_ERROR(CheckMountPoint(point));
  }
  if (request.has_start()) VR_RETURN_IF_ERROR(CheckMountPoint(request.start().mount_point()));
  TrimOptions options;
  options.minimum_bytes = request.minimum_bytes();
  options.chunk_bytes = request.chunk_bytes();
  VR_ASSIGN_OR_RETURN(options.pace.pause, ReadPause(request.pause()));
  options.pace.pause_percent = request.pause_percent();
  options.pace.bytes_per_second = request.max_bytes_per_second();
  options.pace.back_off = request.back_off();
  if (absl::Status status = CheckTrimOptions(options); !status.ok()) return status;
  return options;
}

// Writes events to the host; a host that is gone stops the trim.
class StreamObserver final : public TrimObserver {
 public:
  // `trimmed` is told of each filesystem that was trimmed to its end.
  StreamObserver(const std::function<bool(const v1::TrimEvent&)>& write, std::stop_source stop,
                 std::function<void(const TrimTarget&)> trimmed)
      : write_(write), stop_(std::move(stop)), trimmed_(std::move(trimmed)) {}

  void OnStarted(const TrimTarget& target, uint32_t index, uint32_t count) override {
    v1::TrimEvent event;
    ToProto(target, index, count, *event.mutable_started());
    Write(event);
  }
  void OnProgress(const TrimTarget& target, uint32_t index,
                  const FitrimProgress& progress) override {
    const auto now = steady_clock::now();
    if (now < next_progress_) return;
    next_progress_ = now + kProgressInterval;
    v1::TrimEvent event;
    ToProto(target, index, progress, *event.mutable_progress());
    Write(event);
  }
  void OnFinished(const TrimTarget& target, uint32_t index, const TrimFinished& finished) override {
    if (finished.result == TrimResult::kDone) trimmed_(target);
    v1::TrimEvent event;
    ToProto(target, index, finished, *event.mutable_finished());
    Write(event);
  }
  void OnSummary(const TrimTotals& totals) {
    v1::TrimEvent event;
    ToProto(totals, *event.mutable_summary());
    Write(event);
  }

 private:
  void Write(const v1::TrimEvent& event) {
    if (!write_(event)) stop_.request_stop();
  }

  const std::function<bool(const v1::TrimEvent&)>& write_;
  std::stop_source stop_;
  const std::function<void(const TrimTarget&)> trimmed_;
  steady_clock::time_point next_progress_{};
};

}  // namespace

AgentService::Backend AgentService::RealBackend() {
  Backend backend{[] { return ReadFilesystems(RealProbes()); }};
  backend.calls = RealCalls();
  return backend;
}

void AgentService::Stop() {
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  if (running_) running_->request_stop();
}

bool AgentService::TakePlace(std::stop_source trim) {
  std::unique_lock lock(mutex_);
  const auto is_free = [&] { return !running_; };
  place_free_.wait_for(lock, kNoticeWait,
                       [&] { return is_free() || stopped_ || running_->stop_requested(); });
  if (running_ && running_->stop_requested()) place_free_.wait_for(lock, kPlaceWait, is_free);
  if (running_ || stopped_) return false;
  running_ = std::move(trim);
  return true;
}

void AgentService::LeavePlace() {
  const std::lock_guard lock(mutex_);
  running_.reset();
  place_free_.notify_one();
}

v1::GetInfoResponse AgentService::GetInfo() {
  const GuestInfo info = info_.Read();
  v1::GetInfoResponse response;
  response.set_agent_version(VIRT_RECLAIM_VERSION);
  response.set_kernel_release(Utf8(info.kernel_release));
  response.set_boot_id(Utf8(info.boot_id));
  ToProto(info.uptime, *response.mutable_uptime());
  if (info.agent_uptime) ToProto(*info.agent_uptime, *response.mutable_agent_uptime());
  response.add_capabilities(v1::CAPABILITY_LIST_FILESYSTEMS);
  response.add_capabilities(v1::CAPABILITY_TRIM);
  if (backend_.calls.preflight) response.add_capabilities(v1::CAPABILITY_PREFLIGHT);
  if (backend_.calls.write_marker && backend_.calls.discard_marker) {
    response.add_capabilities(v1::CAPABILITY_MARKER);
  }
  if (backend_.calls.fix_guest) response.add_capabilities(v1::CAPABILITY_FIX_GUEST);
  response.add_capabilities(v1::CAPABILITY_FREE_MAP);
  response.set_os_name(Utf8(info.os_name));
  return response;
}

absl::StatusOr<v1::ListFilesystemsResponse> AgentService::ListFilesystems() {
  VR_ASSIGN_OR_RETURN(auto list, backend_.read_filesystems());
  for (Filesystem& filesystem : list.filesystems)
    filesystem.freed_since_trim = freed_.FreedSinceTrim(filesystem);
  v1::ListFilesystemsResponse response;
  ToProto(list, response);
  return response;
}

absl::StatusOr<v1::ReadFreeMapResponse> AgentService::ReadFreeMap(
    const v1::ReadFreeMapRequest& request, const std::stop_token& stop) {
  VR_RETURN_IF_ERROR(CheckMountPoint(request.mount_point()));
  VR_ASSIGN_OR_RETURN(const auto list, backend_.read_filesystems());
  VR_ASSIGN_OR_RETURN(const auto targets, ChooseTargets(list, {request.mount_point()}));
  VR_ASSIGN_OR_RETURN(const FreeMap map,
                      backend_.read_free_map(targets.front(), request.minimum_bytes(), stop));
  v1::ReadFreeMapResponse response;
  ToProto(map, response);
  return response;
}

absl::Status AgentService::Trim(const v1::TrimRequest& request,
                                const std::function<bool(const v1::TrimEvent&)>& write,
                                std::stop_source stop) {
  VR_ASSIGN_OR_RETURN(auto options, ReadOptions(request));
  if (!TakePlace(stop)) return absl::AbortedError(kPlaceTaken);
  least_pause_.Set(milliseconds(0));
  options.pace.least_pause = least_pause_.value();
  const absl::Cleanup leave = [this] { LeavePlace(); };
  VR_ASSIGN_OR_RETURN(const auto list, backend_.read_filesystems());
  VR_ASSIGN_OR_RETURN(auto targets, ChooseTargets(list, {request.mount_points().begin(),
                                                         request.mount_points().end()}));
  if (request.has_start())
    BeginAt(
        {request.start().mount_point(), request.start().offset_bytes(), request.start().after()},
        targets);
  const auto trimmed = [&](const TrimTarget& target) {
    if (options.minimum_bytes == 0) freed_.Trimmed(target.filesystem, target.mount_point);
  };
  StreamObserver observer(write, stop, trimmed);
  const TrimTotals totals = TrimAll(targets, options, observer, stop.get_token(), backend_.fitrim);
  if (totals.cancelled) return absl::CancelledError("the trim was stopped");
  observer.OnSummary(totals);
  return absl::OkStatus();
}

absl::StatusOr<v1::SetTrimPauseResponse> AgentService::SetTrimPause(
    const v1::SetTrimPauseRequest& request) {
  VR_ASSIGN_OR_RETURN(const milliseconds pause, ReadPause(request.least_pause()));
  if (pause > kMaxPause)
    return absl::InvalidArgumentError("the pause must be between 0 and 60 seconds");
  least_pause_.Set(pause);
  return v1::SetTrimPauseResponse();
}

template <typename Request, typename Response>
absl::StatusOr<Response> AgentService::InPlace(
    const std::function<absl::StatusOr<Response>(const Request&, const std::stop_token&)>& call,
    const Request& request, std::stop_source stop) {
  if (!call) return Unimplemented();
  const std::stop_token token = stop.get_token();
  if (!TakePlace(std::move(stop))) return absl::AbortedError(kPlaceTaken);
  const absl::Cleanup leave = [this] { LeavePlace(); };
  return call(request, token);
}

absl::StatusOr<v1::PreflightResponse> AgentService::Preflight(const v1::PreflightRequest& request,
                                                              std::stop_source stop) {
  if (!backend_.calls.preflight) return Unimplemented();
  return backend_.calls.preflight(request, stop.get_token());
}

absl::StatusOr<v1::WriteMarkerResponse> AgentService::WriteMarker(
    const v1::WriteMarkerRequest& request, std::stop_source stop) {
  return InPlace(backend_.calls.write_marker, request, std::move(stop));
}

absl::StatusOr<v1::DiscardMarkerResponse> AgentService::DiscardMarker(
    const v1::DiscardMarkerRequest& request, std::stop_source stop) {
  return InPlace(backend_.calls.discard_marker, request, std::move(stop));
}

absl::StatusOr<v1::FixGuestResponse> AgentService::FixGuest(const v1::FixGuestRequest& request,
                                                            std::stop_source stop) {
  return InPlace(backend_.calls.fix_guest, request, std::move(stop));
}

void AgentService::CleanUp() {
  if (backend_.calls.clean_up) backend_.calls.clean_up();
}

}  // namespace virt_reclaim::agent
