#include "host/services/channel_socket.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/unique_fd.h"

namespace virt_reclaim {

absl::StatusOr<std::unique_ptr<link::Port>> OpenChannelSocket(const std::string& path) {
  sockaddr_un address{};
  if (path.size() >= sizeof address.sun_path)
    return absl::InvalidArgumentError("the channel's socket path is too long");
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoStatus(errno, "socket");
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    // A full backlog.
    if (errno == EAGAIN)
      return absl::AbortedError("another program is connected to the channel's socket");
    return ErrnoStatus(errno, absl::StrCat("connect to '", path, "'"));
  }
  return link::NewFdPort(std::move(fd), /*end_of_file_is_gone=*/true);
}

}  // namespace virt_reclaim
