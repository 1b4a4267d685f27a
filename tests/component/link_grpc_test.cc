// gRPC over the link: the real contract with a server of a few lines. What the host program relies
// on: calls get through, cancelling is quick, and a line that is cut gives UNAVAILABLE now and not
// at the deadline.
#include <gmock/gmock.h>
#include <grpc/grpc.h>
#include <grpcpp/create_channel_posix.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/server_posix.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "proto/link/bridge.h"
#include "proto/link/session.h"
#include "tests/component/link_test_port.h"
#include "virt_reclaim/agent/v1/agent.grpc.pb.h"

namespace virt_reclaim::link {
namespace {

namespace pb = virt_reclaim::agent::v1;
using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

// gRPC 1.51 stops its threads when the last of its objects goes, and then waits up to 10 s for one
// that was started by a write that blocked (its "backup poller"). A program holds gRPC until it
// exits, and so do the tests.
[[maybe_unused]] const bool kHeld = [] {
  grpc_init();
  return true;
}();

class TestService final : public pb::Agent::Service {
 public:
  grpc::Status GetInfo(grpc::ServerContext*, const pb::GetInfoRequest*,
                       pb::GetInfoResponse* response) override {
    response->set_agent_version("0.1.0");
    response->set_os_name(std::string(os_name_size, 'x'));
    return grpc::Status::OK;
  }
  // Progress until it is cancelled, or as many events as `minimum_bytes` says.
  grpc::Status Trim(grpc::ServerContext* context, const pb::TrimRequest* request,
                    grpc::ServerWriter<pb::TrimEvent>* writer) override {
    for (uint64_t i = 0; i < request->minimum_bytes() && !context->IsCancelled(); ++i) {
      pb::TrimEvent event;
      event.mutable_progress()->set_position_bytes(i);
      if (!writer->Write(event)) break;
      if (slow) std::this_thread::sleep_for(milliseconds(1));
    }
    if (context->IsCancelled()) ++cancelled;
    return grpc::Status::OK;
  }

  std::atomic<size_t> os_name_size = 10;
  std::atomic<bool> slow = false;
  std::atomic<int> cancelled = 0;
};

class LinkGrpc : public testing::Test {
 protected:
  LinkGrpc() { StartAgent(); }
  ~LinkGrpc() override {
    channel_.reset();
    host_.reset();
    StopAgent();
  }

  void StartAgent() {
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    agent_ = std::make_unique<AgentLink>(std::make_unique<TestPort>(&socket_), [this](UniqueFd fd) {
      grpc::AddInsecureChannelFromFd(server_.get(), fd.Release());
    });
    runner_ =
        std::jthread([this](const std::stop_token& stop) { agent_->Run(stop).IgnoreError(); });
  }
  void StopAgent() {
    runner_ = {};  // first: Shutdown hangs with a peer that sends and does not read
    server_->Shutdown(std::chrono::system_clock::now() + seconds(1));
    server_.reset();
    agent_.reset();
  }
  void Connect() {
    channel_.reset();
    host_.reset();
    UniqueFd line = socket_.Connect();
    scissors_.Reset(dup(line.get()));
    auto link =
        HostLink::Open(NewFdPort(std::move(line), true), {.connect_timeout = seconds(20)}, {});
    ASSERT_TRUE(link.ok()) << link.status();
    host_ = *std::move(link);
    channel_ = grpc::CreateCustomInsecureChannelFromFd("guest", host_->TakeSocket().Release(), {});
    stub_ = pb::Agent::NewStub(channel_);
  }
  static void SetDeadline(grpc::ClientContext* context) {
    context->set_deadline(std::chrono::system_clock::now() + seconds(30));
  }
  grpc::Status GetInfo(pb::GetInfoResponse* response) {
    grpc::ClientContext context;
    SetDeadline(&context);
    return stub_->GetInfo(&context, {}, response);
  }
  void ExpectInfo() {
    pb::GetInfoResponse response;
    const grpc::Status status = GetInfo(&response);
    EXPECT_TRUE(status.ok()) << status.error_message() << ": " << host_->EndReason();
    EXPECT_EQ(response.agent_version(), "0.1.0");
    EXPECT_EQ(response.os_name().size(), service_.os_name_size);
  }
  // Cuts the stream after 20 events and gives back how it ended.
  grpc::Status StreamAndCut(const std::function<void()>& cut) {
    service_.slow = true;
    grpc::ClientContext context;
    SetDeadline(&context);
    pb::TrimRequest request;
    request.set_minimum_bytes(1'000'000);
    const auto reader = stub_->Trim(&context, request);
    pb::TrimEvent event;
    for (int i = 0; i < 20; ++i) EXPECT_TRUE(reader->Read(&event));
    const auto start = steady_clock::now();
    cut();
    while (reader->Read(&event)) continue;
    grpc::Status status = reader->Finish();
    EXPECT_LT(steady_clock::now() - start, seconds(15));
    return status;
  }

  TestSocket socket_;
  TestService service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<AgentLink> agent_;
  std::jthread runner_;
  UniqueFd scissors_;
  std::unique_ptr<HostLink> host_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<pb::Agent::Stub> stub_;
};

TEST_F(LinkGrpc, CallsOfAllSizes) {
  Connect();
  for (int i = 0; i < 50; ++i) ExpectInfo();
  for (const size_t size :
       {size_t{1000}, size_t{32768}, size_t{1} << 19, (size_t{1} << 20) - 100}) {
    service_.os_name_size = size;
    ExpectInfo();
  }
}

TEST_F(LinkGrpc, CallsFromManyThreads) {
  Connect();
  service_.os_name_size = 20000;
  std::vector<std::jthread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([this] {
      for (int call = 0; call < 20; ++call) ExpectInfo();
    });
  }
}

TEST_F(LinkGrpc, ServerStreamArrivesWhole) {
  Connect();
  grpc::ClientContext context;
  SetDeadline(&context);
  pb::TrimRequest request;
  request.set_minimum_bytes(5000);
  const auto reader = stub_->Trim(&context, request);
  pb::TrimEvent event;
  uint64_t count = 0;
  while (reader->Read(&event)) EXPECT_EQ(event.progress().position_bytes(), count++);
  const grpc::Status status = reader->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message() << ": " << host_->EndReason();
  EXPECT_EQ(count, 5000U);
}

TEST_F(LinkGrpc, CancelReachesTheServerAndTheLinkLivesOn) {
  Connect();
  service_.slow = true;
  grpc::ClientContext context;
  SetDeadline(&context);
  pb::TrimRequest request;
  request.set_minimum_bytes(1'000'000);
  const auto reader = stub_->Trim(&context, request);
  pb::TrimEvent event;
  ASSERT_TRUE(reader->Read(&event));
  context.TryCancel();
  while (reader->Read(&event)) continue;
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  for (int i = 0; i < 1000 && service_.cancelled == 0; ++i) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_EQ(service_.cancelled, 1);
  ExpectInfo();
}

TEST_F(LinkGrpc, LineCutInAStreamIsUnavailable) {
  for (int i = 0; i < 5; ++i) {
    Connect();
    const grpc::Status status = StreamAndCut([&] { shutdown(scissors_.get(), SHUT_RDWR); });
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
    EXPECT_NE(host_->EndReason(), "");
  }
  Connect();
  ExpectInfo();
}

TEST_F(LinkGrpc, DamageInAStreamIsUnavailable) {
  Connect();
  // Into the host's writes: the test holds the same socket.
  const grpc::Status status = StreamAndCut([&] {
    const std::string garbage(100, 'x');
    EXPECT_GT(send(scissors_.get(), garbage.data(), garbage.size(), MSG_NOSIGNAL), 0);
  });
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
  EXPECT_EQ(host_->EndReason(), "the agent received a damaged frame");
  Connect();
  ExpectInfo();
}

TEST_F(LinkGrpc, StoppedAgentInAStreamIsUnavailable) {
  Connect();
  const grpc::Status status = StreamAndCut([&] { StopAgent(); });
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
  StartAgent();
  Connect();
  ExpectInfo();
}

TEST_F(LinkGrpc, ClosedHostEndsTheCallsAtTheServer) {
  Connect();
  const grpc::Status status = StreamAndCut([&] { host_.reset(); });
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
  for (int i = 0; i < 1000 && service_.cancelled == 0; ++i) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_EQ(service_.cancelled, 1);
}

// A host that vanished: its end of the port stays open, reads, and never says a word again.
class MutePort : public Port {
 public:
  MutePort(std::unique_ptr<Port> port, const std::atomic<bool>& mute)
      : port_(std::move(port)), mute_(mute) {}
  int fd() const override { return port_->fd(); }
  void AcknowledgeEdge() override { port_->AcknowledgeEdge(); }
  IoResult Read(std::span<uint8_t> buffer) override { return port_->Read(buffer); }
  IoResult Write(std::span<const uint8_t> bytes) override {
    if (mute_) return {IoResult::Kind::kBytes, bytes.size(), ""};
    return port_->Write(bytes);
  }

 private:
  const std::unique_ptr<Port> port_;
  const std::atomic<bool>& mute_;
};

// The lease of a trim.
TEST_F(LinkGrpc, ACallOfAHostThatVanishedIsCancelledAfterItsSilence) {
  std::atomic<bool> mute = false;
  auto link = HostLink::Open(std::make_unique<MutePort>(NewFdPort(socket_.Connect(), true), mute),
                             {.connect_timeout = seconds(20)}, {});
  ASSERT_TRUE(link.ok()) << link.status();
  host_ = *std::move(link);
  channel_ = grpc::CreateCustomInsecureChannelFromFd("guest", host_->TakeSocket().Release(), {});
  stub_ = pb::Agent::NewStub(channel_);
  steady_clock::time_point silent;
  StreamAndCut([&] {
    mute = true;
    silent = steady_clock::now();
    while (service_.cancelled == 0 && steady_clock::now() - silent < seconds(15))
      std::this_thread::sleep_for(milliseconds(10));
  });
  EXPECT_EQ(service_.cancelled, 1);
  EXPECT_LT(steady_clock::now() - silent, 2 * kSilenceLimit + seconds(3));
}

TEST_F(LinkGrpc, HundredReconnectsWithOneCallEach) {
  for (int i = 0; i < 100; ++i) {
    Connect();
    ExpectInfo();
  }
}

TEST_F(LinkGrpc, CapOnReceivedBytesEndsTheStream) {
  UniqueFd line = socket_.Connect();
  auto link = HostLink::Open(NewFdPort(std::move(line), true),
                             {.connect_timeout = seconds(20), .max_received_bytes = 100'000}, {});
  ASSERT_TRUE(link.ok()) << link.status();
  host_ = *std::move(link);
  channel_ = grpc::CreateCustomInsecureChannelFromFd("guest", host_->TakeSocket().Release(), {});
  stub_ = pb::Agent::NewStub(channel_);
  ExpectInfo();
  service_.os_name_size = 200'000;
  pb::GetInfoResponse response;
  EXPECT_EQ(GetInfo(&response).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(host_->EndReason(), testing::HasSubstr("97.7 KiB"));
}

}  // namespace
}  // namespace virt_reclaim::link
