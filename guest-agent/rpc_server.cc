#include "guest-agent/rpc_server.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server_posix.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>

#include "base/utf8.h"
#include "virt_reclaim/agent/v1/agent.grpc.pb.h"

namespace virt_reclaim::agent {
namespace {

constexpr size_t kQuotaBytes = size_t{16} << 20;
constexpr int kMaxMessageBytes = 1 << 20;
constexpr int kMaxMetadataBytes = 8192;
constexpr int kMaxStreams = 8;
// Of calls that may take long, all sessions together: each has a thread.
constexpr int kMaxSlowCalls = 8;
constexpr std::chrono::milliseconds kShutdownPatience{300};

// What waits in the completion queue: runs on the server's thread when gRPC is done with it.
using Tag = std::function<void(bool ok)>;

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return {static_cast<grpc::StatusCode>(status.code()), Utf8(status.message())};
}

// What the calls share.
struct Context {
  explicit Context(AgentService& agent) : service(agent) {}

  AgentService& service;
  v1::Agent::AsyncService rpc;
  std::unique_ptr<grpc::ServerCompletionQueue> queue;

  std::mutex mutex;
  std::condition_variable changed;
  int slow_calls = 0;

  bool BeginSlowCall() {
    const std::lock_guard lock(mutex);
    if (slow_calls >= kMaxSlowCalls) return false;
    ++slow_calls;
    return true;
  }
  void EndSlowCall() {
    const std::lock_guard lock(mutex);
    --slow_calls;
    changed.notify_all();
  }
};

// Each call is an object that waits for its host, makes its successor when one comes, and deletes
// itself when gRPC has no more use of it.

class InfoCall {
 public:
  static void Await(Context& context) { new InfoCall(context); }

 private:
  explicit InfoCall(Context& context) : context_(context) {
    context.rpc.RequestGetInfo(&grpc_, &request_, &responder_, context.queue.get(),
                               context.queue.get(), &arrived_);
  }

  void OnArrived(bool ok) {
    if (!ok) return delete this;  // the server is going down
    Await(context_);
    responder_.Finish(context_.service.GetInfo(), grpc::Status::OK, &finished_);
  }

  Context& context_;
  grpc::ServerContext grpc_;
  v1::GetInfoRequest request_;
  grpc::ServerAsyncResponseWriter<v1::GetInfoResponse> responder_{&grpc_};
  Tag arrived_ = [this](bool ok) { OnArrived(ok); };
  Tag finished_ = [this](bool) { delete this; };
};

// A call with a thread of its own. It goes when gRPC has said both that the answer is finished and
// that the call is over.
class SlowCall {
 public:
  SlowCall(const SlowCall&) = delete;
  SlowCall& operator=(const SlowCall&) = delete;

 protected:
  explicit SlowCall(Context& context) : context_(context) { grpc_.AsyncNotifyWhenDone(&over_); }
  virtual ~SlowCall() {
    if (counted_) context_.EndSlowCall();
  }

  virtual void AwaitNext() = 0;
  // On the call's own thread. Answers, and calls Finish of its responder with finished().
  virtual void Work() = 0;
  // Refuses on the server's thread, in the same way.
  virtual void Refuse(const grpc::Status& status) = 0;

  Context& context() { return context_; }
  grpc::ServerContext* grpc() { return &grpc_; }
  // Stops when the host has cancelled the call, or is gone.
  const std::stop_source& stop() const { return stop_; }
  Tag* arrived() { return &arrived_; }
  Tag* finished() { return &finished_; }

 private:
  void OnArrived(bool ok) {
    if (!ok) return delete this;  // then there is no word that the call is over
    AwaitNext();
    counted_ = context_.BeginSlowCall();
    if (!counted_) {
      return Refuse({grpc::StatusCode::RESOURCE_EXHAUSTED, "too many calls are under way"});
    }
    worker_ = std::jthread([this] { Work(); });
  }
  void OnOver() {
    if (grpc_.IsCancelled()) stop_.request_stop();
    GoIfSecond();
  }
  void GoIfSecond() {
    if (!std::exchange(half_done_, true)) return;
    if (worker_.joinable()) worker_.join();  // it may not have returned from Finish yet
    delete this;
  }

  Context& context_;
  grpc::ServerContext grpc_;
  std::stop_source stop_;
  bool counted_ = false;
  bool half_done_ = false;
  Tag arrived_ = [this](bool ok) { OnArrived(ok); };
  Tag over_ = [this](bool) { OnOver(); };
  Tag finished_ = [this](bool) { GoIfSecond(); };
  std::jthread worker_;
};

// One message in, one out. `Method` names the three functions that a unary call is made of.
template <typename Method>
class UnaryCall final : public SlowCall {
 public:
  static void Await(Context& context) { new UnaryCall(context); }

 private:
  explicit UnaryCall(Context& context) : SlowCall(context) {
    (context.rpc.*Method::kRequest)(grpc(), &request_, &responder_, context.queue.get(),
                                    context.queue.get(), arrived());
  }
  void AwaitNext() override { Await(context()); }
  void Work() override {
    const auto response = Method::Call(context().service, request_, stop());
    if (!response.ok()) return Refuse(ToGrpc(response.status()));
    responder_.Finish(*response, grpc::Status::OK, finished());
  }
  void Refuse(const grpc::Status& status) override {
    responder_.FinishWithError(status, finished());
  }

  typename Method::Request request_;
  grpc::ServerAsyncResponseWriter<typename Method::Response> responder_{grpc()};
};

struct ListMethod {
  using Request = v1::ListFilesystemsRequest;
  using Response = v1::ListFilesystemsResponse;
  static constexpr auto kRequest = &v1::Agent::AsyncService::RequestListFilesystems;
  static auto Call(AgentService& service, const Request&, const std::stop_source&) {
    return service.ListFilesystems();
  }
};
struct SetTrimPauseMethod {
  using Request = v1::SetTrimPauseRequest;
  using Response = v1::SetTrimPauseResponse;
  static constexpr auto kRequest = &v1::Agent::AsyncService::RequestSetTrimPause;
  static auto Call(AgentService& service, const Request& request, const std::stop_source&) {
    return service.SetTrimPause(request);
  }
};
struct PreflightMethod {
  using Request = v1::PreflightRequest;
  using Response = v1::PreflightResponse;
  static constexpr auto kRequest = &v1::Agent::AsyncService::RequestPreflight;
  static auto Call(AgentService& service, const Request& request, const std::stop_source& stop) {
    return service.Preflight(request, stop);
  }
};
struct WriteMarkerMethod {
  using Request = v1::WriteMarkerRequest;
  using Response = v1::WriteMarkerResponse;
  static constexpr auto kRequest = &v1::Agent::AsyncService::RequestWriteMarker;
  static auto Call(AgentService& service, const Request& request, const std::stop_source& stop) {
    return service.WriteMarker(request, stop);
  }
};
struct DiscardMarkerMethod {
  using Request = v1::DiscardMarkerRequest;
  using Response = v1::DiscardMarkerResponse;
  static constexpr auto kRequest = &v1::Agent::AsyncService::RequestDiscardMarker;
  static auto Call(AgentService& service, const Request& request, const std::stop_source& stop) {
    return service.DiscardMarker(request, stop);
  }
};
struct ReadFreeMapMethod {
  using Request = v1::ReadFreeMapRequest;
  using Response = v1::ReadFreeMapResponse;
  static constexpr auto kRequest = &v1::Agent::AsyncService::RequestReadFreeMap;
  static auto Call(AgentService& service, const Request& request, const std::stop_source& stop) {
    return service.ReadFreeMap(request, stop.get_token());
  }
};
struct FixGuestMethod {
  using Request = v1::FixGuestRequest;
  using Response = v1::FixGuestResponse;
  static constexpr auto kRequest = &v1::Agent::AsyncService::RequestFixGuest;
  static auto Call(AgentService& service, const Request& request, const std::stop_source& stop) {
    return service.FixGuest(request, stop);
  }
};

class TrimCall final : public SlowCall {
 public:
  static void Await(Context& context) { new TrimCall(context); }

 private:
  enum class Write { kIdle, kUnderWay, kDone, kFailed };

  explicit TrimCall(Context& context) : SlowCall(context) {
    context.rpc.RequestTrim(grpc(), &request_, &writer_, context.queue.get(), context.queue.get(),
                            arrived());
  }
  void AwaitNext() override { Await(context()); }
  void Work() override {
    const absl::Status status = context().service.Trim(
        request_, [this](const v1::TrimEvent& event) { return WriteEvent(event); }, stop());
    writer_.Finish(ToGrpc(status), finished());
  }
  void Refuse(const grpc::Status& status) override { writer_.Finish(status, finished()); }

  // gRPC takes one message at a time.
  bool WriteEvent(const v1::TrimEvent& event) {
    std::unique_lock lock(mutex_);
    write_ = Write::kUnderWay;
    writer_.Write(event, &written_);
    changed_.wait(lock, [this] { return write_ != Write::kUnderWay; });
    return write_ == Write::kDone;
  }
  void OnWritten(bool ok) {
    const std::lock_guard lock(mutex_);
    write_ = ok ? Write::kDone : Write::kFailed;
    changed_.notify_one();
  }

  v1::TrimRequest request_;
  grpc::ServerAsyncWriter<v1::TrimEvent> writer_{grpc()};
  std::mutex mutex_;
  std::condition_variable changed_;
  Write write_ = Write::kIdle;
  Tag written_ = [this](bool ok) { OnWritten(ok); };
};

class RpcServerImpl final : public RpcServer {
 public:
  explicit RpcServerImpl(AgentService& service) : context_(service) {}

  bool Start() {
    grpc::ResourceQuota quota("agent");
    quota.Resize(kQuotaBytes);
    grpc::ServerBuilder builder;
    builder.RegisterService(&context_.rpc);
    builder.SetResourceQuota(quota);
    builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
    builder.SetMaxSendMessageSize(kMaxMessageBytes);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreams);
    builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
    builder.AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    context_.queue = builder.AddCompletionQueue();
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) return false;
    InfoCall::Await(context_);
    UnaryCall<ListMethod>::Await(context_);
    UnaryCall<SetTrimPauseMethod>::Await(context_);
    UnaryCall<PreflightMethod>::Await(context_);
    UnaryCall<WriteMarkerMethod>::Await(context_);
    UnaryCall<DiscardMarkerMethod>::Await(context_);
    UnaryCall<ReadFreeMapMethod>::Await(context_);
    UnaryCall<FixGuestMethod>::Await(context_);
    TrimCall::Await(context_);
    thread_ = std::jthread([this] { Serve(); });
    return true;
  }

  ~RpcServerImpl() override {
    if (server_ != nullptr) {
      server_->Shutdown(std::chrono::system_clock::now() + kShutdownPatience);
      // Their threads still speak to the queue.
      std::unique_lock lock(context_.mutex);
      context_.changed.wait(lock, [this] { return context_.slow_calls == 0; });
    }
    if (context_.queue == nullptr) return;
    context_.queue->Shutdown();
    if (!thread_.joinable()) Serve();
  }

  void Attach(UniqueFd socket) override {
    grpc::AddInsecureChannelFromFd(server_.get(), socket.Release());
  }

  bool IsBusy() override {
    const std::lock_guard lock(context_.mutex);
    return context_.slow_calls > 0;
  }

 private:
  void Serve() {
    void* tag = nullptr;
    for (bool ok = false; context_.queue->Next(&tag, &ok);) (*static_cast<Tag*>(tag))(ok);
  }

  Context context_;
  std::unique_ptr<grpc::Server> server_;
  std::jthread thread_;  // last: it drains the queue before anything else goes
};

}  // namespace

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(AgentService& service) {
  auto server = std::make_unique<RpcServerImpl>(service);
  if (!server->Start()) return absl::InternalError("no gRPC server could be built");
  return server;
}

}  // namespace virt_reclaim::agent
