// The program itself: its daemon over the real link on a unix socket in the port's place, and what
// it costs when idle.
#include <dirent.h>
#include <gmock/gmock.h>
#include <grpcpp/create_channel_posix.h>
#include <grpcpp/grpcpp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/io.h"
#include "base/unique_fd.h"
#include "proto/link/bridge.h"
#include "tests/component/agent_program.h"
#include "virt_reclaim/agent/v1/agent.grpc.pb.h"

namespace virt_reclaim::agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

#ifdef VIRT_RECLAIM_SANITIZE_THREAD
// ThreadSanitizer has memory and a thread of its own, which wakes up ten times a second.
constexpr uint64_t kMaxIdleKib = 1024 * 1024, kMaxWakeups = 1000;
#else
constexpr uint64_t kMaxIdleKib = 8 * 1024, kMaxWakeups = 2;
#endif

struct DaemonTest : AgentProgramTest {
  // The exit status, and how long it took; -1 when it did not end within 5 s.
  std::pair<int, milliseconds> Terminate() {
    if (agent <= 0) return {-1, milliseconds(0)};
    const auto begin = steady_clock::now();
    kill(agent, SIGTERM);
    int status = 0;
    while (waitpid(agent, &status, WNOHANG) == 0) {
      if (steady_clock::now() - begin > std::chrono::seconds(5)) return {-1, milliseconds(5000)};
      std::this_thread::sleep_for(milliseconds(2));
    }
    agent = 0;
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128,
            std::chrono::duration_cast<milliseconds>(steady_clock::now() - begin)};
  }
  // The number in the line of /proc/PID[/task/TID]/status that starts with `key`.
  static uint64_t StatusNumber(const std::string& directory, absl::string_view key) {
    const auto text = ReadFile(directory + "/status", 65536);
    if (!text.ok()) return 0;
    for (const absl::string_view line : absl::StrSplit(*text, '\n')) {
      if (line.substr(0, key.size()) != key) continue;
      for (const absl::string_view word : absl::StrSplit(line, absl::ByAnyChar(" \t:"))) {
        if (uint64_t number = 0; absl::SimpleAtoi(word, &number)) return number;
      }
    }
    return 0;
  }
  std::string Proc() const { return absl::StrCat("/proc/", agent); }
  uint64_t Wakeups() const {
    uint64_t sum = 0;
    for (const auto& task : std::filesystem::directory_iterator(Proc() + "/task")) {
      sum += StatusNumber(task.path().string(), "voluntary_ctxt_switches");
    }
    return sum;
  }
  size_t Descriptors() const {
    size_t count = 0;
    for ([[maybe_unused]] const auto& fd : std::filesystem::directory_iterator(Proc() + "/fd"))
      ++count;
    return count;
  }
  static void ExpectInfo(std::unique_ptr<link::Port> port) {
    auto opened = link::HostLink::Open(std::move(port), {}, {});
    ASSERT_TRUE(opened.ok()) << opened.status();
    const auto stub = v1::Agent::NewStub(
        grpc::CreateInsecureChannelFromFd("vm", (*opened)->TakeSocket().Release()));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
    v1::GetInfoResponse info;
    const grpc::Status status = stub->GetInfo(&context, v1::GetInfoRequest(), &info);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(info.agent_version(), VIRT_RECLAIM_VERSION);
  }
};

TEST_F(DaemonTest, AnswersOneHostAfterTheOther) {
  Start();
  const UniqueFd port = Accept();
  for (int i = 0; i < 5; ++i) ExpectInfo(link::NewFdPort(UniqueFd(dup(port.get())), true));
  const auto [status, time] = Terminate();
  EXPECT_EQ(status, 0);
  EXPECT_LT(time, milliseconds(1000));
}

TEST_F(DaemonTest, TerminatesWhileAHostIsConnected) {
  Start();
  auto opened = link::HostLink::Open(link::NewFdPort(Accept(), true), {}, {});
  ASSERT_TRUE(opened.ok()) << opened.status();
  const UniqueFd socket = (*opened)->TakeSocket();  // never read: gRPC's shutdown would hang on it
  const auto [status, time] = Terminate();
  EXPECT_EQ(status, 0);
  EXPECT_LT(time, milliseconds(1000));
}

TEST_F(DaemonTest, WaitsForAPortThatIsNotThere) {
  path += ".none";
  Start();
  std::this_thread::sleep_for(milliseconds(300));
  const uint64_t before = Wakeups();
  std::this_thread::sleep_for(milliseconds(1000));
  EXPECT_LE(Wakeups() - before, kMaxWakeups);  // no busy loop
  const auto [status, time] = Terminate();
  EXPECT_EQ(status, 0);
  EXPECT_LT(time, milliseconds(1000));
}

// Stands in for systemd: what the daemon sends to NOTIFY_SOCKET.
class Manager {
 public:
  explicit Manager(const std::string& path)
      : socket_(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_EQ(bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    setenv("NOTIFY_SOCKET", path.c_str(), 1);
  }
  ~Manager() {
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
  }
  Manager(const Manager&) = delete;
  Manager& operator=(const Manager&) = delete;

  // The next message but WATCHDOG=1; empty when none came within 5 s.
  std::string Next() {
    const auto until = steady_clock::now() + std::chrono::seconds(5);
    while (steady_clock::now() < until) {
      const std::string message = Receive(5000);
      if (message != "WATCHDOG=1") return message;
      ++alive;
    }
    return "";
  }
  std::string Receive(int limit_ms) {
    pollfd wait = {.fd = socket_.get(), .events = POLLIN, .revents = 0};
    if (poll(&wait, 1, limit_ms) != 1) return "";
    char buffer[4096];
    const ssize_t n = recv(socket_.get(), buffer, sizeof buffer, 0);
    return {buffer, n < 0 ? 0 : static_cast<size_t>(n)};
  }

  int alive = 0;

 private:
  UniqueFd socket_;
};

TEST_F(DaemonTest, TellsTheServiceManager) {
  Manager manager(tree.path() + "/notify");
  Start();
  const UniqueFd port = Accept();
  EXPECT_EQ(manager.Next(), "READY=1\nSTATUS=serving");
  // Nobody asked for a sign of life.
  EXPECT_EQ(manager.Receive(300), "");
  EXPECT_EQ(Terminate().first, 0);
  EXPECT_EQ(manager.Next(), "STOPPING=1");
  EXPECT_EQ(manager.alive, 0);
}

TEST_F(DaemonTest, SaysThatItIsAlive) {
  Manager manager(tree.path() + "/notify");
  setenv("WATCHDOG_USEC", "400000", 1);
  Start();
  const UniqueFd port = Accept();
  EXPECT_EQ(manager.Next(), "READY=1\nSTATUS=serving");
  for (int i = 0; i < 5; ++i) EXPECT_EQ(manager.Receive(400), "WATCHDOG=1");
  // Also to a host.
  ExpectInfo(link::NewFdPort(UniqueFd(dup(port.get())), true));
  EXPECT_EQ(manager.Receive(400), "WATCHDOG=1");
}

TEST_F(DaemonTest, AStoppedDaemonIsNotAlive) {
  Manager manager(tree.path() + "/notify");
  setenv("WATCHDOG_USEC", "400000", 1);
  Start();
  const UniqueFd port = Accept();
  EXPECT_EQ(manager.Next(), "READY=1\nSTATUS=serving");
  kill(agent, SIGSTOP);
  while (!manager.Receive(300).empty()) {
  }
  EXPECT_EQ(manager.Receive(1000), "");
  kill(agent, SIGCONT);
  EXPECT_EQ(manager.Receive(1000), "WATCHDOG=1");
}

TEST_F(DaemonTest, SaysWhatItWaitsFor) {
  Manager manager(tree.path() + "/notify");
  path += ".none";
  Start();
  EXPECT_THAT(manager.Next(), ::testing::StartsWith("READY=1\nSTATUS="));
}

TEST_F(DaemonTest, IdleCostsNothing) {
  Start();
  const UniqueFd port = Accept();
  std::this_thread::sleep_for(milliseconds(500));
  const size_t descriptors = Descriptors();
  const uint64_t threads = StatusNumber(Proc(), "Threads");
#ifndef VIRT_RECLAIM_SANITIZE_ADDRESS
  EXPECT_LE(StatusNumber(Proc(), "VmRSS"), kMaxIdleKib);
#endif
  for (int i = 0; i < 20; ++i) ExpectInfo(link::NewFdPort(UniqueFd(dup(port.get())), true));
  std::this_thread::sleep_for(
      std::chrono::seconds(6));  // gRPC goes a little after the last session
  const uint64_t before = Wakeups();
  std::this_thread::sleep_for(std::chrono::seconds(20));
  EXPECT_LE(Wakeups() - before, kMaxWakeups);
  EXPECT_LE(Descriptors(), descriptors + 4);
  EXPECT_LE(StatusNumber(Proc(), "Threads"), threads + 4);
#ifndef VIRT_RECLAIM_SANITIZE_ADDRESS
  EXPECT_LE(StatusNumber(Proc(), "VmRSS"), kMaxIdleKib);
#endif
  printf("idle after 20 sessions: RSS %lu KiB, %lu threads, %zu descriptors, %lu wakeups in 20 s\n",
         StatusNumber(Proc(), "VmRSS"), StatusNumber(Proc(), "Threads"), Descriptors(),
         Wakeups() - before);
}

}  // namespace
}  // namespace virt_reclaim::agent
