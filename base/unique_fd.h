// Owner of a file descriptor, from birth: closes it when it goes. Move-only. Open every descriptor
// with O_CLOEXEC.
#ifndef VIRT_RECLAIM_BASE_UNIQUE_FD_H_
#define VIRT_RECLAIM_BASE_UNIQUE_FD_H_

#include <unistd.h>

#include <utility>

namespace virt_reclaim {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.Release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) Reset(other.Release());
    return *this;
  }
  ~UniqueFd() { Reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  // Gives the descriptor away: the caller closes it.
  int Release() { return std::exchange(fd_, -1); }
  void Reset(int fd = -1) {
    if (fd_ >= 0) close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_BASE_UNIQUE_FD_H_
