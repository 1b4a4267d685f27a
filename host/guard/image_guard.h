// The right to change an image, or to read it while nobody changes it, for as long as the object
// lives. Used by all that work on images from the host: sparsify, punch, sync.
//
// What proves that nobody uses a *regular file*:
// - QEMU's image locks (image_locks.h), asked and held: QEMU and its tools back off.
// - A write lease (fcntl(2), F_SETLEASE): the kernel grants it only while this is the one open
//   descriptor of the file. It sees what has no locks: a domain with locking off, a loop device, a
//   mount or swap on it, a mapping that outlived its descriptor.
// Whoever opens the file while we hold the lease *waits* in open(2) until we let go; the kernel
// takes the lease from us by force after /proc/sys/fs/lease-break-time (45 s). So: ask
// Interrupted() before each single step that changes the image, keep those steps short, and destroy
// the guard when it says yes. Then a domain that starts meanwhile starts, a moment later. A
// consequence: as long as the guard lives, this process must not open the image again; it would
// wait for itself.
//
// What proves it for a *block device* is less: O_EXCL (no mount, no device mapper, no other
// exclusive user), QEMU's locks on the node, and no process that has it open at the beginning.
// There are no leases on devices, and the locks are of the node: libvirt gives a domain a /dev of
// its own, with other nodes (qemu.conf(5), namespaces), so it starts. Who has the device open for
// writing is looked up again and again instead (device_watch.h): a QEMU opens it when it starts,
// long before its guest writes.
//
// Who only reads (`reading`) takes a read lease: others may read the file, too, and whoever wants
// to write it waits as above. Of QEMU's locks only those of writers are in the way, and none are
// taken on a file: a domain that wants its image gets it. A device has no lease, so there they are.
//
// libvirt's opinion (paused, saved, a job) is the caller's to ask. One thread at a time; fd() and
// Interrupted() are any thread's until the guard goes.
#ifndef VIRT_RECLAIM_HOST_GUARD_IMAGE_GUARD_H_
#define VIRT_RECLAIM_HOST_GUARD_IMAGE_GUARD_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "host/guard/device_watch.h"
#include "host/guard/holders.h"
#include "host/guard/image_identity.h"
#include "host/guard/image_locks.h"

namespace virt_reclaim {

struct GuardOptions {
  ImageIntent intent = ImageIntent::kSameContent;
  // O_DIRECT where the filesystem has it; see direct().
  bool direct = false;
  // Opens for reading only: for asking whether the image is in use, and for what changes it through
  // another image (FIDEDUPERANGE).
  bool read_only = false;
  // The image is not changed, and others may read it meanwhile. Goes with ImageIntent::kRead.
  bool reading = false;
  HolderRoots roots;
};

class ImageGuard {
 public:
  // Symbolic links are followed. Aborted when the image is in use, with the names of the holders
  // where they can be found; FailedPrecondition for what is neither a regular file nor a block
  // device, and for a filesystem on which use cannot be proved (no leases, or FUSE and 9p, whose
  // leases are this host's only); else the error of open(2). Never waits.
  static absl::StatusOr<ImageGuard> Acquire(const std::string& path, const GuardOptions& options);

  ImageGuard(ImageGuard&&) = default;
  ImageGuard& operator=(ImageGuard&&) = delete;
  ~ImageGuard() { Release(); }

  int fd() const { return fd_.get(); }
  bool direct() const { return direct_; }
  // As it was found when the guard was complete.
  const ImageIdentity& identity() const { return identity_; }
  bool is_device() const { return identity_.block_device != 0; }

  // True as soon as somebody wants to open the file: stop, and let go. One system call. Of a block
  // device as DeviceWatch::SomebodyWrites.
  bool Interrupted() const;

  // Lets go: first the locks, then the lease, so that who waits in open(2) finds no lock of ours.
  void Release();

 private:
  ImageGuard(UniqueFd fd, bool direct, int lease)
      : fd_(std::move(fd)), direct_(direct), lease_(lease) {}

  UniqueFd fd_;
  bool direct_ = false;
  int lease_;                           // F_WRLCK or F_RDLCK
  std::unique_ptr<DeviceWatch> watch_;  // of a device
  ImageIdentity identity_;
};

// FailedPrecondition for a filesystem, by its f_type of statfs(2) and its st_dev, that may refuse a
// lease although nobody has the file open, or grant one although another machine has: NFS,
// filesystems of clusters (fs/ocfs2/file.c has no setlease), and 9p and FUSE (sshfs, virtiofs),
// where kernels before 7.0 do not ask the server (fs/fuse/file.c has none either). Pure.
absl::Status CheckLeasesProve(int64_t filesystem_type, dev_t device);

// OK when Acquire would have worked, Aborted when the image is in use; holds nothing afterwards.
absl::Status CheckUnused(const std::string& path, const GuardOptions& options);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_GUARD_IMAGE_GUARD_H_
