// What the calls of agent.proto do, without gRPC: rpc_server.h brings the calls. Any thread,
// several calls at once; one of those that work on a disk runs at a time.
#ifndef VIRT_RECLAIM_GUEST_AGENT_SERVICE_H_
#define VIRT_RECLAIM_GUEST_AGENT_SERVICE_H_

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>

#include "absl/status/statusor.h"
#include "guest-agent/filesystems.h"
#include "guest-agent/fitrim.h"
#include "guest-agent/free_map.h"
#include "guest-agent/freed_meter.h"
#include "guest-agent/guest_calls.h"
#include "guest-agent/guest_info.h"
#include "guest-agent/shared_pause.h"
#include "virt_reclaim/agent/v1/agent.pb.h"

namespace virt_reclaim::agent {

class AgentService {
 public:
  struct Backend {
    std::function<absl::StatusOr<FilesystemList>()> read_filesystems;
    FitrimCall fitrim = KernelFitrim;
    GuestCalls calls = {};  // one that is not there is refused as unimplemented
    std::function<absl::StatusOr<FreeMap>(const TrimTarget&, uint64_t minimum_bytes,
                                          const std::stop_token&)>
        read_free_map = agent::ReadFreeMap;
  };
  static Backend RealBackend();

  explicit AgentService(Backend backend) : backend_(std::move(backend)) {}

  // Stops a trim under way as a cancelled call would; every later one is refused.
  void Stop();

  // Never blocks.
  v1::GetInfoResponse GetInfo();
  absl::StatusOr<v1::ListFilesystemsResponse> ListFilesystems();
  // Waits for nobody. NotFound: no such mount point; FailedPrecondition: there is no such map.
  absl::StatusOr<v1::ReadFreeMapResponse> ReadFreeMap(const v1::ReadFreeMapRequest& request,
                                                      const std::stop_token& stop);
  // Trims, and tells of it as it goes. `write` may block; false means that the host is gone, and
  // stops the trim, as does `stop`. InvalidArgument: the request breaks the contract; NotFound: no
  // such mount point; Aborted: another trim is under way; Cancelled: stopped.
  absl::Status Trim(const v1::TrimRequest& request,
                    const std::function<bool(const v1::TrimEvent&)>& write, std::stop_source stop);

  // Of the trim under way, from its next pause on. InvalidArgument: not between 0 and 60 s.
  absl::StatusOr<v1::SetTrimPauseResponse> SetTrimPause(const v1::SetTrimPauseRequest& request);

  // Aborted: a trim, a marker's call or a fix is under way; a preflight waits for nobody.
  absl::StatusOr<v1::PreflightResponse> Preflight(const v1::PreflightRequest& request,
                                                  std::stop_source stop);
  absl::StatusOr<v1::WriteMarkerResponse> WriteMarker(const v1::WriteMarkerRequest& request,
                                                      std::stop_source stop);
  absl::StatusOr<v1::DiscardMarkerResponse> DiscardMarker(const v1::DiscardMarkerRequest& request,
                                                          std::stop_source stop);
  absl::StatusOr<v1::FixGuestResponse> FixGuest(const v1::FixGuestRequest& request,
                                                std::stop_source stop);
  // Deletes what a crash left on the filesystems. Once, at the start.
  void CleanUp();

 private:
  template <typename Request, typename Response>
  absl::StatusOr<Response> InPlace(
      const std::function<absl::StatusOr<Response>(const Request&, const std::stop_token&)>& call,
      const Request& request, std::stop_source stop);
  // The one place of what works on a disk. Waits for one that was told to stop already (its host
  // has gone), and a moment for one that is about to be told.
  bool TakePlace(std::stop_source trim);
  void LeavePlace();

  const Backend backend_;
  GuestInfoReader info_;
  FreedMeter freed_;
  SharedPause least_pause_;
  std::mutex mutex_;
  std::condition_variable place_free_;
  std::optional<std::stop_source> running_;  // of the call that has the place
  bool stopped_ = false;
};

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_SERVICE_H_
