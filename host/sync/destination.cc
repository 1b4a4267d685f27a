#include "host/sync/destination.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/io.h"
#include "base/status.h"
#include "host/guard/image_identity.h"
#include "host/punch/filesystem.h"
#include "host/sync/replace_file.h"
#include "host/sync/unfinished_mark.h"

namespace virt_reclaim::sync {
namespace {

constexpr uint64_t kMaxPunchBytes = uint64_t{64} << 20;  // a bounded step

// Of a file that need not be there yet.
absl::StatusOr<std::string> RealParent(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string parent = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  std::string real = RealPath(parent);
  if (real.empty()) return ErrnoStatus(errno, "resolve " + Quoted(parent));
  return real;
}

GuardOptions GuardFor() {
  GuardOptions options;
  options.intent = ImageIntent::kResize;
  options.direct = true;
  return options;
}

int Punch(int fd, Range range) {
  while (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(range.begin),
                   static_cast<off_t>(range.size())) != 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

absl::Status WriteAt(int fd, const unsigned char* data, uint64_t bytes, uint64_t offset) {
  for (uint64_t done = 0; done < bytes;) {
    const ssize_t n = pwrite(fd, data + done, bytes - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    // The memory is a mapping of the source.
    if (n < 0 && errno == EFAULT)
      return absl::DataLossError("the source cannot be read, or became shorter");
    if (n <= 0) return ErrnoStatus(n < 0 ? errno : EIO, absl::StrCat("write at ", offset + done));
    done += static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

const unsigned char* Zeroes() {
  static const PieceBuffer& buffer = []() -> const PieceBuffer& {
    auto* made = new PieceBuffer;
    if (made->memory() != nullptr) std::fill_n(made->memory(), kPieceBytes, 0);
    return *made;
  }();
  return buffer.memory();
}

bool SetDirect(int fd, bool direct) {
  const int flags = fcntl(fd, F_GETFL);
  return flags >= 0 && fcntl(fd, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
}

}  // namespace

std::string Destination::name() const { return Quoted(plan_.path); }

absl::StatusOr<std::unique_ptr<Destination>> Destination::Open(const DestinationPlan& plan) {
  std::unique_ptr<Destination> made(new Destination);
  made->plan_ = plan;
  made->real_path_ = plan.path;
  if (plan.identity) {
    made->real_path_ = RealPath(plan.path);
    if (made->real_path_.empty()) return ErrnoStatus(errno, "resolve " + made->name());
  }
  VR_ASSIGN_OR_RETURN(made->directory_, RealParent(made->real_path_));
  if (plan.identity) {
    VR_RETURN_IF_ERROR(made->OpenExisting());
    if (plan.atomic) VR_RETURN_IF_ERROR(Annotate(made->OpenTemporary(), made->name()));
  } else {
    made->new_ = true;
    VR_RETURN_IF_ERROR(plan.atomic ? Annotate(made->OpenTemporary(), made->name())
                                   : made->OpenNew());
  }
  VR_RETURN_IF_ERROR(made->FindAbilities());
  return made;
}

absl::Status Destination::OpenExisting() {
  VR_ASSIGN_OR_RETURN(ImageGuard guard, ImageGuard::Acquire(plan_.path, GuardFor()));
  VR_RETURN_IF_ERROR(CheckIdentity(*plan_.identity, guard.identity(), plan_.path));
  guard_.emplace(std::move(guard));
  fd_ = guard_->fd();
  direct_ = guard_->direct();
  size_ = guard_->identity().size_bytes;
  if (guard_->is_device()) {
    VR_ASSIGN_OR_RETURN(size_, DeviceBytes(fd_));
  }
  return absl::OkStatus();
}

absl::Status Destination::OpenNew() {
  // O_EXCL: what appeared since is not ours to write; a dangling link leads we do not know where.
  UniqueFd made(open(plan_.path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0600));
  if (!made.valid()) {
    if (errno == EEXIST)
      return absl::FailedPreconditionError(name() + " is there meanwhile, or a link to nowhere");
    return ErrnoStatus(errno, "create " + name());
  }
  struct stat status;
  if (fstat(made.get(), &status) != 0) return ErrnoStatus(errno, "stat " + name());
  made.Reset();
  auto guard = ImageGuard::Acquire(plan_.path, GuardFor());
  if (!guard.ok()) {
    // Nobody has a lease here, for one: then there is no copy, and not an empty one.
    struct stat now;
    if (lstat(plan_.path.c_str(), &now) == 0 && SameFile(IdentityOf(now), IdentityOf(status)) &&
        now.st_size == 0) {
      unlink(plan_.path.c_str());
    }
    return guard.status();
  }
  // Who may write to the directory could have put a link to another file there.
  VR_RETURN_IF_ERROR(CheckIdentity(IdentityOf(status), guard->identity(), plan_.path));
  guard_.emplace(*std::move(guard));
  fd_ = guard_->fd();
  direct_ = guard_->direct();
  // Not worth an error: the directory is synced again with the file on most filesystems.
  static_cast<void>(SyncDirectory(directory_));
  return absl::OkStatus();
}

absl::Status Destination::OpenTemporary() {
  if (is_device()) return absl::FailedPreconditionError("is a block device: not atomic");
  VR_ASSIGN_OR_RETURN(temporary_, MakeReplacement(directory_, guard_ ? guard_->fd() : -1));
  direct_ = SetDirect(temporary_.get(), true);
  fd_ = temporary_.get();
  return absl::OkStatus();
}

absl::Status Destination::FindAbilities() {
  if (is_device()) {
    unit_ = kBlockBytes;
    punches_ = true;  // until it says otherwise
    return absl::OkStatus();
  }
  VR_ASSIGN_OR_RETURN(const punch::FilesystemFacts facts, punch::ProbeFilesystem(fd_, directory_));
  unit_ = facts.unit_bytes;
  btrfs_ = facts.btrfs;
  punches_ = facts.punches == punch::Ability::kYes;
  if (facts.punches != punch::Ability::kUnknown) return absl::OkStatus();
  // No nameless file could be made to try it on. Behind the end there is nothing to lose.
  const uint64_t behind = RoundUp(size_, unit_);
  const int error = Punch(fd_, {behind, behind + unit_});
  punches_ = error == 0;
  if (error != 0 && error != EOPNOTSUPP && error != ENOSYS && error != ENODEV)
    return ErrnoStatus(error, "punch " + name());
  return absl::OkStatus();
}

Destination::~Destination() {
  if (mark_is_ours_ && !changed_) ClearUnfinished(fd_);
}

void Destination::MarkEarly(std::optional<int64_t> source_mtime_ns) {
  if (!plan_.identity || !source_mtime_ns || *source_mtime_ns == plan_.identity->mtime_ns) return;
  static_cast<void>(Mark());
}

absl::Status Destination::Mark() {
  const std::lock_guard lock(mutex_);
  if (marked_) return *marked_;
  marked_ = absl::OkStatus();
  // On the disk before anything else is, or a power cut could leave new bytes with the old looks.
  if (guard_ && fd_ == guard_->fd() && !is_device()) {
    const bool before = IsUnfinished(fd_);
    const bool marks = SetUnfinished(fd_);
    if (marks && !before) mark_is_ours_ = true;
    if (!marks) futimens(fd_, nullptr);  // now: then the time tells
    // Once: the kernel says it to the first who asks only (fsync(2)).
    if (size_ > 0 && fsync(fd_) != 0) marked_ = ErrnoStatus(errno, "sync " + name());
  }
  return *marked_;
}

// The last moment before each change: who opens the file from here on waits until we let go.
absl::Status Destination::BeforeChange() {
  if (Interrupted()) return absl::AbortedError(name() + ": somebody wants to open it");
  if (changed_.load(std::memory_order_acquire)) return absl::OkStatus();
  VR_RETURN_IF_ERROR(Mark());
  changed_.store(true, std::memory_order_release);
  return absl::OkStatus();
}

absl::Status Destination::Resize(uint64_t size_bytes) {
  wanted_ = size_bytes;
  if (is_device()) {
    if (size_ >= size_bytes) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat(name(), " is too small: it has ", size_, " bytes, the source ", size_bytes));
  }
  if (size_ == size_bytes) return absl::OkStatus();
  VR_RETURN_IF_ERROR(BeforeChange());
  if (ftruncate(fd_, static_cast<off_t>(size_bytes)) != 0)
    return ErrnoStatus(errno, absl::StrCat("make ", name(), " ", size_bytes, " bytes long"));
  size_ = size_bytes;
  return absl::OkStatus();
}

void Destination::WriteBehind() {
  if (!btrfs_ || !direct_ || !SetDirect(fd_, false)) return;
  direct_ = false;
  behind_ = true;
}

absl::Status Destination::PushOut(Range range, Range before) {
  if (!behind_) return absl::OkStatus();
  const auto push = [&](Range part, unsigned how) {
    if (part.size() == 0 || sync_file_range(fd_, static_cast<off_t>(part.begin),
                                            static_cast<off_t>(part.size()), how) == 0) {
      return absl::OkStatus();
    }
    // Said once, so not by fdatasync again; as there the next run must read the disk.
    const int error = errno;
    posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);
    return ErrnoStatus(error, absl::StrCat("write ", name(), " at ", part.begin));
  };
  VR_RETURN_IF_ERROR(push(range, SYNC_FILE_RANGE_WRITE));
  VR_RETURN_IF_ERROR(push(
      before, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER));
  if (before.size() == 0) return absl::OkStatus();
  posix_fadvise(fd_, static_cast<off_t>(before.begin), static_cast<off_t>(before.size()),
                POSIX_FADV_DONTNEED);
  return absl::OkStatus();
}

void Destination::UseCache(int more) {
  const std::lock_guard lock(mutex_);
  const int before = std::exchange(cache_users_, cache_users_ + more);
  if (before == 0 || cache_users_ == 0) SetDirect(fd_, before != 0);
}

absl::Status Destination::WriteDirect(Range range, const unsigned char* data, bool cached) {
  const Range whole = {range.begin, RoundDown(range.end, kBlockBytes)};
  // Around the cache each write waits for the disk and tears the pages out of all mappings. The
  // flag is the descriptor's: a thread beside this one may read or write the other way meanwhile,
  // which is as right, as all of it is aligned.
  if (cached) UseCache(+1);
  const absl::Status written =
      whole.begin < whole.end ? WriteAt(fd_, data, whole.size(), whole.begin) : absl::OkStatus();
  if (cached) UseCache(-1);
  VR_RETURN_IF_ERROR(written);
  if (whole.end == range.end) return absl::OkStatus();
  const std::lock_guard lock(mutex_);
  const unsigned char* const rest = data + whole.size();
  tail_.assign(rest, rest + (range.end - whole.end));
  tail_at_ = whole.end;
  return absl::OkStatus();
}

absl::Status Destination::Write(Range range, const unsigned char* data, bool cached) {
  VR_RETURN_IF_ERROR(BeforeChange());
  VR_RETURN_IF_ERROR(Annotate(
      direct_ ? WriteDirect(range, data, cached) : WriteAt(fd_, data, range.size(), range.begin),
      name()));
  written_ += range.size();
  return absl::OkStatus();
}

absl::Status Destination::Zero(Range run, std::span<const Range> differing) {
  for (Range left = run; punches_ && left.begin < left.end;) {
    Range part = {left.begin, std::min(left.end, left.begin + kMaxPunchBytes)};
    left.begin = part.end;
    VR_RETURN_IF_ERROR(BeforeChange());
    const uint64_t bytes = part.size();
    // The rest of the last block lies behind the end of the source.
    if (part.end == wanted_ && !is_device()) part.end = RoundUp(part.end, unit_);
    const int error = Punch(fd_, part);
    if (error == 0) {
      punched_ += bytes;
      if (left.begin == left.end) return absl::OkStatus();
      continue;
    }
    if (!is_device() || (error != EOPNOTSUPP && error != EINVAL))
      return ErrnoStatus(error, absl::StrCat("punch ", name(), " at ", part.begin));
    break;  // the device cannot, or not at this odd place: zeroes are written
  }
  const unsigned char* const zeroes = Zeroes();
  if (zeroes == nullptr) return absl::ResourceExhaustedError("no memory");
  for (Range range : differing) {
    while (range.begin < range.end) {
      const Range part = {range.begin, std::min(range.end, range.begin + kPieceBytes)};
      VR_RETURN_IF_ERROR(Write(part, zeroes, false));
      range.begin = part.end;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> Destination::Clone(int source, Range range) {
  VR_RETURN_IF_ERROR(BeforeChange());
  file_clone_range call = {};
  call.src_fd = source;
  call.src_offset = range.begin;
  call.src_length = range.size();
  call.dest_offset = range.begin;
  while (ioctl(fd_, FICLONERANGE, &call) != 0) {
    if (errno == EINTR) continue;
    if (errno == ENOSPC || errno == EDQUOT || errno == EIO || errno == EFBIG)
      return ErrnoStatus(errno, absl::StrCat("clone to ", name(), " at ", range.begin));
    return false;
  }
  cloned_ += range.size();
  return true;
}

absl::Status Destination::Settle() {
  if (!tail_.empty()) {
    VR_RETURN_IF_ERROR(BeforeChange());
    if (!SetDirect(fd_, false)) return ErrnoStatus(errno, "write " + name());
    VR_RETURN_IF_ERROR(Annotate(WriteAt(fd_, tail_.data(), tail_.size(), tail_at_), name()));
    tail_.clear();
    SetDirect(fd_, true);  // may fail: it is only for reading back
  }
  // Also when nothing differed: what a killed run or the copy's author wrote may be in memory only.
  const int fd = changed_ || !guard_ ? fd_ : guard_->fd();
  if (fdatasync(fd) != 0) {
    const int error = errno;
    // Pages that could not be written pass for written now: the next run must read the disk.
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    return ErrnoStatus(error, "sync " + name());
  }
  if (!behind_) return absl::OkStatus();
  posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);
  SetDirect(fd_, true);  // may fail: it is only for reading back
  return absl::OkStatus();
}

absl::Status Destination::Commit(std::optional<int64_t> mtime_ns, int like) {
  if (is_device()) return absl::OkStatus();
  if (Interrupted()) return absl::AbortedError(name() + ": somebody wants to open it");
  // Nothing to put in its place: the old file has only another time.
  const bool replaces = plan_.atomic && (changed_ || !plan_.identity);
  const int fd = plan_.atomic && !replaces ? guard_->fd() : fd_;
  if (new_ && like >= 0) TakeOwnerAndMode(fd, like);
  if (mtime_ns) {
    constexpr int64_t kSecond = 1'000'000'000;
    const int64_t seconds = (*mtime_ns - (*mtime_ns < 0 ? kSecond - 1 : 0)) / kSecond;
    const struct timespec times[] = {{.tv_sec = 0, .tv_nsec = UTIME_OMIT},
                                     {.tv_sec = seconds, .tv_nsec = *mtime_ns - seconds * kSecond}};
    if (futimens(fd, times) != 0) return ErrnoStatus(errno, "set the mtime of " + name());
  }
  fd_ = fd;  // the copy from here on
  if (replaces) return ReplaceFile(fd, directory_, real_path_, plan_.identity.has_value());
  ClearUnfinished(fd);
  return absl::OkStatus();
}

}  // namespace virt_reclaim::sync
