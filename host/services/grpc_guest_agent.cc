// The real GuestAgent: one gRPC channel over one session of the link. gRPC 1.51 notices no dead
// peer and trusts a peer's lengths, so every call has a deadline, memory has a quota, and the link
// (proto/link) watches for life and caps the bytes.
#include <grpc/grpc.h>
#include <grpcpp/create_channel_posix.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/resource_quota.h>

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/services/guest_agent.h"
#include "host/services/guest_filesystems_proto.h"
#include "host/services/guest_preflight_proto.h"
#include "proto/link/bridge.h"
#include "virt_reclaim/agent/v1/agent.grpc.pb.h"

namespace virt_reclaim {
namespace {

namespace v1 = virt_reclaim::agent::v1;

constexpr int kMaxMessageBytes = 1 << 20;          // the contract's limit (agent.proto)
constexpr size_t kMemoryQuota = size_t{16} << 20;  // gRPC's own buffers for one guest
constexpr int kMaxMetadataBytes = 8192;
// The contract's limits again: the guest may not keep to them.
constexpr int kMaxDisksOfTrim = 64;
constexpr size_t kMaxEvents = 100000;  // of one Trim: 10 a second for hours
constexpr size_t kMaxFinished = 2 * kMaxGuestFilesystems;
// Of one session: all of the above at once. gRPC's header parser takes quadratic time for one
// endless string, so that without this cap a call could end seconds after its deadline.
constexpr uint64_t kMaxSessionBytes = uint64_t{8} << 20;

grpc::ChannelArguments ChannelArgs() {
  grpc::ResourceQuota quota("virt-reclaim-guest");
  quota.Resize(kMemoryQuota);
  grpc::ChannelArguments args;
  args.SetResourceQuota(quota);
  args.SetMaxReceiveMessageSize(kMaxMessageBytes);
  args.SetInt(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  args.SetInt(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);  // a gzip bomb is 1000 times its size
  args.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  args.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, INT_MAX);  // the link has its own sign of life
  return args;
}

absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

void ToProto(absl::Duration duration, google::protobuf::Duration* out) {
  const int64_t nanoseconds = absl::ToInt64Nanoseconds(duration);
  out->set_seconds(nanoseconds / 1000000000);
  out->set_nanos(static_cast<int32_t>(nanoseconds % 1000000000));
}

GuestTrimResult FromProto(v1::TrimResult result) {
  switch (result) {
    case v1::TRIM_RESULT_DONE:
      return GuestTrimResult::kDone;
    case v1::TRIM_RESULT_SKIPPED:
      return GuestTrimResult::kSkipped;
    case v1::TRIM_RESULT_FAILED:
      return GuestTrimResult::kFailed;
    case v1::TRIM_RESULT_CANCELLED:
      return GuestTrimResult::kCancelled;
    default:
      return GuestTrimResult::kUnknown;
  }
}

GuestTrim FromProto(const v1::TrimFinished& proto) {
  GuestTrim trim;
  trim.mount_point = Printable(proto.mount_point());
  trim.source = Printable(proto.source());
  trim.result = FromProto(proto.result());
  trim.trimmed = proto.trimmed_bytes();
  trim.error_name = Printable(proto.error_name(), kMaxGuestNameBytes);
  trim.obstacle = virt_reclaim::FromProto(proto.obstacle());
  trim.obstacle_device = Printable(proto.obstacle_device(), kMaxGuestNameBytes);
  for (int i = 0; i < std::min(proto.disks_size(), kMaxDisksOfTrim); ++i) {
    trim.disks.push_back(Printable(proto.disks(i), kMaxGuestNameBytes));
  }
  trim.elapsed = FromProto(proto.elapsed());
  return trim;
}

class GrpcGuestAgent : public GuestAgent {
 public:
  explicit GrpcGuestAgent(std::unique_ptr<link::HostLink> link)
      : link_(std::move(link)),
        channel_(grpc::CreateCustomInsecureChannelFromFd("guest", link_->TakeSocket().Release(),
                                                         ChannelArgs())),
        stub_(v1::Agent::NewStub(channel_)) {}

  absl::StatusOr<GuestFacts> GetInfo(absl::Duration timeout, std::stop_token stop) override {
    v1::GetInfoResponse response;
    VR_RETURN_IF_ERROR(Unary(timeout, stop, "GetInfo", [&](grpc::ClientContext* context) {
      return stub_->GetInfo(context, v1::GetInfoRequest(), &response);
    }));
    GuestFacts facts;
    facts.agent_version = Printable(response.agent_version(), kMaxGuestNameBytes);
    facts.kernel_release = Printable(response.kernel_release(), kMaxGuestNameBytes);
    facts.boot_id = Printable(response.boot_id(), kMaxGuestNameBytes);
    facts.os_name = Printable(response.os_name(), kMaxGuestNameBytes);
    facts.uptime = FromProto(response.uptime());
    if (response.has_agent_uptime()) {
      facts.agent_uptime = std::max(FromProto(response.agent_uptime()), absl::ZeroDuration());
    }
    return facts;
  }

  absl::StatusOr<std::vector<GuestFilesystem>> ListFilesystems(absl::Duration timeout,
                                                               std::stop_token stop) override {
    v1::ListFilesystemsResponse response;
    VR_RETURN_IF_ERROR(Unary(timeout, stop, "ListFilesystems", [&](grpc::ClientContext* context) {
      return stub_->ListFilesystems(context, v1::ListFilesystemsRequest(), &response);
    }));
    return virt_reclaim::FromProto(response);
  }

  absl::Status Trim(const GuestTrimOptions& options, absl::Duration timeout, std::stop_token stop,
                    const std::function<void(const GuestTrimProgress&)>& progress,
                    std::vector<GuestTrim>& finished) override {
    v1::TrimRequest request;
    for (const std::string& mount_point : options.mount_points)
      request.add_mount_points(mount_point);
    request.set_minimum_bytes(options.minimum);
    request.set_chunk_bytes(options.chunk);
    ToProto(options.pause, request.mutable_pause());
    request.set_pause_percent(options.pause_percent);
    request.set_max_bytes_per_second(options.max_rate);
    request.set_back_off(options.back_off);
    if (options.start) {
      request.mutable_start()->set_mount_point(options.start->mount_point);
      request.mutable_start()->set_offset_bytes(options.start->offset);
      request.mutable_start()->set_after(options.start->after);
    }

    grpc::ClientContext context;
    SetDeadline(context, timeout);
    const std::stop_callback cancel(stop, [&] { context.TryCancel(); });
    auto reader = stub_->Trim(&context, request);
    v1::TrimEvent event;
    GuestTrimProgress current;
    bool flood = false;
    for (size_t events = 0; reader->Read(&event); ++events) {
      if (events >= kMaxEvents || finished.size() >= kMaxFinished) {
        flood = true;
        context.TryCancel();
        break;
      }
      HandleEvent(event, current, progress, finished);
    }
    const grpc::Status status = reader->Finish();
    if (flood) return absl::ResourceExhaustedError("Trim: the agent sent events without end");
    return FromGrpc(status, stop, "Trim");
  }

  absl::Status SetTrimPause(absl::Duration least_pause, absl::Duration timeout) override {
    v1::SetTrimPauseRequest request;
    ToProto(least_pause, request.mutable_least_pause());
    v1::SetTrimPauseResponse response;
    return Unary(timeout, {}, "SetTrimPause", [&](grpc::ClientContext* context) {
      return stub_->SetTrimPause(context, request, &response);
    });
  }

  absl::StatusOr<GuestPreflight> Preflight(absl::Duration timeout, std::stop_token stop) override {
    v1::PreflightResponse response;
    VR_RETURN_IF_ERROR(Unary(timeout, stop, "Preflight", [&](grpc::ClientContext* context) {
      return stub_->Preflight(context, v1::PreflightRequest(), &response);
    }));
    return virt_reclaim::FromProto(response);
  }

  absl::StatusOr<GuestMarker> WriteMarker(const std::string& mount_point, uint64_t size,
                                          absl::Duration timeout, std::stop_token stop) override {
    v1::WriteMarkerRequest request;
    request.set_mount_point(mount_point);
    request.set_size_bytes(size);
    v1::WriteMarkerResponse response;
    VR_RETURN_IF_ERROR(Unary(timeout, stop, "WriteMarker", [&](grpc::ClientContext* context) {
      return stub_->WriteMarker(context, request, &response);
    }));
    return virt_reclaim::FromProto(response);
  }

  absl::StatusOr<GuestMarkerDiscard> DiscardMarker(const std::string& mount_point,
                                                   const GuestMarker& marker,
                                                   absl::Duration timeout,
                                                   std::stop_token stop) override {
    v1::DiscardMarkerRequest request;
    request.set_mount_point(mount_point);
    request.set_id(marker.id);
    v1::DiscardMarkerResponse response;
    VR_RETURN_IF_ERROR(Unary(timeout, stop, "DiscardMarker", [&](grpc::ClientContext* context) {
      return stub_->DiscardMarker(context, request, &response);
    }));
    return virt_reclaim::FromProto(response);
  }

  absl::StatusOr<GuestFreeMap> ReadFreeMap(const std::string& mount_point, uint64_t minimum,
                                           absl::Duration timeout, std::stop_token stop) override {
    v1::ReadFreeMapRequest request;
    request.set_mount_point(mount_point);
    request.set_minimum_bytes(minimum);
    v1::ReadFreeMapResponse response;
    VR_RETURN_IF_ERROR(Unary(timeout, stop, "ReadFreeMap", [&](grpc::ClientContext* context) {
      return stub_->ReadFreeMap(context, request, &response);
    }));
    return virt_reclaim::FromProto(response);
  }

  absl::StatusOr<GuestFix> FixGuest(GuestFixAction action, absl::Duration timeout,
                                    std::stop_token stop) override {
    v1::FixGuestRequest request;
    request.set_action(action == GuestFixAction::kApply  ? v1::FIX_ACTION_APPLY
                       : action == GuestFixAction::kUndo ? v1::FIX_ACTION_UNDO
                                                         : v1::FIX_ACTION_PLAN);
    v1::FixGuestResponse response;
    VR_RETURN_IF_ERROR(Unary(timeout, stop, "FixGuest", [&](grpc::ClientContext* context) {
      return stub_->FixGuest(context, request, &response);
    }));
    return virt_reclaim::FromProto(response);
  }

 private:
  static void HandleEvent(const v1::TrimEvent& event, GuestTrimProgress& current,
                          const std::function<void(const GuestTrimProgress&)>& progress,
                          std::vector<GuestTrim>& finished) {
    if (event.has_started()) {
      current = {Printable(event.started().mount_point()), 0, event.started().size_bytes(), 0};
    } else if (event.has_progress()) {
      current.position = std::min(event.progress().position_bytes(), current.size);
      current.trimmed = event.progress().trimmed_bytes();
    } else if (event.has_finished()) {
      finished.push_back(FromProto(event.finished()));
      return;
    }
    if (progress) progress(current);
  }

  template <typename Call>
  absl::Status Unary(absl::Duration timeout, const std::stop_token& stop, absl::string_view name,
                     Call call) {
    grpc::ClientContext context;
    SetDeadline(context, timeout);
    const std::stop_callback cancel(stop, [&] { context.TryCancel(); });
    return FromGrpc(call(&context), stop, name);
  }

  static void SetDeadline(grpc::ClientContext& context, absl::Duration timeout) {
    context.set_deadline(std::chrono::system_clock::now() + absl::ToChronoMicroseconds(timeout));
  }

  absl::Status FromGrpc(const grpc::Status& status, const std::stop_token& stop,
                        absl::string_view call) const {
    if (status.ok()) return absl::OkStatus();
    if (stop.stop_requested()) return absl::CancelledError(absl::StrCat(call, ": interrupted"));
    if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
      return absl::DeadlineExceededError(absl::StrCat(call, ": no answer in time"));
    }
    const std::string why = link_->EndReason();
    if (!why.empty()) return absl::UnavailableError(absl::StrCat(call, ": ", why));
    return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                        absl::StrCat(call, ": ", Printable(status.error_message(), 512)));
  }

  std::unique_ptr<link::HostLink> link_;  // outlives the channel: its end closes the pair
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Agent::Stub> stub_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GuestAgent>> ConnectGuestAgent(std::unique_ptr<link::Port> port,
                                                              absl::Duration timeout,
                                                              std::stop_token stop) {
  // For the life of the process: gRPC 1.51 that goes down and up again may wait 10 s for its backup
  // poller.
  static const bool initialized = (grpc_init(), true);
  static_cast<void>(initialized);
  link::HostLink::Options options;
  options.connect_timeout = absl::ToChronoMilliseconds(timeout);
  options.max_received_bytes = kMaxSessionBytes;
  VR_ASSIGN_OR_RETURN(auto link, link::HostLink::Open(std::move(port), options, std::move(stop)));
  return std::make_unique<GrpcGuestAgent>(std::move(link));
}

}  // namespace virt_reclaim
