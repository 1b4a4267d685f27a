// The worker of guest_calls.h, both ends. It has no state and no rights to keep: whoever may
// connect is root, and the kernel sees to that.
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "guest-agent/guest_calls.h"

namespace virt_reclaim::agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr size_t kMaxCallBytes = size_t{1} << 20;  // the contract's limit
constexpr size_t kMaxHeadBytes = 1024;
constexpr milliseconds kRequestDeadline{5000};
// Above the longest a fix may take; the host's own deadline stops a call before.
constexpr milliseconds kAnswerDeadline{std::chrono::hours(2)};
constexpr milliseconds kStep{100};              // how late a stop is noticed
constexpr milliseconds kCleanUpDeadline{5000};  // a start may wait that long for a dead disk

absl::Status SendAll(int fd, absl::string_view bytes) {
  while (!bytes.empty()) {
    // A socket in both ends' hands, so that a peer that has gone is no signal.
    const ssize_t n = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "write to the worker's socket");
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReceiveAll(int fd, milliseconds patience, const std::stop_token& stop) {
  std::string bytes;
  const auto deadline = steady_clock::now() + patience;
  while (true) {
    if (stop.stop_requested()) return absl::CancelledError("stopped");
    const auto left = std::chrono::ceil<milliseconds>(deadline - steady_clock::now());
    if (left <= milliseconds(0))
      return absl::DeadlineExceededError("the worker's socket is silent");
    pollfd entry = {.fd = fd, .events = POLLIN, .revents = 0};
    const int ready = poll(&entry, 1, static_cast<int>(std::min(left, kStep).count()));
    if (ready < 0 && errno != EINTR) return ErrnoStatus(errno, "poll");
    if (ready <= 0) continue;
    char buffer[16384];
    const ssize_t n = recv(fd, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "read from the worker's socket");
    if (n == 0) return bytes;
    bytes.append(buffer, static_cast<size_t>(n));
    if (bytes.size() > kMaxCallBytes + kMaxHeadBytes) {
      return absl::ResourceExhaustedError("too much on the worker's socket");
    }
  }
}

// The head line; `bytes` then begins after it.
absl::StatusOr<std::string> TakeHead(std::string& bytes) {
  const size_t end = bytes.find('\n');
  if (end == std::string::npos || end > kMaxHeadBytes) {
    return absl::InternalError("no head on the worker's socket");
  }
  std::string head = bytes.substr(0, end);
  bytes.erase(0, end + 1);
  return head;
}

// A connection with the whole request sent.
absl::StatusOr<UniqueFd> SendRequest(const std::string& path, absl::string_view method,
                                     const std::string& request) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return absl::InternalError("the path is too long");
  memcpy(address.sun_path, path.data(), path.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoStatus(errno, "socket");
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return ErrnoStatus(errno, absl::StrCat("connect to '", path, "'"));
  }
  VR_RETURN_IF_ERROR(SendAll(fd.get(), absl::StrCat(method, "\n", request)));
  if (shutdown(fd.get(), SHUT_WR) != 0) return ErrnoStatus(errno, "shutdown");
  return fd;
}

absl::StatusOr<std::string> CallWorker(const std::string& path, absl::string_view method,
                                       const std::string& request, const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const UniqueFd fd, SendRequest(path, method, request));
  VR_ASSIGN_OR_RETURN(std::string answer, ReceiveAll(fd.get(), kAnswerDeadline, stop));
  VR_ASSIGN_OR_RETURN(const std::string head, TakeHead(answer));
  const size_t space = head.find(' ');
  int code = 0;
  if (space == std::string::npos || !absl::SimpleAtoi(head.substr(0, space), &code) || code < 0 ||
      code > static_cast<int>(absl::StatusCode::kUnauthenticated)) {
    return absl::InternalError("no status on the worker's socket");
  }
  if (code != 0) return absl::Status(static_cast<absl::StatusCode>(code), head.substr(space + 1));
  return answer;
}

template <typename Request, typename Response>
auto ByWorker(const std::string& path, const char* method) {
  return [path, method](const Request& request,
                        const std::stop_token& stop) -> absl::StatusOr<Response> {
    VR_ASSIGN_OR_RETURN(const std::string answer,
                        CallWorker(path, method, request.SerializeAsString(), stop));
    Response response;
    if (!response.ParseFromString(answer)) {
      return absl::InternalError("no message on the worker's socket");
    }
    return response;
  };
}

// Stops a call when its caller has gone (the agent was stopped, or the host gave up) or `outer`
// says so (the guest shuts down).
class GoneWatch {
 public:
  GoneWatch(int fd, const std::stop_token& outer)
      : watch_([this, fd, outer](const std::stop_token& over) {
          while (!over.stop_requested()) {
            if (outer.stop_requested()) gone_.request_stop();
            pollfd entry = {.fd = fd, .events = 0, .revents = 0};  // POLLHUP comes by itself
            if (poll(&entry, 1, static_cast<int>(kStep.count())) > 0) {
              gone_.request_stop();
              return;
            }
          }
        }) {}
  std::stop_token token() const { return gone_.get_token(); }

 private:
  std::stop_source gone_;
  std::jthread watch_;
};

template <typename Request, typename Response>
absl::StatusOr<std::string> Serve(
    const std::function<absl::StatusOr<Response>(const Request&, const std::stop_token&)>& call,
    const std::string& bytes, const std::stop_token& stop) {
  Request request;
  if (!request.ParseFromString(bytes)) return absl::InvalidArgumentError("no such message");
  VR_ASSIGN_OR_RETURN(const Response response, call(request, stop));
  return response.SerializeAsString();
}

}  // namespace

GuestCalls WorkerCalls(const std::string& path) {
  GuestCalls calls;
  calls.preflight = ByWorker<v1::PreflightRequest, v1::PreflightResponse>(path, "preflight");
  calls.write_marker =
      ByWorker<v1::WriteMarkerRequest, v1::WriteMarkerResponse>(path, "write-marker");
  calls.discard_marker =
      ByWorker<v1::DiscardMarkerRequest, v1::DiscardMarkerResponse>(path, "discard-marker");
  calls.fix_guest = ByWorker<v1::FixGuestRequest, v1::FixGuestResponse>(path, "fix-guest");
  // Nobody waits for the answer: the daemon's start must not hang on a dead disk.
  calls.clean_up = [path] { static_cast<void>(SendRequest(path, "clean-up", "")); };
  return calls;
}

GuestCalls RealCalls() {
  struct stat status = {};
  if (stat(kWorkerSocket, &status) == 0 && S_ISSOCK(status.st_mode)) {
    return WorkerCalls(kWorkerSocket);
  }
  GuestCalls calls = DirectCalls(RealPreflightSources());
  // In a process of its own: it reads the mount table, and the pages of code that takes would stay
  // in a daemon that may never need them again (measured: 450 KiB).
  calls.clean_up = [] {
    CommandLimits limits;
    limits.deadline = kCleanUpDeadline;
    static_cast<void>(RunCommand({"/proc/self/exe", "clean-up"}, limits));
  };
  return calls;
}

absl::Status ServeWorker(int input, int output, const GuestCalls& calls,
                         const std::stop_token& outer) {
  VR_ASSIGN_OR_RETURN(std::string bytes, ReceiveAll(input, kRequestDeadline, {}));
  VR_ASSIGN_OR_RETURN(const std::string method, TakeHead(bytes));
  const GoneWatch gone(input, outer);
  const std::stop_token stop = gone.token();
  absl::StatusOr<std::string> answer = absl::UnimplementedError("no such method");
  if (method == "preflight") answer = Serve(calls.preflight, bytes, stop);
  if (method == "write-marker") answer = Serve(calls.write_marker, bytes, stop);
  if (method == "discard-marker") answer = Serve(calls.discard_marker, bytes, stop);
  if (method == "fix-guest") answer = Serve(calls.fix_guest, bytes, stop);
  if (method == "clean-up") {
    calls.clean_up();
    return absl::OkStatus();  // nobody waits
  }
  const std::string head =
      absl::StrCat(static_cast<int>(answer.status().code()), " ",
                   Printable(answer.status().message(), kMaxHeadBytes / 8), "\n");
  return SendAll(output, absl::StrCat(head, answer.value_or("")));
}

}  // namespace virt_reclaim::agent
