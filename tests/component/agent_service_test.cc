// The gRPC service over a channel on a socketpair, as the host's program speaks to it; filesystems
// and FITRIM replaced.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grpcpp/create_channel_posix.h>
#include <grpcpp/grpcpp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "guest-agent/server.h"
#include "guest-agent/service.h"
#include "guest-agent/trimmer.h"
#include "virt_reclaim/agent/v1/agent.grpc.pb.h"

namespace virt_reclaim::agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using ::testing::ElementsAre;
using ::testing::SizeIs;

// In the forked child: one trimmed megabyte, after a while.
std::atomic<int> chunk_milliseconds{0};
int SlowFitrim(int /*fd*/, uint64_t /*start*/, uint64_t& length, uint64_t /*minimum*/) {
  if (chunk_milliseconds > 0) poll(nullptr, 0, chunk_milliseconds);
  length = 1000000;
  return 0;
}
int NotSupported(int /*fd*/, uint64_t /*start*/, uint64_t& /*length*/, uint64_t /*minimum*/) {
  return EOPNOTSUPP;
}

Filesystem MakeFilesystem(const std::string& mount_point, Obstacle obstacle = Obstacle::kNone) {
  Filesystem filesystem;
  filesystem.source = "/dev/vda1";
  filesystem.type = "ext4";
  filesystem.mount_points = {mount_point};
  filesystem.size_bytes = 1 << 20;
  struct stat status = {};
  if (stat(mount_point.c_str(), &status) == 0) filesystem.device = status.st_dev;
  BlockDevice disk;
  disk.name = "vda";
  disk.kind = DeviceKind::kDisk;
  disk.discard_max_bytes = 4096;
  filesystem.chain.devices = {disk};
  filesystem.chain.tops = 1;
  filesystem.verdict.obstacle = obstacle;
  return filesystem;
}

struct ServiceTest : ::testing::Test {
  ServiceTest() { chunk_milliseconds = 0; }

  std::unique_ptr<v1::Agent::Stub> Connect() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    EXPECT_TRUE(server.Attach(UniqueFd(ends[0])).ok());
    return v1::Agent::NewStub(grpc::CreateInsecureChannelFromFd("vm", ends[1]));
  }
  static void SetDeadline(grpc::ClientContext& context) {
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  }
  // All events of one trim.
  grpc::Status Trim(v1::Agent::Stub& stub, const v1::TrimRequest& request,
                    std::vector<v1::TrimEvent>* events = nullptr) {
    grpc::ClientContext context;
    SetDeadline(context);
    const auto reader = stub.Trim(&context, request);
    v1::TrimEvent event;
    while (reader->Read(&event)) {
      if (events != nullptr) events->push_back(event);
    }
    return reader->Finish();
  }
  grpc::StatusCode TrimCode(const v1::TrimRequest& request) {
    return Trim(*Connect(), request).error_code();
  }
  static v1::TrimRequest For(const std::string& mount_point) {
    v1::TrimRequest request;
    request.add_mount_points(mount_point);
    return request;
  }

  FilesystemList list{{MakeFilesystem("/"), MakeFilesystem("/ro", Obstacle::kReadOnly)}, false};
  AgentService service{{[this] { return list; }, SlowFitrim}};
  AgentServer server{service};
};

TEST_F(ServiceTest, Info) {
  const auto stub = Connect();
  grpc::ClientContext context;
  SetDeadline(context);
  v1::GetInfoResponse info;
  const grpc::Status status = stub->GetInfo(&context, v1::GetInfoRequest(), &info);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(info.agent_version(), VIRT_RECLAIM_VERSION);
  EXPECT_FALSE(info.kernel_release().empty());
  EXPECT_EQ(info.capabilities_size(), 3);
  EXPECT_GT(info.uptime().seconds(), 0);
  ASSERT_TRUE(info.has_agent_uptime());
  EXPECT_GE(info.agent_uptime().seconds(), 0);
  // Of the agent, which is this test: not of the guest.
  EXPECT_LT(info.agent_uptime().seconds(), info.uptime().seconds());
}

TEST_F(ServiceTest, List) {
  list.filesystems[0].uuid = "a\xff";
  const auto stub = Connect();
  grpc::ClientContext context;
  SetDeadline(context);
  v1::ListFilesystemsResponse response;
  const grpc::Status status =
      stub->ListFilesystems(&context, v1::ListFilesystemsRequest(), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_THAT(response.filesystems(), SizeIs(2));
  EXPECT_EQ(response.filesystems(0).uuid(), "a\\xff");
  EXPECT_EQ(response.filesystems(0).devices(0).name(), "vda");
  EXPECT_EQ(response.filesystems(1).obstacle(), v1::TRIM_OBSTACLE_READ_ONLY);
}

TEST_F(ServiceTest, TrimOfEverythingTellsTheWholeStory) {
  std::vector<v1::TrimEvent> events;
  const grpc::Status status = Trim(*Connect(), v1::TrimRequest(), &events);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_THAT(events, SizeIs(5));
  EXPECT_EQ(events[0].started().mount_point(), "/");
  EXPECT_EQ(events[0].started().count(), 2U);
  EXPECT_EQ(events[1].progress().trimmed_bytes(), 1000000U);
  EXPECT_EQ(events[2].finished().result(), v1::TRIM_RESULT_DONE);
  EXPECT_EQ(events[2].finished().trimmed_bytes(), 1000000U);
  EXPECT_EQ(events[2].finished().disks(0), "vda");
  EXPECT_EQ(events[3].finished().result(), v1::TRIM_RESULT_SKIPPED);
  EXPECT_EQ(events[3].finished().index(), 1U);
  EXPECT_EQ(events[3].finished().obstacle(), v1::TRIM_OBSTACLE_READ_ONLY);
  EXPECT_EQ(events[4].summary().done(), 1U);
  EXPECT_EQ(events[4].summary().skipped(), 1U);
}

TEST_F(ServiceTest, WhatWasFreedSinceIsKnownOfWhatWasTrimmedWhole) {
  const auto stub = Connect();
  const auto freed_since = [&]() -> std::optional<uint64_t> {
    grpc::ClientContext context;
    SetDeadline(context);
    v1::ListFilesystemsResponse response;
    EXPECT_TRUE(stub->ListFilesystems(&context, {}, &response).ok());
    EXPECT_FALSE(response.filesystems(1).has_freed_since_trim_bytes());  // read-only
    const v1::Filesystem& root = response.filesystems(0);
    if (!root.has_freed_since_trim_bytes()) return std::nullopt;
    return root.freed_since_trim_bytes();
  };
  list.filesystems[0].free_bytes = UINT64_MAX;  // at its begin; less is free by its end
  EXPECT_EQ(freed_since(), std::nullopt);
  v1::TrimRequest coarse;
  coarse.set_minimum_bytes(1 << 20);
  EXPECT_TRUE(Trim(*stub, coarse).ok());
  EXPECT_EQ(freed_since(), std::nullopt);
  EXPECT_TRUE(Trim(*stub, v1::TrimRequest()).ok());
  EXPECT_TRUE(freed_since().has_value());
}

TEST_F(ServiceTest, TrimOfASelection) {
  std::vector<v1::TrimEvent> events;
  ASSERT_TRUE(Trim(*Connect(), For("/"), &events).ok());
  ASSERT_THAT(events, SizeIs(4));
  EXPECT_EQ(events[0].started().count(), 1U);
  EXPECT_EQ(events[3].summary().done(), 1U);
}

TEST_F(ServiceTest, MountPointThatIsAnotherFilesystemNow) {
  list.filesystems[0].device = 12345;
  std::vector<v1::TrimEvent> events;
  ASSERT_TRUE(Trim(*Connect(), For("/"), &events).ok());
  EXPECT_EQ(events.at(1).finished().result(), v1::TRIM_RESULT_FAILED);
  EXPECT_EQ(events.at(1).finished().error_name(), "ESTALE");
  EXPECT_EQ(events.at(2).summary().failed(), 1U);
}

TEST_F(ServiceTest, BeginsWhereAnEarlierTrimEnded) {
  const auto trimmed = [&](const std::string& mount_point, bool after) {
    v1::TrimRequest request;
    request.mutable_start()->set_mount_point(mount_point);
    request.mutable_start()->set_offset_bytes(uint64_t{1} << 60);
    request.mutable_start()->set_after(after);
    std::vector<v1::TrimEvent> events;
    EXPECT_TRUE(Trim(*Connect(), request, &events).ok());
    std::vector<std::string> names;
    for (const v1::TrimEvent& event : events) {
      if (event.has_started()) names.push_back(event.started().mount_point());
    }
    return names;
  };
  list.filesystems = {MakeFilesystem("/"), MakeFilesystem("/proc"), MakeFilesystem("/dev")};
  EXPECT_THAT(trimmed("/nowhere", false), ElementsAre("/", "/proc", "/dev"));
  EXPECT_THAT(trimmed("/proc", false), ElementsAre("/proc", "/dev"));
  EXPECT_THAT(trimmed("/proc", true), ElementsAre("/dev"));
  EXPECT_THAT(trimmed("/dev", true), ElementsAre("/", "/proc", "/dev"));  // nothing was left
  v1::TrimRequest request;
  request.mutable_start()->set_mount_point("data");
  EXPECT_EQ(TrimCode(request), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ServiceTest, PausesCanBeMadeLongerMeanwhile) {
  const auto set = [&](int64_t seconds) {
    grpc::ClientContext context;
    SetDeadline(context);
    v1::SetTrimPauseRequest request;
    request.mutable_least_pause()->set_seconds(seconds);
    v1::SetTrimPauseResponse response;
    return Connect()->SetTrimPause(&context, request, &response).error_code();
  };
  EXPECT_EQ(set(60), grpc::StatusCode::OK);
  EXPECT_EQ(set(61), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(set(-1), grpc::StatusCode::INVALID_ARGUMENT);
  // That was of no trim: the next one does not rest for a minute.
  const auto begin = steady_clock::now();
  EXPECT_TRUE(Trim(*Connect(), For("/")).ok());
  EXPECT_LT(steady_clock::now() - begin, std::chrono::seconds(20));
}

TEST_F(ServiceTest, SecondTrimIsAborted) {
  chunk_milliseconds = 1000;
  const auto stub = Connect();
  const auto other = Connect();
  grpc::ClientContext context;
  SetDeadline(context);
  const auto reader = stub->Trim(&context, For("/"));
  v1::TrimEvent event;
  ASSERT_TRUE(reader->Read(&event));  // it has started
  const grpc::Status status = Trim(*other, For("/"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(status.error_message(), "another trim is under way");
  while (reader->Read(&event)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  chunk_milliseconds = 0;
  EXPECT_TRUE(Trim(*other, For("/")).ok());
}

TEST_F(ServiceTest, CancelKillsAndMakesRoomForTheNext) {
  chunk_milliseconds = 60000;
  const auto stub = Connect();
  {
    grpc::ClientContext context;
    SetDeadline(context);
    const auto reader = stub->Trim(&context, For("/"));
    v1::TrimEvent event;
    ASSERT_TRUE(reader->Read(&event));
    context.TryCancel();
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  std::this_thread::sleep_for(milliseconds(100));  // the service asks every 50 ms
  chunk_milliseconds = 0;
  const auto begin = steady_clock::now();
  const grpc::Status next = Trim(*stub, For("/"));  // waits for the killed one's place
  EXPECT_TRUE(next.ok()) << next.error_message();
  EXPECT_LT(steady_clock::now() - begin, milliseconds(1500));
}

TEST_F(ServiceTest, HostThatGoesStopsItsTrim) {
  chunk_milliseconds = 60000;
  {
    auto stub = Connect();
    grpc::ClientContext context;
    SetDeadline(context);
    const auto reader = stub->Trim(&context, For("/"));
    v1::TrimEvent event;
    ASSERT_TRUE(reader->Read(&event));
    context.TryCancel();
    reader->Finish();
  }
  std::this_thread::sleep_for(milliseconds(1300));
  chunk_milliseconds = 0;
  EXPECT_TRUE(Trim(*Connect(), For("/")).ok());
}

TEST_F(ServiceTest, StopEndsATrim) {
  chunk_milliseconds = 60000;
  const auto stub = Connect();
  grpc::ClientContext context;
  SetDeadline(context);
  const auto reader = stub->Trim(&context, For("/"));
  v1::TrimEvent event;
  ASSERT_TRUE(reader->Read(&event));
  const auto begin = steady_clock::now();
  service.Stop();
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_LT(steady_clock::now() - begin, milliseconds(1100));
  EXPECT_EQ(event.finished().result(), v1::TRIM_RESULT_CANCELLED);
  EXPECT_EQ(TrimCode(For("/")), grpc::StatusCode::ABORTED);
}

TEST_F(ServiceTest, BadInput) {
  EXPECT_EQ(TrimCode(For("/nowhere")), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(TrimCode(For("")), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(TrimCode(For("relative")), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(TrimCode(For("/" + std::string(4096, 'x'))), grpc::StatusCode::INVALID_ARGUMENT);
  v1::TrimRequest many;
  for (int i = 0; i < 4097; ++i) many.add_mount_points("/");
  EXPECT_EQ(TrimCode(many), grpc::StatusCode::INVALID_ARGUMENT);
  v1::TrimRequest chunk = For("/");
  chunk.set_chunk_bytes(1);
  EXPECT_EQ(TrimCode(chunk), grpc::StatusCode::INVALID_ARGUMENT);
  for (const auto& [seconds, nanos] :
       std::vector<std::pair<int64_t, int32_t>>{{61, 0},
                                                {-1, 0},
                                                {0, -1},
                                                {60, 1},
                                                {0, 1000000000},
                                                {INT64_MAX, 999999999},
                                                {INT64_MIN, 0}}) {
    v1::TrimRequest pause = For("/");
    pause.mutable_pause()->set_seconds(seconds);
    pause.mutable_pause()->set_nanos(nanos);
    EXPECT_EQ(TrimCode(pause), grpc::StatusCode::INVALID_ARGUMENT)
        << seconds << " s " << nanos << " ns";
  }
  v1::TrimRequest percent = For("/");
  percent.set_pause_percent(10001);
  EXPECT_EQ(TrimCode(percent), grpc::StatusCode::INVALID_ARGUMENT);
  v1::TrimRequest extreme = For("/");
  extreme.set_pause_percent(10000);
  extreme.set_max_bytes_per_second(~uint64_t{0});
  extreme.set_back_off(true);
  extreme.set_chunk_bytes(~uint64_t{0});
  extreme.set_minimum_bytes(~uint64_t{0});
  EXPECT_EQ(TrimCode(extreme), grpc::StatusCode::OK);  // the kernel's to refuse
}

TEST_F(ServiceTest, RequestAboveTheLimitIsRefused) {
  v1::TrimRequest huge;
  for (int i = 0; i < 400; ++i) huge.add_mount_points(std::string(4000, '/'));
  EXPECT_EQ(TrimCode(huge), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(ServiceTest, ManyConnections) {
  for (int i = 0; i < 50; ++i) {
    const auto stub = Connect();
    grpc::ClientContext context;
    SetDeadline(context);
    v1::GetInfoResponse info;
    ASSERT_TRUE(stub->GetInfo(&context, v1::GetInfoRequest(), &info).ok()) << i;
  }
}

TEST_F(ServiceTest, ServerGoesAfterTheLastSessionAndComesBack) {
  EXPECT_FALSE(server.IsRunning());
  for (int i = 0; i < 2; ++i) {
    {
      const auto stub = Connect();
      grpc::ClientContext context;
      SetDeadline(context);
      v1::GetInfoResponse info;
      ASSERT_TRUE(stub->GetInfo(&context, v1::GetInfoRequest(), &info).ok()) << i;
      EXPECT_TRUE(server.IsRunning());
    }
    const auto deadline = steady_clock::now() + kServerLinger + milliseconds(2000);
    while (server.IsRunning() && steady_clock::now() < deadline)
      std::this_thread::sleep_for(milliseconds(20));
    EXPECT_FALSE(server.IsRunning());
  }
}

// What speaks no HTTP/2 is hung up on, although the server keeps a second descriptor of each
// session's socket.
TEST_F(ServiceTest, NonsenseEndsTheSession) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
  const UniqueFd peer(ends[1]);
  ASSERT_TRUE(server.Attach(UniqueFd(ends[0])).ok());
  const std::string nonsense(1000, '?');
  ASSERT_EQ(write(peer.get(), nonsense.data(), nonsense.size()),
            static_cast<ssize_t>(nonsense.size()));
  const auto deadline = steady_clock::now() + milliseconds(5000);
  ssize_t n = -1;
  char buffer[4096];
  while (n != 0 && steady_clock::now() < deadline) {
    pollfd wait = {.fd = peer.get(), .events = POLLIN, .revents = 0};
    poll(&wait, 1, 100);
    n = read(peer.get(), buffer, sizeof buffer);
  }
  EXPECT_EQ(n, 0);
}

TEST(ServiceErrorTest, UnsupportedDiskIsNamed) {
  FilesystemList list{{MakeFilesystem("/")}, false};
  list.filesystems[0].chain.devices[0].discard_max_bytes = 0;
  AgentService service({[&] { return list; }, NotSupported});
  AgentServer server(service);
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
  ASSERT_TRUE(server.Attach(UniqueFd(ends[0])).ok());
  const auto stub = v1::Agent::NewStub(grpc::CreateInsecureChannelFromFd("vm", ends[1]));
  grpc::ClientContext context;
  v1::TrimRequest request;
  request.add_mount_points("/");
  const auto reader = stub->Trim(&context, request);
  std::vector<v1::TrimEvent> events;
  for (v1::TrimEvent event; reader->Read(&event);) events.push_back(event);
  EXPECT_TRUE(reader->Finish().ok());
  ASSERT_THAT(events, SizeIs(3));
  EXPECT_EQ(events[1].finished().result(), v1::TRIM_RESULT_FAILED);
  EXPECT_EQ(events[1].finished().error_number(), EOPNOTSUPP);
  EXPECT_EQ(events[1].finished().obstacle(), v1::TRIM_OBSTACLE_DISK_NOT_SUPPORTED);
  EXPECT_EQ(events[1].finished().obstacle_device(), "vda");
}

// Notes each filesystem's result.
struct Results : TrimObserver {
  void OnStarted(const TrimTarget&, uint32_t, uint32_t) override { ++started; }
  void OnProgress(const TrimTarget&, uint32_t, const FitrimProgress&) override {}
  void OnFinished(const TrimTarget&, uint32_t, const TrimFinished& finished) override {
    results.push_back(finished.result);
  }
  int started = 0;
  std::vector<TrimResult> results;
};

TEST(TrimAllTest, NothingIsTrimmedAfterAnIoError) {
  const auto run = [](FitrimCall call, Results& results) {
    std::vector<TrimTarget> targets(3, {MakeFilesystem("/"), "/", false});
    targets[2].filesystem.verdict.obstacle = Obstacle::kReadOnly;
    return TrimAll(targets, {}, results, {}, call);
  };
  Results after_io_error;
  const TrimTotals totals =
      run([](int, uint64_t, uint64_t&, uint64_t) { return EIO; }, after_io_error);
  EXPECT_THAT(after_io_error.results,
              ElementsAre(TrimResult::kFailed, TrimResult::kCancelled, TrimResult::kSkipped));
  EXPECT_EQ(after_io_error.started, 1);
  EXPECT_FALSE(totals.cancelled);  // nobody stopped it
  Results after_another;
  run(NotSupported, after_another);
  EXPECT_THAT(after_another.results,
              ElementsAre(TrimResult::kFailed, TrimResult::kFailed, TrimResult::kSkipped));
}

}  // namespace
}  // namespace virt_reclaim::agent
