#include "guest-agent/server.h"

#include <fcntl.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/server_posix.h>
#include <malloc.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <utility>

#include "base/status.h"

namespace virt_reclaim::agent {
namespace {

constexpr size_t kQuotaBytes = size_t{16} << 20;
constexpr int kMaxThreads = 12;  // below 8, gRPC 1.51 now and then refuses serial calls
constexpr int kMaxMessageBytes = 1 << 20;
constexpr int kMaxMetadataBytes = 8192;
constexpr int kMaxStreams = 8;
// The pollers look for work at this interval although they are woken when there is some: the
// longer, the more idle.
constexpr int kPollMilliseconds = 60 * 60 * 1000;
constexpr std::chrono::milliseconds kShutdownPatience{300};

std::unique_ptr<grpc::Server> Build(AgentService& service) {
  grpc::ResourceQuota quota("agent");
  quota.Resize(kQuotaBytes).SetMaxThreads(kMaxThreads);
  grpc::ServerBuilder builder;
  builder.RegisterService(&service);
  builder.SetResourceQuota(quota);
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetMaxSendMessageSize(kMaxMessageBytes);
  builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  builder.SetSyncServerOption(grpc::ServerBuilder::MIN_POLLERS, 1);
  builder.SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, 2);
  builder.SetSyncServerOption(grpc::ServerBuilder::CQ_TIMEOUT_MSEC, kPollMilliseconds);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreams);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder.AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  return builder.BuildAndStart();
}

void Notify(const UniqueFd& wake) {
  const uint64_t one = 1;
  static_cast<void>(!write(wake.get(), &one, sizeof one));
}

}  // namespace

AgentServer::AgentServer(AgentService& service)
    : service_(service), wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

AgentServer::~AgentServer() {
  service_.Stop();
  if (watch_.joinable()) {
    watch_.request_stop();
    Notify(wake_);
    watch_.join();
  }
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now() + kShutdownPatience);
}

absl::Status AgentServer::Attach(UniqueFd socket) {
  // gRPC shuts a socket down before it closes it, so that this second descriptor keeps nothing
  // alive.
  UniqueFd session(fcntl(socket.get(), F_DUPFD_CLOEXEC, 0));
  if (!session.valid()) return ErrnoStatus(errno, "duplicate a session's socket");
  const std::lock_guard lock(mutex_);
  if (server_ == nullptr) server_ = Build(service_);
  if (server_ == nullptr) return absl::InternalError("no gRPC server could be built");
  grpc::AddInsecureChannelFromFd(server_.get(), socket.Release());
  sessions_.push_back(std::move(session));
  if (!watch_.joinable())
    watch_ = std::jthread([this](const std::stop_token& stop) { Watch(stop); });
  Notify(wake_);
  return absl::OkStatus();
}

bool AgentServer::IsRunning() {
  const std::lock_guard lock(mutex_);
  return server_ != nullptr;
}

void AgentServer::Watch(const std::stop_token& stop) {
  bool linger = false;  // there was a session, and there is none now
  while (!stop.stop_requested()) {
    std::vector<pollfd> fds = {{.fd = wake_.get(), .events = POLLIN, .revents = 0}};
    {
      const std::lock_guard lock(mutex_);
      for (const UniqueFd& session : sessions_)
        fds.push_back({.fd = session.get(), .events = POLLRDHUP, .revents = 0});
      linger = sessions_.empty() && server_ != nullptr;
    }
    // Only this thread takes sessions out of the list, so that the descriptors stay open meanwhile.
    const int ready =
        poll(fds.data(), fds.size(), linger ? static_cast<int>(kServerLinger.count()) : -1);
    if (ready == 0) {
      TakeDownIfIdle();
      continue;
    }
    uint64_t ignored = 0;
    static_cast<void>(!read(wake_.get(), &ignored, sizeof ignored));
    const std::lock_guard lock(mutex_);
    for (const pollfd& fd : fds) {
      if (fd.fd == wake_.get() || fd.revents == 0) continue;
      std::erase_if(sessions_, [&](const UniqueFd& session) { return session.get() == fd.fd; });
    }
  }
}

void AgentServer::TakeDownIfIdle() {
  std::unique_ptr<grpc::Server> old;
  {
    const std::lock_guard lock(mutex_);
    if (!sessions_.empty()) return;
    old = std::move(server_);
  }
  if (old == nullptr) return;
  // Without the lock: gRPC 1.51 may take 10 s to go when a write ever blocked. A session that comes
  // meanwhile gets a server of its own.
  old->Shutdown(std::chrono::system_clock::now() + kShutdownPatience);
  old.reset();
  malloc_trim(0);
}

}  // namespace virt_reclaim::agent
