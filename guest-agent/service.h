// What the calls of agent.proto do, without gRPC: rpc_server.h brings the calls. Any thread,
// several calls at once; one trim runs at a time.
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
#include "guest-agent/guest_info.h"
#include "virt_reclaim/agent/v1/agent.pb.h"

namespace virt_reclaim::agent {

class AgentService {
 public:
  struct Backend {
    std::function<absl::StatusOr<FilesystemList>()> read_filesystems;
    FitrimCall fitrim = KernelFitrim;
  };
  static Backend RealBackend();

  explicit AgentService(Backend backend) : backend_(std::move(backend)) {}

  // Stops a trim under way as a cancelled call would; every later one is refused.
  void Stop();

  // Never blocks.
  v1::GetInfoResponse GetInfo();
  absl::StatusOr<v1::ListFilesystemsResponse> ListFilesystems();
  // Trims, and tells of it as it goes. `write` may block; false means that the host is gone, and
  // stops the trim, as does `stop`. InvalidArgument: the request breaks the contract; NotFound: no
  // such mount point; Aborted: another trim is under way; Cancelled: stopped.
  absl::Status Trim(const v1::TrimRequest& request,
                    const std::function<bool(const v1::TrimEvent&)>& write, std::stop_source stop);

 private:
  // The one trim's place. Waits a moment for one that was told to stop already (its host has gone).
  bool TakePlace(std::stop_source trim);
  void LeavePlace();

  const Backend backend_;
  GuestInfoReader info_;
  std::mutex mutex_;
  std::condition_variable place_free_;
  std::optional<std::stop_source> running_;  // the trim under way
  bool stopped_ = false;
};

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_SERVICE_H_
