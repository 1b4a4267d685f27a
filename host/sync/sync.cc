#include "host/sync/sync.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "host/guard/image_guard.h"
#include "host/punch/data_map.h"
#include "host/punch/image_reader.h"
#include "host/punch/survey.h"
#include "host/sync/copier.h"
#include "host/sync/device_signature.h"
#include "host/sync/format_source.h"
#include "host/sync/same_extents.h"
#include "host/sync/unfinished_mark.h"

namespace virt_reclaim::sync {
namespace {

// Size of the file or device `path`, from its open descriptor.
absl::StatusOr<uint64_t> BytesOf(const ImageIdentity& identity, int fd) {
  if (identity.block_device != 0) return DeviceBytes(fd);
  return identity.size_bytes;
}

absl::StatusOr<uint64_t> SourceBytes(const std::string& path) {
  VR_ASSIGN_OR_RETURN(const punch::OpenedImage image, punch::OpenForReading(path, false));
  return DeviceBytes(image.fd.get());
}

absl::Status CheckDevice(const std::string& path, uint64_t source_bytes, bool overwrite) {
  VR_ASSIGN_OR_RETURN(const punch::OpenedImage image, punch::OpenForReading(path, false));
  VR_ASSIGN_OR_RETURN(const uint64_t bytes, DeviceBytes(image.fd.get()));
  if (bytes < source_bytes) {
    return absl::FailedPreconditionError(absl::StrCat(Quoted(path), " is too small: it has ", bytes,
                                                      " bytes, the source ", source_bytes));
  }
  if (overwrite) return absl::OkStatus();
  const auto signature = DeviceSignature(image.fd.get());
  if (!signature.ok()) return Annotate(signature.status(), Quoted(path));
  if (signature->empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(Quoted(path), " looks like it is used (",
                                                    Printable(*signature),
                                                    "): --overwrite-device overwrites it"));
}

// A time stamp is as coarse as the kernel's tick, and where it has no fraction it may be as coarse
// as FAT's, two seconds. Who writes a file within the same tick as it was last written before would
// not be noticed by the next quick check: so that tick must be over before we let go. `hurry`:
// somebody waits.
void LetTheTickPass(int64_t mtime_ns, const std::function<bool()>& hurry) {
  constexpr int64_t kSecond = 1'000'000'000;
  constexpr int64_t kCoarsest = 2 * kSecond;
  constexpr struct timespec kTick = {.tv_sec = 0, .tv_nsec = 1'000'000};
  const int64_t last = mtime_ns + (mtime_ns % kSecond == 0 ? kCoarsest - 1 : 0);
  struct timespec now;
  while (!hurry() && clock_gettime(CLOCK_REALTIME_COARSE, &now) == 0) {
    const int64_t time = now.tv_sec * kSecond + now.tv_nsec;
    // A time far in the future is nobody's who writes now.
    if (time > last || time + kCoarsest < mtime_ns) return;
    nanosleep(&kTick, nullptr);
  }
}

// What stopped it, as flags of the result; other errors stay.
absl::Status Sort(const absl::Status& status, bool source_interrupted, SyncResult& result) {
  if (absl::IsCancelled(status)) {
    result.cancelled = true;
  } else if (absl::IsAborted(status)) {
    (source_interrupted ? result.source_changed : result.interrupted) = true;
  } else {
    return status;
  }
  return absl::OkStatus();
}

bool Stopped(const SyncResult& result) {
  return result.cancelled || result.interrupted || result.source_changed;
}

void Count(const CopierCounts& counts, const StepPlan& steps, SyncResult& result) {
  result.read_bytes = counts.read_bytes;
  result.compared_bytes = counts.compared_bytes;
  result.different_bytes = counts.different_bytes;
  result.zeroed_bytes = counts.zeroed_bytes;
  result.same_bytes = steps.same_bytes;
}

// Memory is read by the processors, a disk by as many as it has requests for. Judged by the first
// windows.
size_t ThreadsFor(int fd, const StepPlan& steps) {
  constexpr size_t kLooked = 4;
  if (fd < 0) return kThreads;
  uint64_t cached = 0;
  uint64_t data = 0;
  for (size_t i = 0; i < std::min(kLooked, steps.windows.size()); ++i) {
    for (const Step& step : steps.windows[i].steps) {
      if (step.kind == StepKind::kZero) continue;
      cached += punch::ImageReader::CachedBytes(fd, step.range);
      data += step.range.size();
    }
  }
  if (cached < data / 2) return kColdFileThreads;
  return std::clamp<size_t>(std::thread::hardware_concurrency(), 1, kThreads);
}

// Where the copy has data: `fd` -1 when there is none yet.
absl::StatusOr<std::vector<Range>> DataOfCopy(int fd, bool device, uint64_t copy_bytes,
                                              uint64_t source_bytes) {
  std::vector<Range> data;
  if (fd < 0) return data;
  // Of a copy that ends within a block that block is not there as a whole.
  if (copy_bytes < source_bytes) copy_bytes = RoundDown(copy_bytes, kBlockBytes);
  if (!device) return punch::ReadDataRanges(fd, copy_bytes);
  AppendJoined(data, {0, source_bytes});
  return data;
}

// A file of /proc says that it has no bytes, and gives some.
bool HasMoreThanItSays(const std::string& path, const struct stat& status) {
  if (!S_ISREG(status.st_mode) || status.st_size != 0) return false;
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  char byte = 0;
  return fd.valid() && read(fd.get(), &byte, 1) == 1;
}

}  // namespace

absl::StatusOr<DestinationPlan> Syncer::PlanDestination(const std::string& path,
                                                        uint64_t source_bytes) {
  DestinationPlan plan;
  plan.path = path;
  plan.atomic = options_.atomic;
  struct stat status;
  if (stat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return plan;
    return ErrnoStatus(errno, "stat " + Quoted(path));
  }
  if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode)) {
    return absl::FailedPreconditionError(Quoted(path) +
                                         " is neither a regular file nor a block device");
  }
  GuardOptions asking;
  asking.intent = ImageIntent::kResize;
  VR_RETURN_IF_ERROR(CheckUnused(path, asking));
  plan.identity = IdentityOf(status);
  if (S_ISBLK(status.st_mode)) {
    if (options_.atomic)
      return absl::FailedPreconditionError(Quoted(path) + " is a block device: not atomic");
    VR_RETURN_IF_ERROR(CheckDevice(path, source_bytes, options_.overwrite_device));
  }
  return plan;
}

absl::StatusOr<std::unique_ptr<Source>> Syncer::OpenSource(const std::string& path,
                                                           const ImageIdentity& planned) const {
  if (options_.format.empty()) return OpenFileSource(path, planned);
  return OpenFormatSource(path, options_.format, planned);
}

absl::StatusOr<SyncPlan> Syncer::Plan(const std::string& source, const std::string& destination) {
  SyncPlan plan;
  plan.source = source;
  plan.destination.path = destination;
  plan.destination.atomic = options_.atomic;
  struct stat from;
  struct stat to = {};
  if (stat(source.c_str(), &from) != 0) return ErrnoStatus(errno, "stat " + Quoted(source));
  if (!S_ISREG(from.st_mode) && !S_ISBLK(from.st_mode)) {
    return absl::FailedPreconditionError(Quoted(source) +
                                         " is neither a regular file nor a block device");
  }
  if (S_ISREG(from.st_mode) && IsUnfinished(source)) {
    return absl::FailedPreconditionError(
        Quoted(source) + " is itself a copy that sync has not finished: sync it first");
  }
  plan.source_identity = IdentityOf(from);
  // How long the content of another format is only its own reader knows.
  uint64_t bytes = plan.source_identity.size_bytes;
  if (!options_.format.empty()) {
    VR_ASSIGN_OR_RETURN(const auto content, OpenSource(source, plan.source_identity));
    bytes = content->size_bytes();
  }
  const bool there = stat(destination.c_str(), &to) == 0;
  if (there) {
    const ImageIdentity identity = IdentityOf(to);
    if (SameImage(identity, plan.source_identity)) {
      return absl::FailedPreconditionError(
          absl::StrCat(Quoted(source), " and ", Quoted(destination), " are the same file"));
    }
    plan.unfinished = S_ISREG(to.st_mode) && IsUnfinished(destination);
    plan.unchanged = S_ISREG(from.st_mode) && S_ISREG(to.st_mode) && !options_.compare &&
                     !plan.unfinished && identity.size_bytes == bytes &&
                     identity.mtime_ns == plan.source_identity.mtime_ns;
    plan.destination.identity = identity;
  }
  if (plan.unchanged) return plan;
  GuardOptions asking;
  asking.intent = ImageIntent::kRead;
  asking.reading = true;
  VR_RETURN_IF_ERROR(CheckUnused(source, asking));
  // Not before: to open what another virt-reclaim works on would interrupt that one.
  if (HasMoreThanItSays(source, from)) {
    return absl::FailedPreconditionError(
        Quoted(source) + " is no image: the kernel makes up what is in it as it is read");
  }
  if (plan.source_identity.block_device != 0 && options_.format.empty()) {
    VR_ASSIGN_OR_RETURN(bytes, SourceBytes(source));
  }
  VR_ASSIGN_OR_RETURN(plan.destination, PlanDestination(destination, bytes));
  return plan;
}

absl::StatusOr<SyncResult> Syncer::Measure(const SyncPlan& plan, const ProgressCallback& progress,
                                           const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const std::unique_ptr<Source> source,
                      OpenSource(plan.source, plan.source_identity));
  return MeasureFrom(*source, plan.destination, nullptr, progress, stop);
}

absl::StatusOr<SyncResult> Syncer::MeasureFrom(Source& source, const DestinationPlan& plan,
                                               const std::vector<Range>* only,
                                               const ProgressCallback& progress,
                                               const std::stop_token& stop) {
  SyncResult result;
  result.size_bytes = source.size_bytes();
  UniqueFd copy;
  uint64_t copy_bytes = 0;
  const bool device = plan.identity && plan.identity->block_device != 0;
  if (plan.identity) {
    VR_ASSIGN_OR_RETURN(punch::OpenedImage image, punch::OpenForReading(plan.path, true));
    copy = std::move(image.fd);
    VR_ASSIGN_OR_RETURN(copy_bytes, BytesOf(*plan.identity, copy.get()));
  }
  VR_ASSIGN_OR_RETURN(const std::vector<Range> from, source.Data());
  VR_ASSIGN_OR_RETURN(const std::vector<Range> to,
                      DataOfCopy(copy.get(), device, copy_bytes, result.size_bytes));
  std::vector<Range> same;
  if (options_.reflink && source.file() >= 0 && copy.valid())
    same = SameExtents(source.file(), copy.get(), result.size_bytes);
  const StepPlan steps = MakeSteps({.size_bytes = result.size_bytes,
                                    .source = from,
                                    .destination = to,
                                    .same = same,
                                    .only = only});
  CopierOptions how;
  how.look_below_holes = device;
  how.threads = ThreadsFor(source.file(), steps);
  how.max_bytes_per_second = options_.max_bytes_per_second;
  Copier copier(source, nullptr, copy.get(), Quoted(plan.path), how, clock_);
  const absl::Status status = copier.Run(
      steps,
      [&](uint64_t done) {
        progress({done, steps.read_bytes + steps.zero_bytes});
      },
      stop);
  Count(copier.counts(), steps, result);
  VR_RETURN_IF_ERROR(Sort(status, copier.source_interrupted(), result));
  result.complete = !Stopped(result);
  return result;
}

absl::StatusOr<SyncResult> Syncer::Sync(const SyncPlan& plan, const ProgressCallback& progress,
                                        const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const std::unique_ptr<Source> source,
                      OpenSource(plan.source, plan.source_identity));
  return SyncFrom(*source, plan.destination, nullptr, progress, stop);
}

absl::StatusOr<SyncResult> Syncer::SyncFrom(Source& source, const DestinationPlan& plan,
                                            const std::vector<Range>* only,
                                            const ProgressCallback& progress,
                                            const std::stop_token& stop) {
  SyncResult result;
  result.size_bytes = source.size_bytes();
  if (stop.stop_requested()) {
    result.cancelled = true;
    return result;
  }
  VR_ASSIGN_OR_RETURN(const std::unique_ptr<Destination> destination, Destination::Open(plan));
  const absl::Status copied = Copy(source, *destination, only, progress, stop, result);
  const Changes changes = destination->changes();
  result.written_bytes = changes.written_bytes;
  result.cloned_bytes = changes.cloned_bytes;
  result.punched_bytes = changes.punched_bytes;
  result.changed = destination->changed();
  VR_RETURN_IF_ERROR(copied);
  if (Stopped(result)) return result;
  const auto hurry = [&] {
    return stop.stop_requested() || source.Interrupted() || destination->Interrupted();
  };
  if (source.mtime_ns()) LetTheTickPass(*source.mtime_ns(), hurry);
  if (source.Interrupted() || !source.CheckUnchanged().ok()) {
    result.source_changed = true;
    return result;
  }
  VR_RETURN_IF_ERROR(Sort(destination->Commit(source.mtime_ns(), source.file()), false, result));
  result.complete = !Stopped(result);
  if (!result.complete || destination->is_device()) return result;
  struct stat status;
  if (fstat(destination->fd(), &status) != 0)
    return ErrnoStatus(errno, "stat " + Quoted(plan.path));
  result.copy_mtime_ns = IdentityOf(status).mtime_ns;
  if (!source.mtime_ns()) LetTheTickPass(*result.copy_mtime_ns, hurry);
  return result;
}

absl::Status Syncer::Copy(Source& source, Destination& destination, const std::vector<Range>* only,
                          const ProgressCallback& progress, const std::stop_token& stop,
                          SyncResult& result) {
  VR_ASSIGN_OR_RETURN(const std::vector<Range> from, source.Data());
  VR_RETURN_IF_ERROR(Sort(destination.Resize(result.size_bytes), false, result));
  if (Stopped(result)) return absl::OkStatus();
  // While the maps and the first windows are read.
  const std::jthread early([&] { destination.MarkEarly(source.mtime_ns()); });
  VR_ASSIGN_OR_RETURN(
      const std::vector<Range> to,
      DataOfCopy(destination.fd(), destination.is_device(), result.size_bytes, result.size_bytes));
  const bool near = options_.reflink && source.file() >= 0 && !destination.is_device() &&
                    OnSameDisk(source.file(), destination.fd());
  std::vector<Range> same;
  // To verify is to have read all of it.
  if (near && !options_.verify)
    same = SameExtents(source.file(), destination.fd(), result.size_bytes);
  const StepPlan steps = MakeSteps({.size_bytes = result.size_bytes,
                                    .source = from,
                                    .destination = to,
                                    .same = same,
                                    .only = options_.verify ? nullptr : only});
  CopierOptions how;
  how.unit_bytes = destination.unit_bytes();
  how.look_below_holes = destination.is_device() || !destination.punches();
  how.clone = near;
  how.threads = ThreadsFor(source.file(), steps);
  // Over a hole of a copy that is there the source's data may be zeroes, too.
  how.clone_unread = near && !options_.verify && destination.is_new();
  how.digest = options_.verify;
  how.max_bytes_per_second = options_.max_bytes_per_second;
  if (steps.compare_bytes == 0 && !how.look_below_holes) destination.WriteBehind();
  Copier copier(source, &destination, destination.fd(), destination.name(), how, clock_);
  const absl::Status status = copier.Run(
      steps,
      [&](uint64_t done) {
        progress({done, steps.read_bytes + steps.zero_bytes});
      },
      stop);
  Count(copier.counts(), steps, result);
  VR_RETURN_IF_ERROR(Sort(status, copier.source_interrupted(), result));
  if (Stopped(result)) return absl::OkStatus();
  VR_RETURN_IF_ERROR(Sort(destination.Settle(), false, result));
  if (Stopped(result) || !options_.verify) return absl::OkStatus();
  punch::Pacer pacer(clock_, options_.max_bytes_per_second);
  const auto read = ReadBack(
      destination.fd(), destination.is_device(), result.size_bytes, destination.name(),
      copier.digests(), pacer, [&] { return source.Interrupted() || destination.Interrupted(); },
      stop);
  VR_RETURN_IF_ERROR(Sort(read.status(), source.Interrupted(), result));
  if (Stopped(result)) return absl::OkStatus();
  result.verified_bytes = *read;
  result.digest = DigestOf(copier.digests());
  return absl::OkStatus();
}

}  // namespace virt_reclaim::sync
