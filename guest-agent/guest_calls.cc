#include "guest-agent/guest_calls.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "guest-agent/convert.h"
#include "guest-agent/fix_guest.h"
#include "guest-agent/marker.h"
#include "guest-agent/trimmer.h"

namespace virt_reclaim::agent {
namespace {

constexpr size_t kMaxPathBytes = 4096;  // PATH_MAX

absl::StatusOr<TrimTarget> FindTarget(const PreflightSources& sources,
                                      const std::string& mount_point) {
  VR_RETURN_IF_ERROR(CheckMountPoint(mount_point));
  VR_ASSIGN_OR_RETURN(const FilesystemList list, sources.read_filesystems());
  VR_ASSIGN_OR_RETURN(auto targets, ChooseTargets(list, {mount_point}));
  return std::move(targets.front());
}

absl::StatusOr<v1::FixGuestResponse> Fix(const PreflightSources& sources,
                                         const v1::FixGuestRequest& request,
                                         const std::stop_token& stop) {
  if (request.action() < v1::FIX_ACTION_PLAN || request.action() > v1::FIX_ACTION_UNDO) {
    return absl::InvalidArgumentError("an action that this agent does not know");
  }
  VR_ASSIGN_OR_RETURN(const FixReport report,
                      FixGuest(sources, static_cast<FixAction>(request.action()), stop));
  v1::FixGuestResponse response;
  ToProto(report, response);
  return response;
}

}  // namespace

absl::Status CheckMountPoint(const std::string& point) {
  if (!point.empty() && point[0] == '/' && point.size() <= kMaxPathBytes) return absl::OkStatus();
  return absl::InvalidArgumentError("a mount point is an absolute path of at most 4096 bytes");
}

GuestCalls DirectCalls(PreflightSources sources, FitrimCall fitrim) {
  GuestCalls calls;
  calls.preflight = [sources](const v1::PreflightRequest&,
                              const std::stop_token&) -> absl::StatusOr<v1::PreflightResponse> {
    VR_ASSIGN_OR_RETURN(const Preflight preflight, ReadPreflight(sources));
    v1::PreflightResponse response;
    ToProto(preflight, response);
    return response;
  };
  calls.write_marker = [sources](
                           const v1::WriteMarkerRequest& request,
                           const std::stop_token& stop) -> absl::StatusOr<v1::WriteMarkerResponse> {
    VR_ASSIGN_OR_RETURN(const TrimTarget target, FindTarget(sources, request.mount_point()));
    VR_ASSIGN_OR_RETURN(const Marker marker, WriteMarker(target, request.size_bytes(), stop));
    v1::WriteMarkerResponse response;
    ToProto(marker, response);
    return response;
  };
  calls.discard_marker =
      [sources, fitrim](const v1::DiscardMarkerRequest& request,
                        const std::stop_token& stop) -> absl::StatusOr<v1::DiscardMarkerResponse> {
    VR_ASSIGN_OR_RETURN(const TrimTarget target, FindTarget(sources, request.mount_point()));
    VR_ASSIGN_OR_RETURN(const DiscardedMarker discarded,
                        DiscardMarker(target, request.id(), stop, fitrim));
    v1::DiscardMarkerResponse response;
    response.set_trimmed_bytes(discarded.trimmed_bytes);
    response.set_error_number(discarded.error_number);
    if (discarded.error_number != 0) response.set_error_name(ErrnoName(discarded.error_number));
    response.set_whole_filesystem(discarded.whole_filesystem);
    return response;
  };
  calls.fix_guest = [sources](const v1::FixGuestRequest& request, const std::stop_token& stop) {
    return Fix(sources, request, stop);
  };
  calls.clean_up = [sources] {
    if (const auto list = sources.read_filesystems(); list.ok()) RemoveLeftMarkers(*list);
  };
  return calls;
}

}  // namespace virt_reclaim::agent
