#include "host/punch/punch.h"

#include <fcntl.h>
#include <linux/ioprio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/io.h"
#include "base/status.h"
#include "host/guard/image_guard.h"
#include "host/guard/image_identity.h"
#include "host/punch/btrfs_release.h"
#include "host/punch/holes.h"
#include "host/punch/pacer.h"
#include "host/punch/qcow2_clusters.h"
#include "host/punch/survey.h"
#include "host/punch/window_pipeline.h"

namespace virt_reclaim::punch {
namespace {

using std::chrono::steady_clock;

absl::StatusOr<struct stat> StatOf(int fd) {
  struct stat status;
  if (fstat(fd, &status) != 0) return ErrnoStatus(errno, "stat");
  return status;
}

// What is cached is scanned faster than threads could share it out.
int ThreadsFor(int fd, ColdRead cold, const PunchPlan& plan, const PunchOptions& options) {
  if (cold == ColdRead::kBuffered || options.max_bytes_per_second != 0) return 0;
  if (plan.read.windows.size() < 2) return 0;
  // Judged by a part: without cachestat(2) the whole would have to be mapped.
  uint64_t cached = 0;
  uint64_t data = 0;
  for (size_t i = 0; i < std::min<size_t>(4, plan.read.windows.size()); ++i) {
    cached += ImageReader::CachedBytes(fd, plan.read.windows[i].range);
    data += plan.read.windows[i].data_bytes;
  }
  return cached >= data / 2 ? 0 : kColdThreads;
}

// What the three ways share: reads window after window and hands each zero run that is long enough
// to `holes`, or only counts them.
class Walk {
 public:
  Walk(const PunchPlan& plan, const PunchOptions& options, const SteadyClock& clock,
       const ProgressCallback& progress, const std::stop_token& stop)
      : plan_(plan),
        options_(options),
        clock_(clock),
        progress_(progress),
        stop_(stop),
        last_sure_(clock()),
        shared_(plan.read.shared) {}

  // When the guard last said that nobody wants the image.
  steady_clock::time_point last_sure() const { return last_sure_; }

  // `guard` is asked between windows where there is one. The result is partial when this fails.
  absl::Status Go(int fd, ColdRead cold, HoleMaker* holes, const ImageGuard* guard,
                  PunchResult& result) {
    RunJoiner joiner(options_.min_hole_bytes, plan_.filesystem.unit_bytes);
    WindowPipeline pipeline(fd, cold, plan_.filesystem.unit_bytes, plan_.read.windows,
                            ThreadsFor(fd, cold, plan_, options_));
    Pacer pacer(clock_, options_.max_bytes_per_second);
    for (const Window& window : plan_.read.windows) {
      const steady_clock::time_point now = clock_();
      if (guard != nullptr && guard->Interrupted()) result.interrupted = true;
      if (!result.interrupted) last_sure_ = now;
      if (stop_.stop_requested()) result.cancelled = true;
      if (result.interrupted || result.cancelled) return absl::OkStatus();
      VR_ASSIGN_OR_RETURN(const std::vector<Range> zeros, pipeline.Next());
      result.read_bytes += window.data_bytes;
      VR_RETURN_IF_ERROR(MakeAll(joiner.Add(zeros, window.range.end), holes, result));
      pipeline.Done();
      progress_({result.read_bytes, plan_.read.read_bytes, result.punched_bytes});
      pacer.Wait(result.read_bytes, stop_,
                 [&] { return guard != nullptr && guard->Interrupted(); });
    }
    return MakeAll(joiner.Finish(), holes, result);
  }

 private:
  absl::Status MakeAll(const std::vector<Range>& runs, HoleMaker* holes, PunchResult& result) {
    if (holes != nullptr) holes->Expect(runs);
    for (const Range& run : runs) {
      if (result.interrupted || result.cancelled) break;
      result.zero_bytes += run.size();
      result.shared_bytes += shared_.With(run);
      if (holes == nullptr) continue;
      const auto made = holes->Make(run);
      if (absl::IsAborted(made.status())) {
        result.interrupted = true;
      } else if (!made.ok()) {
        return Annotate(made.status(), absl::StrCat("at ", run.begin));
      } else {
        result.punched_bytes += *made;
        ++result.holes;
      }
      if (stop_.stop_requested()) result.cancelled = true;
    }
    return absl::OkStatus();
  }

  const PunchPlan& plan_;
  const PunchOptions& options_;
  const SteadyClock& clock_;
  const ProgressCallback& progress_;
  const std::stop_token& stop_;
  steady_clock::time_point last_sure_;
  Overlap shared_;
};

// Half of what the kernel grants us once somebody waits for the file.
std::chrono::seconds HalfOfLeaseBreakTime() {
  int seconds = 0;
  const auto text = ReadFile("/proc/sys/fs/lease-break-time", 64);
  if (!text.ok() || !absl::SimpleAtoi(*text, &seconds)) seconds = 0;
  return std::chrono::seconds(seconds / 2);
}

struct BtrfsView {
  std::vector<ExtentReference> references;
  std::vector<Range> shared;
};

absl::StatusOr<BtrfsView> ReadBtrfs(int fd, uint64_t size) {
  BtrfsView view;
  VR_ASSIGN_OR_RETURN(const std::vector<Extent> extents, ReadDataMap(fd, size));
  for (const Extent& extent : extents) {
    if (extent.shared) AppendJoined(view.shared, extent.range);
  }
  VR_ASSIGN_OR_RETURN(view.references, ReadExtentReferences(fd));
  return view;
}

absl::Status ReleaseBtrfs(int fd, const PunchPlan& plan, Pacer& pacer,
                          const ProgressCallback& progress, const std::stop_token& stop,
                          PunchResult& result) {
  const auto view = ReadBtrfs(fd, plan.size_bytes);
  if (!view.ok()) return view.status();
  const ReleasePlan release = PlanRelease(view->references, view->shared);
  const auto moved = MoveRanges(
      fd, plan.directory, release.move, plan.size_bytes, pacer,
      [&](uint64_t) {
        progress({plan.read.read_bytes, plan.read.read_bytes, result.punched_bytes});
      },
      stop);
  if (!moved.ok()) return moved.status();
  result.moved_bytes = *moved;
  if (stop.stop_requested()) result.cancelled = true;
  if (*moved < release.move_bytes && !result.cancelled)
    return absl::ResourceExhaustedError("no room for the copies, or somebody wrote meanwhile");
  return absl::OkStatus();
}

}  // namespace

Puncher::Puncher(PunchOptions options, SteadyClock clock)
    : options_(options), clock_(std::move(clock)) {}

absl::StatusOr<PunchPlan> Puncher::Plan(const std::string& path) {
  PunchPlan plan;
  plan.path = path;
  struct stat status;
  if (stat(path.c_str(), &status) != 0) return ErrnoStatus(errno, "stat " + Quoted(path));
  const bool device = S_ISBLK(status.st_mode);
  if (!device && !S_ISREG(status.st_mode)) {
    return absl::FailedPreconditionError(Quoted(path) +
                                         " is neither a regular file nor a block device");
  }
  // First of all, and before it is opened: reading an image in use is of no use, and opening one
  // that another virt-reclaim works on would interrupt that one.
  if (!options_.live) {
    GuardOptions asking;
    asking.direct = true;
    VR_RETURN_IF_ERROR(CheckUnused(path, asking));
  } else if (HasLease(path, IdentityOf(status))) {
    return absl::AbortedError(Quoted(path) + " is in use: somebody holds a lease on it");
  }
  VR_ASSIGN_OR_RETURN(const OpenedImage image, OpenForReading(path, true));
  const int fd = image.fd.get();
  VR_ASSIGN_OR_RETURN(status, StatOf(fd));
  plan.identity = IdentityOf(status);
  std::vector<Extent> extents;
  if (device) {
    plan.way = Way::kDevice;
    if (options_.live)
      return absl::FailedPreconditionError(Quoted(path) +
                                           " is a block device: "
                                           "it cannot be punched while in use");
    const auto facts = ReadDeviceFacts(fd);
    if (!facts.ok()) return Annotate(facts.status(), Quoted(path));
    plan.size_bytes = facts->size_bytes;
    plan.filesystem.unit_bytes = facts->unit_bytes;
    if (plan.size_bytes > 0) extents.push_back({{0, plan.size_bytes}, ExtentKind::kData, false});
  } else {
    plan.size_bytes = plan.identity.size_bytes;
    VR_ASSIGN_OR_RETURN(plan.directory, RealDirectory(path));
    auto known = filesystems_.find(status.st_dev);
    if (known == filesystems_.end()) {
      auto facts = ProbeFilesystem(fd, plan.directory);
      if (!facts.ok()) return Annotate(facts.status(), Quoted(path));
      known = filesystems_.emplace(status.st_dev, *facts).first;
    }
    plan.filesystem = known->second;
    struct statvfs filesystem;
    if (fstatvfs(fd, &filesystem) == 0 && (filesystem.f_flag & ST_RDONLY) != 0)
      return absl::FailedPreconditionError(Quoted(path) + ": its filesystem is mounted read-only");
    if (plan.filesystem.punches == Ability::kNo)
      return absl::UnimplementedError(Quoted(path) + ": its filesystem cannot punch holes");
    plan.way = plan.filesystem.atomic == Ability::kYes ? Way::kAtomic : Way::kPlain;
    if (options_.way) plan.way = *options_.way;
    if (options_.live && plan.way != Way::kAtomic) {
      return absl::FailedPreconditionError(
          Quoted(path) + ": only XFS with reflink and btrfs can punch an image in use");
    }
    if (const absl::Status swap = RefuseSwapFile(fd); !swap.ok())
      return Annotate(swap, Quoted(path));
    auto map = ReadDataMap(fd, plan.size_bytes);
    if (!map.ok()) return Annotate(map.status(), Quoted(path));
    extents = *std::move(map);
  }
  plan.read = MakeReadPlan(extents, plan.size_bytes, plan.filesystem.unit_bytes, options_.unwritten,
                           FindCompressedClusters(fd, plan.size_bytes));
  return plan;
}

absl::StatusOr<PunchResult> Puncher::Measure(const PunchPlan& plan,
                                             const ProgressCallback& progress,
                                             const std::stop_token& stop) {
  if (HasLease(plan.path, plan.identity))
    return absl::AbortedError(Quoted(plan.path) + " is in use: somebody holds a lease on it");
  VR_ASSIGN_OR_RETURN(const OpenedImage image, OpenForReading(plan.path, true));
  PunchResult result;
  Walk walk(plan, options_, clock_, progress, stop);
  const absl::Status walked =
      walk.Go(image.fd.get(), image.direct ? ColdRead::kDirect : ColdRead::kBuffered, nullptr,
              nullptr, result);
  if (!walked.ok()) return Annotate(walked, Quoted(plan.path));
  return result;
}

absl::StatusOr<PunchResult> Puncher::Punch(const PunchPlan& plan, const ProgressCallback& progress,
                                           const std::stop_token& stop) {
  if (stop.stop_requested()) {
    PunchResult result;
    result.cancelled = true;
    return result;
  }
  auto result = plan.way == Way::kAtomic ? PunchAtomically(plan, progress, stop)
                                         : PunchGuarded(plan, progress, stop);
  const absl::Status status = result.status();
  // The guard's and the identity's messages name the file.
  if (status.ok() || absl::IsAborted(status) || absl::IsFailedPrecondition(status)) return result;
  return Annotate(status, Quoted(plan.path));
}

absl::StatusOr<PunchResult> Puncher::PunchGuarded(const PunchPlan& plan,
                                                  const ProgressCallback& progress,
                                                  const std::stop_token& stop) {
  PunchResult result;
  GuardOptions wanted;
  wanted.direct = true;
  VR_ASSIGN_OR_RETURN(const ImageGuard guard, ImageGuard::Acquire(plan.path, wanted));
  VR_RETURN_IF_ERROR(CheckIdentity(plan.identity, guard.identity(), plan.path));
  VR_ASSIGN_OR_RETURN(const struct stat before, StatOf(guard.fd()));
  if (!guard.is_device() && plan.filesystem.punches != Ability::kYes)
    VR_RETURN_IF_ERROR(TryPlainHoles(guard, plan.size_bytes, plan.filesystem.unit_bytes));
  const auto holes = MakePlainHoles(guard, plan.size_bytes, plan.filesystem.unit_bytes);
  Walk walk(plan, options_, clock_, progress, stop);
  const absl::Status walked =
      walk.Go(guard.fd(), guard.direct() ? ColdRead::kDirect : ColdRead::kBuffered, holes.get(),
              &guard, result);
  if (guard.is_device()) {
    result.mtime_kept = false;
    if (walked.ok() && fdatasync(guard.fd()) != 0) return ErrnoStatus(errno, "sync");
    VR_RETURN_IF_ERROR(walked);
    return result;
  }
  VR_ASSIGN_OR_RETURN(const struct stat after, StatOf(guard.fd()));
  const uint64_t had = AllocatedBytes(before);
  const uint64_t gone = had - std::min(had, AllocatedBytes(after));
  result.freed_bytes = gone - std::min(gone, result.shared_bytes);
  if (plan.filesystem.btrfs) result.freed_bytes.reset();
  result.mtime_kept = options_.keep_mtime;
  if (options_.keep_mtime) {
    // Under the lease nobody has written, so the old time is true. Not when somebody wants the file
    // and we may have slept so long that the kernel let him.
    const struct timespec times[] = {{.tv_sec = 0, .tv_nsec = UTIME_OMIT}, before.st_mtim};
    const bool ours = !guard.Interrupted() || clock_() - walk.last_sure() < HalfOfLeaseBreakTime();
    result.mtime_kept = ours && futimens(guard.fd(), times) == 0;
  }
  VR_RETURN_IF_ERROR(walked);
  return result;
}

absl::StatusOr<PunchResult> Puncher::PunchAtomically(const PunchPlan& plan,
                                                     const ProgressCallback& progress,
                                                     const std::stop_token& stop) {
  // Asked only: nothing is held while the kernel compares, and a domain that starts meanwhile
  // neither waits nor fails.
  if (!options_.live) {
    VR_RETURN_IF_ERROR(CheckUnused(plan.path, {}));
  } else if (HasLease(plan.path, plan.identity)) {
    return absl::AbortedError(Quoted(plan.path) + " is in use: somebody holds a lease on it");
  }
  VR_ASSIGN_OR_RETURN(const OpenedImage image, OpenForReading(plan.path, false));
  const int fd = image.fd.get();
  VR_ASSIGN_OR_RETURN(const struct stat before, StatOf(fd));
  ImageIdentity found = IdentityOf(before);
  if (options_.live) found.mtime_ns = plan.identity.mtime_ns;  // a guest writes
  VR_RETURN_IF_ERROR(CheckIdentity(plan.identity, found, plan.path));

  PunchResult result;
  std::optional<uint64_t> own;
  if (plan.filesystem.btrfs) {
    if (const auto view = ReadBtrfs(fd, plan.size_bytes); view.ok())
      own = OwnBytes(view->references, view->shared);
  }
  VR_ASSIGN_OR_RETURN(
      const std::unique_ptr<HoleMaker> holes,
      MakeAtomicHoles(fd, plan.directory, plan.size_bytes, plan.filesystem.unit_bytes));
  Walk walk(plan, options_, clock_, progress, stop);
  // btrfs reads into the cache what others read around it: an image of which nothing was there
  // leaves nothing there.
  const bool cold = std::all_of(
      plan.read.windows.begin(), plan.read.windows.end(),
      [&](const Window& window) { return ImageReader::CachedBytes(fd, window.range) == 0; });
  const auto drop = absl::MakeCleanup([&] {
    if (cold) posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  });
  // Read around the cache, compared in it: the cache sees the zeros only.
  VR_ASSIGN_OR_RETURN(const OpenedImage reading, OpenForReading(plan.path, true));
  VR_ASSIGN_OR_RETURN(const struct stat same, StatOf(reading.fd.get()));
  if (!SameFile(IdentityOf(same), IdentityOf(before)))
    return absl::FailedPreconditionError(Quoted(plan.path) + " was replaced by another file");
  VR_RETURN_IF_ERROR(walk.Go(reading.fd.get(),
                             reading.direct ? ColdRead::kDirect : ColdRead::kBuffered, holes.get(),
                             nullptr, result));
  if (plan.filesystem.btrfs) {
    if (options_.release && !result.cancelled) {
      Pacer pacer(clock_, options_.max_bytes_per_second);
      result.release = ReleaseBtrfs(fd, plan, pacer, progress, stop, result);
    }
    if (const auto view = ReadBtrfs(fd, plan.size_bytes); own && view.ok())
      result.freed_bytes = *own - std::min(*own, OwnBytes(view->references, view->shared));
    return result;
  }
  VR_ASSIGN_OR_RETURN(const struct stat after, StatOf(fd));
  const uint64_t had = AllocatedBytes(before);
  const uint64_t gone = had - std::min(had, AllocatedBytes(after));
  result.freed_bytes = gone - std::min(gone, result.shared_bytes);
  return result;
}

absl::Status UseIdleIoPriority() {
  constexpr int kThisThread = 0;
  const int idle = IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0);
  if (syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, kThisThread, idle) != 0)
    return ErrnoStatus(errno, "ioprio_set");
  return absl::OkStatus();
}

}  // namespace virt_reclaim::punch
