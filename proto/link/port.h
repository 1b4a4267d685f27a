// A byte pipe without connections: what the session layer runs over. In the guest it is the
// character device of a virtio-serial port; on the host a libvirt stream or a unix socket; in tests
// a socketpair. A port may lose its peer and get another one without a word (virtio-serial: read
// returns 0 while no host is there).
#ifndef VIRT_RECLAIM_PROTO_LINK_PORT_H_
#define VIRT_RECLAIM_PROTO_LINK_PORT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/unique_fd.h"

namespace virt_reclaim::link {

struct IoResult {
  enum class Kind {
    kBytes,       // `bytes` were moved, at least one
    kWouldBlock,  // nothing now; fd() tells when to try again
    kNoPeer,  // nobody at the other end now; may change (a stream socket's end of file is kGone)
    kGone,    // this port is finished: hot-unplugged, stream aborted, socket closed
  };
  Kind kind = Kind::kWouldBlock;
  size_t bytes = 0;
  std::string error;  // kGone: why, for the log
};

// Not thread-safe: one thread uses a port (its own callbacks excepted).
class Port {
 public:
  virtual ~Port() = default;
  // A descriptor for epoll with EPOLLIN | EPOLLOUT | EPOLLET: an edge means that Read or Write may
  // get on.
  virtual int fd() const = 0;
  // After an edge, before Read: gives an event-counter port the chance to reset its counter.
  virtual void AcknowledgeEdge() {}
  // Never block. Move what they can, at most the span.
  virtual IoResult Read(std::span<uint8_t> buffer) = 0;
  virtual IoResult Write(std::span<const uint8_t> bytes) = 0;
};

// Port over a non-blocking descriptor. `end_of_file_is_gone`: false for a virtio-serial character
// device, where a read of 0 means that no host is connected.
std::unique_ptr<Port> NewFdPort(UniqueFd fd, bool end_of_file_is_gone);

}  // namespace virt_reclaim::link

#endif  // VIRT_RECLAIM_PROTO_LINK_PORT_H_
