#include "host/guard/image_guard.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"

namespace virt_reclaim {
namespace {

absl::Status InUse(const std::string& path, const ImageIdentity& identity, const HolderRoots& roots,
                   absl::string_view otherwise) {
  const std::string names = FindHolders(identity, roots).Describe();
  return absl::AbortedError(absl::StrCat(
      "'", Printable(path), "' is in use: ", names.empty() ? std::string(otherwise) : names));
}

// O_NONBLOCK: a FIFO put there since, or somebody's lease, must not make us wait. O_NOATIME is the
// owner's and root's only.
UniqueFd Open(const std::string& path, int flags, bool& direct) {
  for (const int extra :
       {direct ? O_DIRECT | O_NOATIME : O_NOATIME, O_NOATIME, direct ? O_DIRECT : 0, 0}) {
    UniqueFd fd(open(path.c_str(), flags | extra | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    direct = fd.valid() && (extra & O_DIRECT) != 0;
    if (fd.valid() || (errno != EINVAL && errno != EPERM)) return fd;
  }
  return {};
}

absl::Status TakeLease(int fd, int type) {
  // The signal of a break is SIGIO, which kills; SIGURG is ignored unless somebody asks for it. We
  // poll instead (Interrupted).
  if (fcntl(fd, F_SETSIG, SIGURG) != 0) return ErrnoStatus(errno, "F_SETSIG");
  if (fcntl(fd, F_SETLEASE, type) == 0) return absl::OkStatus();
  if (errno == EAGAIN || errno == EBUSY) return absl::AbortedError("somebody has it open");
  if (errno == EACCES)
    return absl::PermissionDeniedError("only its owner or root may take a lease on it");
  return absl::FailedPreconditionError(
      "its filesystem has no leases, so nobody can tell whether it is in use");
}

}  // namespace

absl::Status CheckLeasesProve(int64_t filesystem_type, dev_t device) {
  // Numbers without a name are of filesystems whose own headers have them.
  constexpr int64_t kShared[] = {
      NFS_SUPER_MAGIC, V9FS_MAGIC, OCFS2_SUPER_MAGIC, AFS_SUPER_MAGIC, CODA_SUPER_MAGIC,
      0x00c36400,  // Ceph
      0x01161970,  // GFS2
      0x0bd00bd0,  // Lustre
      0x19830326,  // BeeGFS
      0x20030528,  // OrangeFS
      0x47504653,  // GPFS
      0xbacbacbc,  // VMware's vmhgfs
  };
  // A FUSE filesystem on a disk of this machine (ntfs-3g) has that disk's number and no made-up
  // one.
  const bool elsewhere =
      std::find(std::begin(kShared), std::end(kShared), filesystem_type) != std::end(kShared) ||
      (filesystem_type == FUSE_SUPER_MAGIC && major(device) == 0);
  if (!elsewhere) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(filesystem_type == NFS_SUPER_MAGIC ? "it lies on NFS, which" : "its filesystem",
                   " may have users on other hosts, whom nobody here can see"));
}

absl::StatusOr<ImageGuard> ImageGuard::Acquire(const std::string& path,
                                               const GuardOptions& options) {
  const std::string name = Quoted(path);
  struct stat before;
  if (stat(path.c_str(), &before) != 0) return ErrnoStatus(errno, "stat " + name);
  const bool device = S_ISBLK(before.st_mode);
  if (!device && !S_ISREG(before.st_mode)) {
    return absl::FailedPreconditionError(name + " is neither a regular file nor a block device");
  }
  const ImageIdentity seen = IdentityOf(before);
  // Opening it would break the lease, which is another virt-reclaim's more often than not.
  if (!device && HasLease(path, seen, options.roots))
    return InUse(path, seen, options.roots, "somebody holds a lease on it");

  bool direct = options.direct;
  const bool for_reading = options.read_only || options.reading;
  UniqueFd fd = Open(path, (for_reading ? O_RDONLY : O_RDWR) | (device ? O_EXCL : 0), direct);
  if (!fd.valid()) {
    const int error = errno;
    if (error == EBUSY || error == EWOULDBLOCK || error == ETXTBSY)
      return InUse(path, seen, options.roots, "the kernel says so");
    return ErrnoStatus(error, "open " + name);
  }
  struct stat opened;
  if (fstat(fd.get(), &opened) != 0) return ErrnoStatus(errno, "stat " + name);
  const ImageIdentity early = IdentityOf(opened);
  if (!SameFile(early, seen))
    return absl::FailedPreconditionError(name + " was replaced by another file meanwhile");

  ImageGuard guard(std::move(fd), direct, options.reading ? F_RDLCK : F_WRLCK);
  // A read-only caller only asks: its locks would make a domain fail that starts meanwhile. So
  // would those of anybody without the lease, so of a file they come after it: who opens it then
  // waits.
  const bool ask = options.read_only || (options.reading && !device);
  const auto checked = [&](const absl::Status& locks) {
    if (absl::IsAborted(locks)) return InUse(path, early, options.roots, locks.message());
    return Annotate(locks, name);
  };
  VR_RETURN_IF_ERROR(checked(device && !ask ? LockImage(guard.fd(), options.intent)
                                            : CheckImageLocks(guard.fd(), options.intent)));
  if (device) {
    const Holders holders = FindHolders(early, options.roots);
    if (!holders.names.empty()) return InUse(path, early, options.roots, holders.Describe());
    if (!holders.complete) {
      return absl::PermissionDeniedError(name + ": only root can see whether somebody has it open");
    }
    guard.watch_ = std::make_unique<DeviceWatch>(early, options.roots);
  } else {
    struct statfs mounted;
    if (fstatfs(guard.fd(), &mounted) != 0) return ErrnoStatus(errno, "statfs " + name);
    VR_RETURN_IF_ERROR(Annotate(CheckLeasesProve(mounted.f_type, opened.st_dev), name));
    const absl::Status lease = TakeLease(guard.fd(), guard.lease_);
    if (absl::IsAborted(lease)) return InUse(path, early, options.roots, lease.message());
    if (!lease.ok()) return Annotate(lease, name);
    if (!ask) VR_RETURN_IF_ERROR(checked(LockImage(guard.fd(), options.intent)));
  }
  // Only now can nobody change it any more.
  if (fstat(guard.fd(), &opened) != 0) return ErrnoStatus(errno, "stat " + name);
  guard.identity_ = IdentityOf(opened);
  return guard;
}

bool ImageGuard::Interrupted() const {
  if (watch_) return watch_->SomebodyWrites();
  return fcntl(fd_.get(), F_GETLEASE) != lease_;
}

void ImageGuard::Release() {
  if (!fd_.valid()) return;
  UnlockImage(fd_.get());
  if (!is_device()) fcntl(fd_.get(), F_SETLEASE, F_UNLCK);
  fd_.Reset();
}

absl::Status CheckUnused(const std::string& path, const GuardOptions& options) {
  GuardOptions asking = options;
  asking.read_only = true;
  return ImageGuard::Acquire(path, asking).status();
}

}  // namespace virt_reclaim
