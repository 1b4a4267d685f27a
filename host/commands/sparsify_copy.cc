#include "host/commands/sparsify_copy.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/escape.h"
#include "base/io.h"
#include "base/status.h"
#include "host/commands/domain_turn.h"
#include "host/commands/image_users.h"
#include "host/guard/image_guard.h"
#include "host/guard/image_identity.h"
#include "host/model/reason.h"
#include "host/sparsify/image_form.h"

namespace virt_reclaim {
namespace {

// How late it is noticed that somebody wants to write the source, who waits until then.
constexpr std::chrono::milliseconds kLookEvery{100};

absl::StatusOr<std::string> Absolute(const std::string& path) {
  std::error_code error;
  std::string absolute = std::filesystem::absolute(path, error).string();
  if (error) return ErrnoStatus(error.value(), absl::StrCat("resolve ", Quoted(path)));
  return absolute;
}

absl::Status CheckOff(const Services& services, const std::vector<DomainSummary>& users) {
  for (const DomainSummary& user : users) {
    if (const auto blocker = NotOff(services, user))
      return absl::AbortedError(absl::StrCat(Sentence(blocker->reason), ": ", blocker->detail));
  }
  return absl::OkStatus();
}

GuardOptions Reading() {
  GuardOptions options;
  options.intent = ImageIntent::kRead;
  options.reading = true;
  return options;
}

// Nobody writes the source while this lives: a lease says so, and says when somebody wants to. Then
// all work is asked to stop.
class SourceWatch {
 public:
  SourceWatch(const std::string& path, const std::stop_token& stop)
      : path_(path), forward_(stop, Forward{this}) {}

  absl::Status Begin() {
    auto guard = ImageGuard::Acquire(path_, Reading());
    if (guard.ok()) {
      guard_.emplace(*std::move(guard));
      watcher_ = std::jthread([this](const std::stop_token& done) { Watch(done); });
      return absl::OkStatus();
    }
    // No leases there, or not for us: QEMU's locks are all there is to ask.
    if (!absl::IsFailedPrecondition(guard.status()) && !absl::IsPermissionDenied(guard.status()))
      return guard.status();
    const UniqueFd fd(open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (!fd.valid()) return ErrnoStatus(errno, "open " + Quoted(path_));
    return Annotate(CheckImageLocks(fd.get(), ImageIntent::kRead), Quoted(path_));
  }

  std::stop_token token() const { return stop_.get_token(); }

  // What ended it, rather than that it was stopped.
  absl::Status Explain(const absl::Status& status) const {
    if (!wanted_) return status;
    return absl::AbortedError(
        Quoted(path_) + " is wanted by somebody who would write to it: the copy was given up");
  }

 private:
  struct Forward {
    SourceWatch* watch;
    void operator()() const { watch->stop_.request_stop(); }
  };

  void Watch(const std::stop_token& done) {
    while (!done.stop_requested()) {
      if (guard_->Interrupted()) {
        wanted_ = true;
        stop_.request_stop();
        return;
      }
      std::this_thread::sleep_for(kLookEvery);
    }
  }

  const std::string path_;
  std::stop_source stop_;
  std::stop_callback<Forward> forward_;
  std::atomic<bool> wanted_ = false;
  std::optional<ImageGuard> guard_;
  std::jthread watcher_;  // uses the guard
};

// What native leaves to libguestfs, done in the overlay.
absl::Status TrimOverlay(const Services& services, const SparsifyCopyOptions& options,
                         const std::string& overlay, const std::stop_token& stop,
                         SparsifiedCopy& made) {
  std::vector<ApplianceJob> jobs = ApplianceJobs(
      made.result,
      {options.choice, options.replay, options.engine.worker.read.strict, options.zero});
  std::erase_if(jobs, [&](const ApplianceJob& job) {
    return job.zero && !made.result.filesystems[job.filesystem].found.mapped;  // done already
  });
  if (options.estimate) {
    for (const ApplianceJob& job : jobs) made.appliance[job.filesystem] = absl::OkStatus();
    return absl::OkStatus();
  }
  if (jobs.empty()) return absl::OkStatus();
  VR_ASSIGN_OR_RETURN(made.appliance, RunApplianceJobs(services, {{"qcow2", overlay}}, jobs, stop));
  return absl::OkStatus();
}

class Copier {
 public:
  Copier(const Services& services, const SparsifyCopyOptions& options, const SparsifyCopyPlan& plan,
         const SparsifyCopyEvents& events)
      : services_(services), options_(options), plan_(plan), events_(events) {}

  absl::StatusOr<SparsifiedCopy> Do(const std::string& source, const std::stop_token& stop) {
    SparsifiedCopy made;
    VR_RETURN_IF_ERROR(Step(CopyStep::kOverlay, made));
    VR_ASSIGN_OR_RETURN(sparsify::Overlay overlay,
                        options_.prebuilt.empty()
                            ? sparsify::Overlay::Make(source, plan_.header.format,
                                                      options_.temporary_directory, stop)
                            : sparsify::Overlay::Use(options_.prebuilt, source, stop));
    VR_RETURN_IF_ERROR(overlay.TakeBitmaps(source, plan_.output.bitmaps, stop));
    VR_RETURN_IF_ERROR(Step(CopyStep::kExamine, made));
    sparsify::SparsifyOptions engine = options_.engine;
    engine.only_estimate = options_.estimate;
    engine.zero_whole = [&](const freemap::Filesystem& found) {
      return IsNamed(found, options_.zero);
    };
    VR_ASSIGN_OR_RETURN(made.result, services_.zero_free(overlay, engine, events_.progress, stop));
    VR_RETURN_IF_ERROR(TrimOverlay(services_, options_, overlay.path(), stop, made));
    VR_RETURN_IF_ERROR(Step(CopyStep::kExamined, made));
    // One that was saved meanwhile opened nothing.
    VR_RETURN_IF_ERROR(CheckOff(services_, plan_.users));
    if (options_.estimate) return made;
    VR_RETURN_IF_ERROR(Step(CopyStep::kConvert, made));
    VR_RETURN_IF_ERROR(overlay.Convert(plan_.output, stop));
    return made;
  }

 private:
  absl::Status Step(CopyStep step, const SparsifiedCopy& made) const {
    return events_.step ? events_.step(step, made) : absl::OkStatus();
  }

  const Services& services_;
  const SparsifyCopyOptions& options_;
  const SparsifyCopyPlan& plan_;
  const SparsifyCopyEvents& events_;
};

// A copy is like its source unless it is told how to be.
void KeepForm(const sparsify::ImageForm& form, SparsifyCopyPlan& plan) {
  sparsify::Overlay::Output& output = plan.output;
  plan.lost = form.lost;
  if (!form.some_compression.empty() && !output.compress)
    plan.lost.push_back(form.some_compression);
  if (output.format != "qcow2") {
    plan.lost.insert(plan.lost.end(), form.only_qcow2.begin(), form.only_qcow2.end());
    return;
  }
  if (output.options.empty()) output.options = absl::StrJoin(form.options, ",");
  const bool elsewhere = absl::StrContains(output.options, "data_file=");
  if (form.compressed && elsewhere) plan.lost.emplace_back("compression");
  output.compress = output.compress || (form.compressed && !elsewhere);
  const bool old = absl::StrContains(output.options, "compat=0.10") ||
                   absl::StrContains(output.options, "compat=v2");
  if (!old) output.bitmaps = form.bitmaps;
  if (old && !form.bitmaps.empty())
    plan.lost.emplace_back("bitmaps, which compat=0.10 does not have");
}

bool IsFile(const std::string& path, const struct stat& file) {
  struct stat status;
  return stat(path.c_str(), &status) == 0 && SameFile(IdentityOf(status), IdentityOf(file));
}

bool StandsAlone(const ImageHeader& header) {
  return header.format == "raw" ||
         (header.format == "qcow2" && !header.backing && !header.external_data);
}

// FailedPrecondition: the source stands on `replaced`, or may: a name that is no path ("json:...")
// is not followed, nor is what other formats say of other files.
absl::Status CheckNotBelow(const Services& services, const SparsifyCopyOptions& options,
                           const ImageHeader& source, const struct stat& replaced) {
  if (StandsAlone(source)) return absl::OkStatus();
  const absl::Status stands_on = absl::FailedPreconditionError(
      absl::StrCat(Quoted(options.output), " is what ", Quoted(options.source), " stands on"));
  const auto chain = services.images.Chain({"file", source.format, options.source}, {});
  bool known = chain.ok() && !chain->empty();
  for (const ImageFile& image : chain.ok() ? *chain : std::vector<ImageFile>()) {
    if (IsFile(image.path, replaced) || (image.data && IsFile(image.data->path, replaced)))
      return stands_on;
    known = known && (!image.external_data || image.data);
  }
  if (known) {
    const ImageFile& last = chain->back();
    const auto header = services.images.ReadHeader(last.path, last.format);
    // Its data file was looked at.
    known =
        header.ok() && !header->backing && (header->format == "raw" || header->format == "qcow2");
  }
  if (known) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("not known whether ", Quoted(options.source), " stands on ",
                   Quoted(options.output), ": remove that file first, or name another one"));
}

// A file that is replaced must be nobody's, and nothing that the source stands on: QEMU's locks on
// it would not be heard of, as it is not opened.
absl::Status CheckReplaced(const Services& services, const SparsifyCopyOptions& options,
                           const ImageHeader& source) {
  struct stat replaced;
  if (stat(options.output.c_str(), &replaced) != 0 || !S_ISREG(replaced.st_mode))
    return absl::OkStatus();
  GuardOptions asking;
  asking.intent = ImageIntent::kResize;
  const absl::Status unused = CheckUnused(options.output, asking);
  if (absl::IsAborted(unused)) return unused;
  return CheckNotBelow(services, options, source, replaced);
}

}  // namespace

absl::StatusOr<SparsifyCopyPlan> PlanSparsifyCopy(const Services& services,
                                                  const SparsifyCopyOptions& options,
                                                  const std::stop_token& stop) {
  if (!services.hypervisor.ImagesAreLocal()) {
    return absl::FailedPreconditionError(
        absl::StrCat("sparsify works on images of this machine, and '", services.hypervisor.Uri(),
                     "' is not of this machine"));
  }
  SparsifyCopyPlan plan;
  VR_ASSIGN_OR_RETURN(const ImageUsers users, ImageUsers::Find(services, stop));
  std::string format = options.source_format;
  for (const ImageUse& use : users.Of(options.source)) {
    if (use.depth > 0) continue;  // what others stand on is not written
    if (format.empty()) format = use.format;
    plan.users.push_back(use.domain);
  }
  VR_RETURN_IF_ERROR(CheckOff(services, plan.users));
  // Now, for the name of who has it: QEMU's own words do not tell.
  const absl::Status unused = CheckUnused(options.source, Reading());
  if (absl::IsAborted(unused)) return unused;
  VR_ASSIGN_OR_RETURN(plan.header, services.images.ReadHeader(options.source, format));
  VR_RETURN_IF_ERROR(CheckReplaced(services, options, plan.header));
  VR_ASSIGN_OR_RETURN(plan.output.path, Absolute(options.output));
  plan.output.format = options.output_format.empty() ? plan.header.format : options.output_format;
  plan.output.options = options.qemu_options;
  plan.output.compress = options.compress;
  if (plan.header.format == "qcow2") {
    VR_ASSIGN_OR_RETURN(const std::string source, Absolute(options.source));
    VR_ASSIGN_OR_RETURN(const sparsify::ImageForm form, sparsify::ReadImageForm(source, stop));
    KeepForm(form, plan);
  }
  // A mistake in these is said now, and not after hours of work.
  if (!options.output_format.empty() || !options.qemu_options.empty() || options.compress) {
    VR_RETURN_IF_ERROR(
        sparsify::Overlay::CheckOutput(plan.output, options.temporary_directory, stop));
  }
  return plan;
}

absl::StatusOr<SparsifiedCopy> ExecuteSparsifyCopy(const Services& services,
                                                   const SparsifyCopyOptions& options,
                                                   const SparsifyCopyPlan& plan,
                                                   const SparsifyCopyEvents& events,
                                                   const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const std::string source, Absolute(options.source));
  std::map<std::string, DomainLock> locks;  // a domain may have the image twice
  for (const DomainSummary& user : plan.users) {
    if (locks.count(user.uuid) > 0) continue;
    VR_ASSIGN_OR_RETURN(DomainLock lock,
                        LockDomain(services, user.uuid, DomainLock::Use::kWork, stop));
    locks.emplace(user.uuid, std::move(lock));
  }
  // Before it is opened: that would make another virt-reclaim stop, which has a lease on it.
  VR_ASSIGN_OR_RETURN(const DomainLock lock,
                      DomainLock::TakeImage(services.lock_directory, source));
  SourceWatch watch(source, stop);
  VR_RETURN_IF_ERROR(watch.Begin());
  VR_RETURN_IF_ERROR(CheckOff(services, plan.users));
  auto made = Copier(services, options, plan, events).Do(source, watch.token());
  if (!made.ok()) return watch.Explain(made.status());
  return made;
}

SparsifiedTarget SparsifyInto(const Services& services, const SparsifyCopyOptions& options,
                              const sparsify::ProgressCallback& progress,
                              const std::stop_token& stop) {
  SparsifiedTarget target;
  target.name = options.source;
  target.outcome.asked_for = true;
  const auto run = [&]() -> absl::Status {
    struct stat status;
    if (lstat(options.output.c_str(), &status) == 0)
      return absl::AlreadyExistsError(Quoted(options.output) + " is there already");
    VR_ASSIGN_OR_RETURN(const SparsifyCopyPlan plan, PlanSparsifyCopy(services, options, stop));
    SparsifyDisk disk;
    disk.header = plan.header;
    disk.spec = {options.source, plan.header.format, plan.header.granularity};
    target.disks.push_back(std::move(disk));
    VR_ASSIGN_OR_RETURN(SparsifiedCopy made,
                        ExecuteSparsifyCopy(services, options, plan, {{}, progress}, stop));
    target.result = std::move(made.result);
    target.appliance = std::move(made.appliance);
    for (sparsify::DiskResult& result : target.result->disks) {
      result.given_back_bytes = 0;  // the source has it still
      if (stat(options.source.c_str(), &status) == 0 && S_ISREG(status.st_mode))
        result.before = AllocatedBytes(status);
    }
    AddRefusals(target);
    target.lost = plan.lost;
    if (options.estimate) return absl::OkStatus();
    target.output = plan.output.path;
    if (stat(target.output.c_str(), &status) == 0) target.output_bytes = AllocatedBytes(status);
    return absl::OkStatus();
  };
  SetSparsifyOutcome(run(), target.outcome);
  return target;
}

}  // namespace virt_reclaim
