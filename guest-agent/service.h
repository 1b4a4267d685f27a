// The gRPC service of agent.proto. gRPC's threads call it, several at once; one trim runs at a
// time.
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
#include "virt_reclaim/agent/v1/agent.grpc.pb.h"

namespace virt_reclaim::agent {

class AgentService final : public v1::Agent::Service {
 public:
  struct Backend {
    std::function<absl::StatusOr<FilesystemList>()> read_filesystems;
    FitrimCall fitrim = KernelFitrim;
  };
  static Backend RealBackend();

  explicit AgentService(Backend backend) : backend_(std::move(backend)) {}

  // Stops a trim under way as a cancelled call would; every later one is refused. Any thread.
  void Stop();

  grpc::Status GetInfo(grpc::ServerContext* context, const v1::GetInfoRequest* request,
                       v1::GetInfoResponse* response) override;
  grpc::Status ListFilesystems(grpc::ServerContext* context,
                               const v1::ListFilesystemsRequest* request,
                               v1::ListFilesystemsResponse* response) override;
  grpc::Status Trim(grpc::ServerContext* context, const v1::TrimRequest* request,
                    grpc::ServerWriter<v1::TrimEvent>* writer) override;

 private:
  // The one trim's place. Waits a moment for one that was told to stop already (its host has gone).
  bool TakePlace(std::stop_source trim);
  void LeavePlace();

  const Backend backend_;
  std::mutex mutex_;
  std::condition_variable place_free_;
  std::optional<std::stop_source> running_;  // the trim under way
  bool stopped_ = false;
};

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_SERVICE_H_
