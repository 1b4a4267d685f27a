#include "host/sparsify/qemu_server.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/io.h"
#include "base/status.h"
#include "base/stop_signal.h"
#include "base/temporary_directory.h"

namespace virt_reclaim::sparsify {
namespace {

using OrderedJson = nlohmann::ordered_json;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr int kListenFd = 3;
constexpr int kConnections = 2;
constexpr int kExecFailed = 127;
constexpr std::chrono::seconds kPatience{60};  // to flush a cache of metadata on a slow disk
constexpr milliseconds kWaitStep{5};
constexpr size_t kMaxErrorBytes = 4096;

struct Sockets {
  UniqueFd listening, read, trim;
};

absl::StatusOr<UniqueFd> Connect(const sockaddr_un& address) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid() ||
      connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return ErrnoStatus(errno, "connect to a socket");
  }
  return fd;
}

// Both connections wait in the queue of a socket that nobody else can reach any more.
absl::StatusOr<Sockets> MakeSockets(const std::string& parent) {
  VR_RETURN_IF_ERROR(MakeDirectories(parent));
  // One that a killed run has left goes with this one.
  VR_ASSIGN_OR_RETURN(const TemporaryDirectory directory,
                      TemporaryDirectory::Make(parent, kSocketDirectory));
  const std::string path = directory.path() + "/socket";
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return absl::InvalidArgumentError(absl::StrCat("'", path, "' is too long for a socket"));
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  Sockets sockets;
  sockets.listening = UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!sockets.listening.valid() ||
      bind(sockets.listening.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) !=
          0 ||
      listen(sockets.listening.get(), kConnections) != 0) {
    return ErrnoStatus(errno, "make a socket");
  }
  VR_ASSIGN_OR_RETURN(sockets.read, Connect(address));
  VR_ASSIGN_OR_RETURN(sockets.trim, Connect(address));
  return sockets;
}

std::vector<std::string> Arguments(const QemuServerOptions& options) {
  OrderedJson file = {{"driver", "file"},
                      {"node-name", "file"},
                      {"filename", std::filesystem::absolute(options.path).string()},
                      {"locking", "on"},
                      {"read-only", !options.writable},
                      {"discard", "unmap"}};
  OrderedJson image = {{"driver", options.format}, {"node-name", "image"},
                       {"file", "file"},           {"read-only", !options.writable},
                       {"discard", "unmap"},       {"detect-zeroes", "off"}};
  if (options.format == "qcow2") {
    // Whatever its header says.
    if (!options.backing) image["backing"] = nullptr;
    // Where the image allows them, they would leave it to be repaired after a kill.
    image["lazy-refcounts"] = false;
    image["pass-discard-request"] = true;
  }
  const OrderedJson reading = {
      {"type", "nbd"}, {"id", "r"}, {"node-name", "image"}, {"name", kReadExport}};
  const OrderedJson trimming = {{"type", "nbd"},
                                {"id", "t"},
                                {"node-name", "image"},
                                {"name", kTrimExport},
                                {"writable", options.writable},
                                {"allocation-depth", true}};
  const auto text = [](const OrderedJson& json) {
    return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
  };
  return {options.program,
          "--blockdev",
          text(file),
          "--blockdev",
          text(image),
          "--nbd-server",
          absl::StrCat("addr.type=fd,addr.str=", kListenFd, ",max-connections=", kConnections),
          "--export",
          text(reading),
          "--export",
          text(trimming)};
}

// In the child, forked from a process with threads: system calls only.
[[noreturn]] void Exec(char* const* arguments, int null, int errors, int listening, pid_t parent) {
  setpgid(0, 0);  // Ctrl-C is the parent's to handle
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(kExecFailed);
  RestoreSignalsInChild();
  // Above all places that are filled below.
  const int high = fcntl(listening, F_DUPFD, 100);
  const int high_errors = fcntl(errors, F_DUPFD, 100);
  if (dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(high_errors, 2) < 0 ||
      dup2(high, kListenFd) < 0) {
    _exit(kExecFailed);
  }
  if (syscall(SYS_close_range, static_cast<unsigned>(kListenFd) + 1, ~0U, 0U) != 0) {
    for (int fd = kListenFd + 1; fd < 1024; ++fd) close(fd);  // Linux before 5.9
  }
  if (chdir("/") != 0) _exit(kExecFailed);
  static char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
  static char locale[] = "LC_ALL=C";
  char* const environment[] = {path, locale, nullptr};
  execve(arguments[0], arguments, environment);
  _exit(kExecFailed);
}

}  // namespace

absl::StatusOr<QemuServer> QemuServer::Start(const QemuServerOptions& options) {
  if (access(options.program.c_str(), X_OK) != 0) {
    return absl::UnavailableError(
        absl::StrCat("'", options.program, "' is not there: it opens ", options.format,
                     " images (on Debian in the package qemu-system-common)"));
  }
  VR_ASSIGN_OR_RETURN(Sockets sockets, MakeSockets(options.directory));
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return ErrnoStatus(errno, "pipe");
  QemuServer server;
  server.errors_ = UniqueFd(ends[0]);
  const UniqueFd errors(ends[1]);
  const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null.valid()) return ErrnoStatus(errno, "open '/dev/null'");
  std::vector<std::string> words = Arguments(options);
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) return ErrnoStatus(errno, "fork");
  if (child == 0) Exec(argv.data(), null.get(), errors.get(), sockets.listening.get(), parent);
  server.pid_ = child;
  server.read_ = std::move(sockets.read);
  server.trim_ = std::move(sockets.trim);
  return server;  // our end of the listening socket goes: with the server its connections break
}

QemuServer::QemuServer(QemuServer&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      wait_status_(other.wait_status_),
      read_(std::move(other.read_)),
      trim_(std::move(other.trim_)),
      errors_(std::move(other.errors_)) {}

QemuServer::~QemuServer() { static_cast<void>(Stop()); }

absl::Status QemuServer::Failure() {
  const absl::Status stopped = Stop();
  std::string text(kMaxErrorBytes, '\0');
  const ssize_t n = read(errors_.get(), text.data(), text.size());
  text.resize(n > 0 ? static_cast<size_t>(n) : 0);
  const std::string line = Printable(text.substr(0, text.find('\n')));
  if (absl::StrContains(text, "Is another process using the image")) {
    return absl::AbortedError(line);
  }
  if (!line.empty()) return absl::FailedPreconditionError(line);
  if (!stopped.ok()) return stopped;
  return absl::InternalError("qemu-storage-daemon ended without a word");
}

absl::Status QemuServer::Stop() {
  read_.Reset();
  trim_.Reset();
  if (pid_ > 0) {
    kill(pid_, SIGTERM);
    const auto deadline = steady_clock::now() + kPatience;
    pid_t ended = 0;
    while ((ended = waitpid(pid_, &wait_status_, WNOHANG)) == 0 && steady_clock::now() < deadline)
      std::this_thread::sleep_for(kWaitStep);
    if (ended == 0) {
      kill(pid_, SIGKILL);
      while (waitpid(pid_, &wait_status_, 0) < 0 && errno == EINTR) {
      }
    }
    pid_ = -1;
  }
  if (WIFEXITED(wait_status_) && WEXITSTATUS(wait_status_) == 0) return absl::OkStatus();
  // By the signal before it had a handler for it: it had nothing open for writing yet.
  if (WIFSIGNALED(wait_status_) && WTERMSIG(wait_status_) == SIGTERM) return absl::OkStatus();
  return absl::InternalError("qemu-storage-daemon did not end well");
}

}  // namespace virt_reclaim::sparsify
