// qemu-storage-daemon as a servant: it alone opens one image, under QEMU's own image locks, and
// serves what the guest sees of it over NBD: to the free map worker for reading, to us for
// trimming. It speaks only with the two connections that are made before it starts; its socket has
// no name by then.
#ifndef VIRT_RECLAIM_HOST_SPARSIFY_QEMU_SERVER_H_
#define VIRT_RECLAIM_HOST_SPARSIFY_QEMU_SERVER_H_

#include <sys/types.h>

#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace virt_reclaim::sparsify {

inline constexpr char kSocketDirectory[] = "nbd-";  // its directories' names begin so

inline constexpr char kReadExport[] = "read";    // read-only, always
inline constexpr char kTrimExport[] = "change";  // writable when the server is

struct QemuServerOptions {
  std::string program;    // path of qemu-storage-daemon
  std::string directory;  // where its socket stands for a moment; only root's; made when missing
  std::string path;       // of the image; a regular file
  std::string format;     // said, never probed
  bool writable = false;
  bool backing = false;  // opens what the image stands on, too; else nothing but the image
};

// One thread: the server dies with the thread that started it (by SIGTERM, so that it closes the
// image properly).
class QemuServer {
 public:
  // Unavailable: there is no such program. What is wrong with the image shows when a connection
  // is used; see Failure.
  static absl::StatusOr<QemuServer> Start(const QemuServerOptions& options);

  QemuServer(QemuServer&& other) noexcept;
  QemuServer& operator=(QemuServer&&) = delete;
  // Kills what is left, as Stop.
  ~QemuServer();

  // Connected stream sockets before the NBD handshake; to be taken once each.
  UniqueFd TakeReadConnection() { return std::move(read_); }
  UniqueFd TakeTrimConnection() { return std::move(trim_); }
  pid_t pid() const { return pid_; }

  // What it said when it could not go on, for a connection that broke. Aborted when somebody else
  // has the image.
  absl::Status Failure();

  // Lets it flush and close the image, and waits; kills it after a minute. An error: it did not end
  // well, so that the image wants a check.
  absl::Status Stop();

 private:
  QemuServer() = default;

  pid_t pid_ = -1;
  int wait_status_ = 0;
  UniqueFd read_, trim_;
  UniqueFd errors_;
};

}  // namespace virt_reclaim::sparsify

#endif  // VIRT_RECLAIM_HOST_SPARSIFY_QEMU_SERVER_H_
