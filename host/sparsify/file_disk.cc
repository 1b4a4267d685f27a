// A raw image in a regular file. The free map is read without holding anything, so that a domain
// can start meanwhile; whether anybody wrote is seen by the file's times, which were taken while
// nobody had it open (see Settle).
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <thread>

#include "base/escape.h"
#include "base/io.h"
#include "base/status.h"
#include "host/guard/image_guard.h"
#include "host/punch/btrfs_release.h"
#include "host/punch/data_map.h"
#include "host/punch/filesystem.h"
#include "host/punch/holes.h"
#include "host/punch/survey.h"
#include "host/sparsify/btrfs_image.h"
#include "host/sparsify/opened_disk.h"

namespace virt_reclaim::sparsify {
namespace {

// Longer than the tick of the kernel's coarse clock, which file times are made of (10 ms at most).
constexpr std::chrono::milliseconds kClockTick{50};

// What tells that a file is as it was: every write changes ctime, and nobody can set it.
struct Moment {
  ImageIdentity identity;
  int64_t ctime_ns = 0;
};

absl::StatusOr<Moment> MomentOf(int fd) {
  struct stat status;
  if (fstat(fd, &status) != 0) return ErrnoStatus(errno, "stat");
  return Moment{IdentityOf(status), Nanoseconds(status.st_ctim)};
}

// The file's times while nobody has it open, which the lease proves. A write that comes in the same
// tick of the clock would not show in them: waits for the next one.
absl::StatusOr<Moment> Settle(const std::string& path) {
  GuardOptions asking;
  asking.intent = ImageIntent::kWrite;
  asking.read_only = true;
  VR_ASSIGN_OR_RETURN(const ImageGuard guard, ImageGuard::Acquire(path, asking));
  VR_ASSIGN_OR_RETURN(const Moment moment, MomentOf(guard.fd()));
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  const std::chrono::nanoseconds age(Nanoseconds(now) - moment.ctime_ns);
  if (std::chrono::abs(age) < kClockTick) std::this_thread::sleep_for(kClockTick);
  return moment;
}

class FileDisk final : public OpenedDisk {
 public:
  FileDisk(std::string path, Mode mode) : path_(std::move(path)), mode_(mode) {}

  absl::Status Open() {
    VR_ASSIGN_OR_RETURN(moment_, Settle(path_));
    // Through the page cache: the worker reads the same places again and again.
    VR_ASSIGN_OR_RETURN(punch::OpenedImage image, punch::OpenForReading(path_, false));
    reading_ = std::move(image.fd);
    VR_RETURN_IF_ERROR(CheckMoment(reading_.get()));
    VR_ASSIGN_OR_RETURN(directory_, punch::RealDirectory(path_));
    VR_ASSIGN_OR_RETURN(filesystem_, punch::ProbeFilesystem(reading_.get(), directory_));
    if (filesystem_.punches == punch::Ability::kNo)
      return absl::UnimplementedError(Quoted(path_) + ": its filesystem cannot punch holes");
    struct statvfs mounted;
    if (fstatvfs(reading_.get(), &mounted) == 0 && (mounted.f_flag & ST_RDONLY) != 0)
      return absl::FailedPreconditionError(Quoted(path_) + ": its filesystem is mounted read-only");
    facts_.size_bytes = moment_.identity.size_bytes;
    facts_.granularity = filesystem_.unit_bytes;
    facts_.allocation_is_own = filesystem_.btrfs;
    return absl::OkStatus();
  }

  freemap::WorkerDisk worker_disk() const override { return {reading_.get(), 0}; }
  const DiskFacts& facts() const override { return facts_; }

  absl::Status Seize() override {
    reading_.Reset();  // a lease is given for a file that is open once
    GuardOptions wanted;
    wanted.intent = ImageIntent::kWrite;
    VR_ASSIGN_OR_RETURN(ImageGuard guard, ImageGuard::Acquire(path_, wanted));
    guard_.emplace(std::move(guard));
    VR_RETURN_IF_ERROR(CheckMoment(guard_->fd()));
    if (filesystem_.punches != punch::Ability::kYes) {
      VR_RETURN_IF_ERROR(punch::TryPlainHoles(*guard_, facts_.size_bytes, filesystem_.unit_bytes));
    }
    holes_ = punch::MakePlainHoles(*guard_, facts_.size_bytes, filesystem_.unit_bytes);
    // So that what is measured now is what is on disk.
    if (fdatasync(guard_->fd()) != 0) return ErrnoStatus(errno, "sync");
    VR_RETURN_IF_ERROR(ReadMap(guard_->fd()));
    allocation_ = Measure(guard_->fd());
    if (filesystem_.btrfs) unpunched_ = ReadBtrfsView(guard_->fd());
    return absl::OkStatus();
  }

  absl::StatusOr<AllocationMap> Allocated() override {
    if (!guard_) VR_RETURN_IF_ERROR(ReadMap(reading_.get()));
    return AllocationMap{allocated_, allocated_};
  }

  std::vector<Range> shared() const override { return shared_; }

  bool Wanted() override { return guard_ && guard_->Interrupted(); }
  bool OpenerWaits() const override { return true; }

  absl::Status Free(Range range) override { return holes_->Make(range).status(); }

  // btrfs frees whole extents only: what is left of those that were punched moves out of them.
  Released Release(const std::stop_token& stop) override {
    if (!filesystem_.btrfs) return {};
    std::stop_source wanted;
    const std::stop_callback forward(stop, [&] { wanted.request_stop(); });
    const auto look = [&] {
      if (guard_->Interrupted()) wanted.request_stop();
    };
    return ReleasePunched(guard_->fd(), directory_, unpunched_, look, wanted.get_token());
  }

  absl::Status Finish() override {
    if (!guard_) return absl::OkStatus();
    absl::Status synced;
    if (fdatasync(guard_->fd()) != 0) synced = ErrnoStatus(errno, "sync " + Quoted(path_));
    allocation_ = Measure(guard_->fd());
    holes_.reset();
    guard_.reset();
    return synced;
  }

  std::optional<uint64_t> Allocation() override {
    if (mode_ == Mode::kMeasure && reading_.valid()) return Measure(reading_.get());
    return allocation_;
  }

 private:
  absl::Status ReadMap(int fd) {
    VR_ASSIGN_OR_RETURN(const std::vector<punch::Extent> extents,
                        punch::ReadDataMap(fd, facts_.size_bytes));
    std::vector<Range> ranges;
    shared_.clear();
    for (const punch::Extent& extent : extents) {
      AppendJoined(ranges, extent.range);
      if (extent.shared) AppendJoined(shared_, extent.range);
    }
    // A granule that is allocated in part comes free as a whole.
    allocated_ = RoundOutwards(ranges, facts_.granularity, facts_.size_bytes);
    return absl::OkStatus();
  }

  absl::Status CheckMoment(int fd) const {
    VR_ASSIGN_OR_RETURN(const Moment found, MomentOf(fd));
    VR_RETURN_IF_ERROR(CheckIdentity(moment_.identity, found.identity, path_));
    if (found.ctime_ns != moment_.ctime_ns)
      return absl::FailedPreconditionError(Quoted(path_) + " was changed meanwhile");
    return absl::OkStatus();
  }

  // btrfs frees whole extents; until then a hole in one only looks free.
  std::optional<uint64_t> Measure(int fd) const {
    if (filesystem_.btrfs) {
      const auto references = punch::ReadExtentReferences(fd);
      if (!references.ok()) return std::nullopt;
      return punch::OwnBytes(*references, shared_);
    }
    struct stat status;
    if (fstat(fd, &status) != 0) return std::nullopt;
    return AllocatedBytes(status);
  }

  const std::string path_;
  const Mode mode_;
  Moment moment_;
  UniqueFd reading_;
  std::string directory_;
  punch::FilesystemFacts filesystem_;
  DiskFacts facts_;
  std::vector<Range> allocated_, shared_;
  absl::StatusOr<BtrfsView> unpunched_;  // on btrfs, before the first hole
  std::optional<ImageGuard> guard_;
  std::unique_ptr<punch::HoleMaker> holes_;  // uses the guard
  std::optional<uint64_t> allocation_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<OpenedDisk>> OpenFileDisk(const std::string& path, Mode mode) {
  auto disk = std::make_unique<FileDisk>(path, mode);
  VR_RETURN_IF_ERROR(disk->Open());
  return disk;
}

}  // namespace virt_reclaim::sparsify
