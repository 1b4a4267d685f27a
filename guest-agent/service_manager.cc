#include "guest-agent/service_manager.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"

namespace virt_reclaim::agent {
namespace {

std::string TakeVariable(const char* name) {
  const char* value = getenv(name);
  std::string taken = value == nullptr ? "" : value;
  unsetenv(name);
  return taken;
}

}  // namespace

ServiceManager::ServiceManager() : socket_(TakeVariable("NOTIFY_SOCKET")) {
  const std::string microseconds = TakeVariable("WATCHDOG_USEC");
  const std::string pid = TakeVariable("WATCHDOG_PID");
  if (socket_.empty() || (!pid.empty() && pid != absl::StrCat(getpid()))) return;
  uint32_t limit = 0;  // up to 71 minutes
  if (!absl::SimpleAtoi(microseconds, &limit) || limit == 0) return;
  alive_every_ =
      std::max(std::chrono::milliseconds(limit / 1000 / 2), std::chrono::milliseconds(1));
}

void ServiceManager::Ready(absl::string_view status) {
  Send(absl::StrCat("READY=1\nSTATUS=", status));
}

void ServiceManager::Stopping() { Send("STOPPING=1"); }

void ServiceManager::Alive() {
  if (alive_every_.count() > 0) Send("WATCHDOG=1");
}

void ServiceManager::Send(absl::string_view text) const {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (socket_.empty() || socket_.size() >= sizeof address.sun_path) return;
  socket_.copy(address.sun_path, socket_.size());
  // "@name" is one of the abstract namespace.
  if (address.sun_path[0] == '@') address.sun_path[0] = '\0';
  const UniqueFd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return;
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + socket_.size());
  // A manager that does not listen any more cannot be told about it.
  static_cast<void>(sendto(fd.get(), text.data(), text.size(), MSG_NOSIGNAL,
                           reinterpret_cast<const sockaddr*>(&address), length));
}

}  // namespace virt_reclaim::agent
