#include "host/punch/read_at.h"

#include <unistd.h>

#include <cerrno>

namespace virt_reclaim::punch {

ssize_t ReadAt(int fd, void* memory, size_t bytes, uint64_t offset) {
  for (bool again = true;;) {
    const ssize_t n = pread(fd, memory, bytes, static_cast<off_t>(offset));
    if (n >= 0) return n;
    if (errno == EINTR) continue;
    if (errno != EIO || !again) return n;
    again = false;
  }
}

}  // namespace virt_reclaim::punch
