// Port over a descriptor: a virtio-serial character device in the guest, a unix socket on the host
// or in a test.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/status.h"
#include "proto/link/port.h"

namespace virt_reclaim::link {
namespace {

bool IsSocket(int fd) {
  struct stat info {};
  return fstat(fd, &info) == 0 && S_ISSOCK(info.st_mode);
}

class FdPort final : public Port {
 public:
  FdPort(UniqueFd fd, bool end_of_file_is_gone)
      : fd_(std::move(fd)),
        end_of_file_is_gone_(end_of_file_is_gone),
        is_socket_(IsSocket(fd_.get())) {}

  int fd() const override { return fd_.get(); }

  IoResult Read(std::span<uint8_t> buffer) override {
    while (true) {
      const ssize_t n = read(fd_.get(), buffer.data(), buffer.size());
      if (n > 0) return Moved(n);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return Failed("read");
      if (end_of_file_is_gone_) return {IoResult::Kind::kGone, 0, "the other end closed it"};
      return {IoResult::Kind::kNoPeer, 0, ""};
    }
  }

  IoResult Write(std::span<const uint8_t> bytes) override {
    if (bytes.empty()) return {};
    while (true) {
      // write(2) on a socket whose other end is gone raises SIGPIPE.
      const ssize_t n = is_socket_ ? send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL)
                                   : write(fd_.get(), bytes.data(), bytes.size());
      if (n > 0) return Moved(n);
      if (n == 0) return {};
      if (errno != EINTR) return Failed("write");
    }
  }

 private:
  static IoResult Moved(ssize_t n) { return {IoResult::Kind::kBytes, static_cast<size_t>(n), ""}; }
  static IoResult Failed(absl::string_view what) {
    const int err = errno;
    if (err == EAGAIN || err == EWOULDBLOCK) return {};
    return {IoResult::Kind::kGone, 0, std::string(ErrnoStatus(err, what).message())};
  }

  const UniqueFd fd_;
  const bool end_of_file_is_gone_;
  const bool is_socket_;
};

}  // namespace

std::unique_ptr<Port> NewFdPort(UniqueFd fd, bool end_of_file_is_gone) {
  return std::make_unique<FdPort>(std::move(fd), end_of_file_is_gone);
}

}  // namespace virt_reclaim::link
