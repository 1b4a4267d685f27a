#include "guest-agent/port_finder.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/handle.h"
#include "base/io.h"
#include "base/status.h"
#include "base/unique_fd.h"

namespace virt_reclaim::agent {
namespace {

constexpr size_t kMaxPortNameBytes = 4096;
constexpr int kSlowMilliseconds = 10000;  // the idle agent's budget: one wakeup in ten seconds
constexpr int kQuickMilliseconds = 250;
constexpr int kQuickTries = 8;

absl::StatusOr<UniqueFd> Connect(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return absl::InvalidArgumentError(absl::StrCat("socket path '", path, "' is too long"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return ErrnoStatus(errno, "socket");
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return ErrnoStatus(errno, absl::StrCat("connect to '", path, "'"));
  }
  return fd;
}

}  // namespace

std::optional<std::string> FindPort(absl::string_view name, const std::string& dev,
                                    const std::string& sysfs) {
  std::string link = absl::StrCat(dev, "/virtio-ports/", name);
  if (access(link.c_str(), F_OK) == 0) return link;
  const std::string ports = absl::StrCat(sysfs, "/class/virtio-ports");
  const Handle<DIR, closedir> directory(opendir(ports.c_str()));
  if (directory == nullptr) return std::nullopt;
  while (const dirent* entry = readdir(directory.get())) {
    if (entry->d_name[0] == '.') continue;
    const auto found =
        ReadFile(absl::StrCat(ports, "/", entry->d_name, "/name"), kMaxPortNameBytes);
    if (found.ok() && absl::StripAsciiWhitespace(*found) == name)
      return absl::StrCat(dev, "/", entry->d_name);
  }
  return std::nullopt;
}

absl::StatusOr<std::unique_ptr<link::Port>> OpenPort(const std::string& path) {
  struct stat status = {};
  if (stat(path.c_str(), &status) != 0)
    return ErrnoStatus(errno, absl::StrCat("open port '", path, "'"));
  if (S_ISSOCK(status.st_mode)) {
    VR_ASSIGN_OR_RETURN(UniqueFd connected, Connect(path));
    return link::NewFdPort(std::move(connected), /*end_of_file_is_gone=*/true);
  }
  if (!S_ISCHR(status.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", path, "' is neither a character device nor a unix socket"));
  }
  UniqueFd fd(open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
  if (!fd.valid() && errno == EBUSY) {
    return absl::FailedPreconditionError(absl::StrCat(
        "port '", path, "' is in use: another agent runs (a port can be open only once)"));
  }
  // A port that is being unplugged still has its node for a moment.
  if (!fd.valid() && (errno == ENODEV || errno == ENXIO)) {
    return absl::NotFoundError(absl::StrCat("open port '", path, "': ", strerrorname_np(errno)));
  }
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("open port '", path, "'"));
  return link::NewFdPort(std::move(fd), /*end_of_file_is_gone=*/false);
}

PortWaiter::PortWaiter() : inotify_(inotify_init1(IN_CLOEXEC | IN_NONBLOCK)) {
  // Without inotify (no kernel support, limit reached) the slow poll remains.
  if (inotify_ >= 0) inotify_add_watch(inotify_, "/dev", IN_CREATE | IN_MOVED_TO | IN_DELETE);
}

PortWaiter::~PortWaiter() {
  if (inotify_ >= 0) close(inotify_);
}

void PortWaiter::Wait(const std::stop_token& stop) {
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const std::stop_callback wake_up(stop, [&wake] {
    const uint64_t one = 1;
    static_cast<void>(!write(wake.get(), &one, sizeof one));
  });
  if (stop.stop_requested()) return;
  pollfd fds[] = {{.fd = wake.get(), .events = POLLIN, .revents = 0},
                  {.fd = inotify_, .events = POLLIN, .revents = 0}};
  if (quick_tries_ > 0) {
    --quick_tries_;
    poll(fds, 1, kQuickMilliseconds);
    return;
  }
  poll(fds, 2, kSlowMilliseconds);
  if ((fds[1].revents & POLLIN) == 0) return;
  char events[4096];
  while (read(inotify_, events, sizeof events) > 0) {
  }
  quick_tries_ = kQuickTries;
}

}  // namespace virt_reclaim::agent
