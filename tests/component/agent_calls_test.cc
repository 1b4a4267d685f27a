// What is behind Preflight, the marker and FixGuest in the real system: child processes, files of a
// real filesystem, the worker's socket; and the calls over gRPC.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grpcpp/create_channel_posix.h>
#include <grpcpp/grpcpp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "base/subprocess.h"
#include "guest-agent/guest_calls.h"
#include "guest-agent/marker.h"
#include "guest-agent/server.h"
#include "guest-agent/service.h"
#include "tests/unit/agent_tree.h"
#include "virt_reclaim/agent/v1/agent.grpc.pb.h"

namespace virt_reclaim::agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

int FakeFitrim(int /*fd*/, uint64_t /*start*/, uint64_t& length, uint64_t /*minimum*/) {
  length = 16 << 20;
  return 0;
}

CommandLimits Limits(milliseconds deadline = milliseconds(10000)) {
  CommandLimits limits;
  limits.deadline = deadline;
  return limits;
}

TEST(SubprocessTest, OutputAndStatus) {
  const auto result = RunCommand({"/bin/sh", "-c", "echo out; echo err >&2; exit 3"}, Limits());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->exit_status, 3);
  EXPECT_EQ(result->output, "out\nerr\n");
}

TEST(SubprocessTest, CleanSurroundings) {
  ASSERT_EQ(setenv("LD_PRELOAD_X", "evil", 1), 0);
  const int leak = open("/dev/null", O_RDONLY);  // without O_CLOEXEC
  const auto result =
      RunCommand({"/bin/sh", "-c", "env; ls /proc/self/fd | wc -l; pwd; cat"}, Limits());
  close(leak);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->output, ::testing::Not(HasSubstr("LD_PRELOAD_X")));
  EXPECT_THAT(result->output, HasSubstr("LC_ALL=C"));
  EXPECT_THAT(result->output, HasSubstr("4\n/\n"));  // 0, 1, 2 and ls's own
}

TEST(SubprocessTest, DeadlineKillsTheWholeGroup) {
  const auto begin = steady_clock::now();
  const auto result =
      RunCommand({"/bin/sh", "-c", "sleep 60 & sleep 60; true"}, Limits(milliseconds(300)));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kDeadlineExceeded);
  const auto quiet =
      RunCommand({"/bin/sh", "-c", "exec >&- 2>&-; sleep 60"}, Limits(milliseconds(300)));
  EXPECT_EQ(quiet.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_LT(steady_clock::now() - begin, milliseconds(5000));
}

TEST(SubprocessTest, OutputIsBounded) {
  CommandLimits limits = Limits();
  limits.max_output_bytes = 1000;
  const auto head = RunCommand({"/bin/sh", "-c", "seq 1 100000"}, limits);
  ASSERT_TRUE(head.ok());
  EXPECT_EQ(head->output.substr(0, 4), "1\n2\n");
  EXPECT_EQ(head->output.size(), 1000U);
  EXPECT_TRUE(head->truncated);
  limits.keep_end = true;
  EXPECT_THAT(RunCommand({"/bin/sh", "-c", "seq 1 100000"}, limits)->output,
              ::testing::EndsWith("99999\n100000\n"));
}

TEST(SubprocessTest, NoSuchProgram) {
  EXPECT_EQ(RunCommand({"/nonexistent"}, Limits())->exit_status, 127);
}

struct CallsTest : ::testing::Test {
  CallsTest() {
    guest.MakeDebian();
    std::filesystem::create_directories(mount.path() + "/data");
    Filesystem filesystem;
    filesystem.source = "/dev/vda1";
    filesystem.type = "ext4";
    filesystem.mount_points = {mount.path()};
    struct stat status {};
    stat(mount.path().c_str(), &status);
    filesystem.device = status.st_dev;
    BlockDevice partition;
    partition.name = "vda1";
    partition.kind = DeviceKind::kPartition;
    partition.parents = {"vda"};
    partition.start_bytes = 1 << 20;
    BlockDevice disk;
    disk.name = "vda";
    disk.kind = DeviceKind::kDisk;
    disk.discard_max_bytes = 4096;
    filesystem.chain.devices = {partition, disk};
    filesystem.chain.tops = 1;
    guest.list = {{filesystem}, false};
  }

  GuestCalls Direct() { return DirectCalls(guest.Sources(), FakeFitrim); }
  v1::WriteMarkerRequest MarkerRequest(uint64_t size) {
    v1::WriteMarkerRequest request;
    request.set_mount_point(mount.path());
    request.set_size_bytes(size);
    return request;
  }
  std::vector<std::string> Markers() {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(mount.path())) {
      if (entry.is_regular_file()) names.push_back(entry.path().string());
    }
    return names;
  }

  GuestTree guest;
  TempTree mount;
};

TEST_F(CallsTest, MarkerIsWrittenAndDiscarded) {
  const GuestCalls calls = Direct();
  const auto written = calls.write_marker(MarkerRequest(3 * 4096 - 1), {});
  ASSERT_TRUE(written.ok()) << written.status();
  EXPECT_EQ(written->size_bytes(), 3U * 4096);
  ASSERT_THAT(written->id(), SizeIs(16));
  EXPECT_EQ(written->disk(), "vda");
  EXPECT_EQ(written->device(), "vda1");
  EXPECT_EQ(written->start_bytes(), 1U << 20);
  ASSERT_THAT(Markers(), SizeIs(1));
  std::ifstream file(Markers()[0], std::ios::binary);
  const std::string content((std::istreambuf_iterator<char>(file)), {});
  ASSERT_EQ(content.size(), 3U * 4096);
  for (size_t block = 0; block < 3; ++block) {
    EXPECT_EQ(content.substr(block * 4096, 16), written->id());
    EXPECT_EQ(content.substr(block * 4096 + 16, 8),
              std::string(1, static_cast<char>(block)) + std::string(7, '\0'));
  }
  uint64_t sum = 0;
  for (const v1::MarkerExtent& extent : written->extents()) sum += extent.length_bytes();
  if (written->extents_known()) {
    EXPECT_GE(sum, 3U * 4096);
  }

  v1::DiscardMarkerRequest request;
  request.set_mount_point(mount.path());
  request.set_id(written->id());
  const auto discarded = calls.discard_marker(request, {});
  ASSERT_TRUE(discarded.ok()) << discarded.status();
  EXPECT_EQ(discarded->trimmed_bytes(), 16U << 20);
  EXPECT_THAT(Markers(), IsEmpty());
  EXPECT_EQ(calls.discard_marker(request, {}).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(CallsTest, MarkerIsRefused) {
  const GuestCalls calls = Direct();
  const auto code = [&](const v1::WriteMarkerRequest& request) {
    return calls.write_marker(request, {}).status().code();
  };
  EXPECT_EQ(code(MarkerRequest(0)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(MarkerRequest((64 << 20) + 1)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(MarkerRequest(~uint64_t{0})), absl::StatusCode::kInvalidArgument);
  v1::WriteMarkerRequest request = MarkerRequest(4096);
  request.set_mount_point("relative");
  EXPECT_EQ(code(request), absl::StatusCode::kInvalidArgument);
  request.set_mount_point("/nowhere");
  EXPECT_EQ(code(request), absl::StatusCode::kNotFound);
  guest.list.filesystems[0].verdict.obstacle = Obstacle::kReadOnly;
  EXPECT_EQ(code(MarkerRequest(4096)), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Markers(), IsEmpty());
}

TEST_F(CallsTest, StoppedMarkerLeavesNothing) {
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(Direct().write_marker(MarkerRequest(1 << 20), stop.get_token()).status().code(),
            absl::StatusCode::kCancelled);
  EXPECT_THAT(Markers(), IsEmpty());
}

TEST_F(CallsTest, LeftMarkersGo) {
  const GuestCalls calls = Direct();
  ASSERT_TRUE(calls.write_marker(MarkerRequest(4096), {}).ok());
  ASSERT_TRUE(calls.write_marker(MarkerRequest(4096), {}).ok());
  EXPECT_THAT(Markers(), SizeIs(1));  // the second took the first away
  mount.Write(".virt-reclaim-probe-notes", "mine");
  mount.Write(".virt-reclaim-probe-00112233445566778899aabbccddeeff.txt", "mine");
  calls.clean_up();
  EXPECT_THAT(Markers(), SizeIs(2));
}

// A worker behind a real socket, as systemd starts one for each connection.
struct WorkerTest : CallsTest {
  WorkerTest() : path(mount.path() + "/data/s") {
    listener.Reset(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(listen(listener.get(), 8), 0);
  }
  // Serves `count` calls.
  std::jthread Serve(int count) {
    return std::jthread([this, count] {
      for (int i = 0; i < count; ++i) {
        const UniqueFd session(accept(listener.get(), nullptr, nullptr));
        static_cast<void>(ServeWorker(session.get(), session.get(), Direct()));
      }
    });
  }
  std::string path;
  UniqueFd listener;
};

TEST_F(WorkerTest, CallsGoThrough) {
  std::jthread worker = Serve(4);
  const GuestCalls calls = WorkerCalls(path);
  const auto preflight = calls.preflight({}, {});
  ASSERT_TRUE(preflight.ok()) << preflight.status();
  EXPECT_EQ(preflight->initramfs_tool(), v1::INITRAMFS_TOOL_INITRAMFS_TOOLS);
  EXPECT_EQ(calls.write_marker(MarkerRequest(0), {}).status().code(),
            absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(calls.write_marker(MarkerRequest(4096), {}).ok());
  calls.clean_up();  // does not wait
  worker.join();
  EXPECT_THAT(Markers(), IsEmpty());
}

TEST_F(WorkerTest, CallerThatGoesStopsAFixWhichIsRolledBack) {
  const std::string fstab = guest.Read("etc/fstab");
  std::atomic<bool> running = false;
  PreflightSources sources = guest.Sources();
  const CommandRunner plain = sources.run;
  sources.run = [&, plain](const std::vector<std::string>& arguments, const CommandLimits& limits) {
    if (arguments[0].find("update-initramfs") == std::string::npos || running.exchange(true)) {
      return plain(arguments, limits);
    }
    return RunCommand({"/bin/sleep", "60"}, limits);
  };
  std::jthread worker([&] {
    const UniqueFd session(accept(listener.get(), nullptr, nullptr));
    static_cast<void>(ServeWorker(session.get(), session.get(), DirectCalls(sources, FakeFitrim)));
  });
  std::stop_source stop;
  std::jthread stopper([&] {
    while (!running) std::this_thread::sleep_for(milliseconds(5));
    stop.request_stop();
  });
  v1::FixGuestRequest request;
  request.set_action(v1::FIX_ACTION_APPLY);
  const auto fixed = WorkerCalls(path).fix_guest(request, stop.get_token());
  EXPECT_EQ(fixed.status().code(), absl::StatusCode::kCancelled);
  worker.join();
  EXPECT_EQ(guest.Read("etc/fstab"), fstab);
}

TEST_F(WorkerTest, NonsenseIsAnswered) {
  for (const char* request : {"", "preflight", "no-such\n", "fix-guest\n\xff\xff"}) {
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    const UniqueFd ours(ends[0]);
    const UniqueFd theirs(ends[1]);
    ASSERT_EQ(write(ours.get(), request, strlen(request)), static_cast<ssize_t>(strlen(request)));
    shutdown(ours.get(), SHUT_WR);
    static_cast<void>(ServeWorker(theirs.get(), theirs.get(), Direct()));
  }
  EXPECT_FALSE(WorkerCalls("/nonexistent/s").preflight({}, {}).ok());
}

// Over gRPC, as the host calls.
struct RpcTest : CallsTest {
  std::unique_ptr<v1::Agent::Stub> Connect() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    EXPECT_TRUE(server.Attach(UniqueFd(ends[0])).ok());
    return v1::Agent::NewStub(grpc::CreateInsecureChannelFromFd("vm", ends[1]));
  }
  template <typename Response, typename Call>
  std::pair<grpc::Status, Response> Do(Call call) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    Response response;
    const grpc::Status status = call(&context, &response);
    return {status, response};
  }
  static absl::StatusOr<FreeMap> TwoRuns(const TrimTarget& target, uint64_t minimum_bytes,
                                         const std::stop_token& /*stop*/) {
    EXPECT_EQ(minimum_bytes, 65536U);
    EXPECT_FALSE(target.mount_point.empty());
    return FreeMap{"vda", {{{4096, 2048}, {14336, 65536}}, 0}};
  }
  AgentService service{{[this] { return guest.list; }, FakeFitrim, Direct(), TwoRuns}};
  AgentServer server{service};
};

TEST_F(RpcTest, EveryCall) {
  const auto stub = Connect();
  const auto [info_status, info] = Do<v1::GetInfoResponse>(
      [&](auto* context, auto* out) { return stub->GetInfo(context, v1::GetInfoRequest(), out); });
  EXPECT_THAT(info.capabilities(), SizeIs(6));
  const auto [status, preflight] = Do<v1::PreflightResponse>([&](auto* context, auto* out) {
    return stub->Preflight(context, v1::PreflightRequest(), out);
  });
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(preflight.names_size(), 7);
  EXPECT_EQ(preflight.kernels(0).virtio_scsi(), v1::MODULE_STATE_MODULE_ONLY);
  const auto [written_status, written] = Do<v1::WriteMarkerResponse>([&](auto* context, auto* out) {
    return stub->WriteMarker(context, MarkerRequest(4096), out);
  });
  ASSERT_TRUE(written_status.ok()) << written_status.error_message();
  v1::DiscardMarkerRequest discard;
  discard.set_mount_point(mount.path());
  discard.set_id(written.id());
  const auto [discard_status, discarded] = Do<v1::DiscardMarkerResponse>(
      [&](auto* context, auto* out) { return stub->DiscardMarker(context, discard, out); });
  EXPECT_TRUE(discard_status.ok()) << discard_status.error_message();
  for (const auto& [action, result] : {std::pair(v1::FIX_ACTION_PLAN, v1::FIX_RESULT_PLANNED),
                                       std::pair(v1::FIX_ACTION_APPLY, v1::FIX_RESULT_DONE),
                                       std::pair(v1::FIX_ACTION_UNDO, v1::FIX_RESULT_DONE)}) {
    v1::FixGuestRequest request;
    request.set_action(action);
    const auto [fix_status, fix] = Do<v1::FixGuestResponse>(
        [&](auto* context, auto* out) { return stub->FixGuest(context, request, out); });
    ASSERT_TRUE(fix_status.ok()) << fix_status.error_message();
    EXPECT_EQ(fix.result(), result);
    EXPECT_EQ(fix.files_size(), 4);
  }
  v1::ReadFreeMapRequest where;
  where.set_mount_point(mount.path());
  where.set_minimum_bytes(65536);
  const auto [map_status, map] = Do<v1::ReadFreeMapResponse>(
      [&](auto* context, auto* out) { return stub->ReadFreeMap(context, where, out); });
  ASSERT_TRUE(map_status.ok()) << map_status.error_message();
  EXPECT_EQ(map.disk(), "vda");
  EXPECT_THAT(map.gap_sectors(), ElementsAre(8, 16));
  EXPECT_THAT(map.length_sectors(), ElementsAre(4, 128));
  where.set_mount_point("relative");
  const auto [relative_status, nothing] = Do<v1::ReadFreeMapResponse>(
      [&](auto* context, auto* out) { return stub->ReadFreeMap(context, where, out); });
  EXPECT_EQ(relative_status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const auto [bad, none] = Do<v1::FixGuestResponse>([&](auto* context, auto* out) {
    return stub->FixGuest(context, v1::FixGuestRequest(), out);
  });
  EXPECT_EQ(bad.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(RpcTest, AgentWithoutTheCallsSaysSo) {
  AgentService older({[this] { return guest.list; }, FakeFitrim});
  EXPECT_EQ(older.Preflight({}, {}).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(older.WriteMarker({}, {}).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(older.DiscardMarker({}, {}).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(older.FixGuest({}, {}).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(older.GetInfo().capabilities_size(), 3);
}

TEST(RealPreflightTest, OfThisMachineIsReadWithoutAWrite) {
  const auto preflight = ReadPreflight(RealPreflightSources());
  ASSERT_TRUE(preflight.ok()) << preflight.status();
  EXPECT_GT(preflight->kernel_major, 0U);
  EXPECT_THAT(PreflightJson(*preflight), HasSubstr("\"schema_version\": 1"));
}

}  // namespace
}  // namespace virt_reclaim::agent
