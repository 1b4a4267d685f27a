#include "host/commands/sparsify_images.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <iterator>
#include <memory>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/byte_size.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/commands/appliance_watch.h"
#include "host/commands/collect.h"
#include "host/commands/domain_turn.h"
#include "host/commands/image_users.h"
#include "host/guard/image_guard.h"
#include "host/guard/image_identity.h"
#include "host/model/image_judge.h"
#include "host/sparsify/snapshot_space.h"

namespace virt_reclaim {
namespace {

bool IsPath(absl::string_view target) { return absl::StrContains(target, '/'); }

// What to delete, for who wants the space.
void AddSnapshotSpace(const std::string& path, Blocker& blocker) {
  const auto spaces = sparsify::ReadSnapshotSpace(path);
  if (spaces.ok()) {
    absl::StrAppend(&blocker.detail, ": ", sparsify::DescribeSnapshotSpace(*spaces));
  } else if (absl::IsInvalidArgument(spaces.status()) ||
             absl::IsResourceExhausted(spaces.status())) {
    absl::StrAppend(&blocker.detail, ": ", Printable(spaces.status().message()));
  }
}

void Refuse(SparsifyAction& action, Blocker blocker) {
  action.outcome.kind = OutcomeKind::kSkipped;
  action.outcome.reasons.push_back(std::move(blocker));
}

// Whether an image of the domain lies there. One that cannot be looked at is not left out: it says
// why later.
absl::StatusOr<bool> LiesOnStorage(const Services& services, const std::string& storage,
                                   const DomainSummary& domain) {
  if (storage.empty()) return true;
  const auto facts = CollectDomain(services, domain, Hypervisor::Xml::kInactive);
  if (!facts.ok()) return true;
  for (const DiskFacts& disk : facts->disks) {
    if (disk.chain.empty()) continue;
    VR_ASSIGN_OR_RETURN(const bool lies, services.images.LiesOn(disk.chain.front(), storage));
    if (lies) return true;
  }
  return false;
}

class SparsifyPlanner {
 public:
  SparsifyPlanner(const Services& services, const SparsifyImagesOptions& options, ImageUsers users)
      : services_(services), options_(options), users_(std::move(users)) {}

  SparsifyAction PlanFile(const std::string& path) {
    SparsifyAction action;
    action.name = path;
    action.outcome.asked_for = true;
    SparsifyDisk disk;
    disk.spec.path = path;
    std::string format = options_.format;
    for (const ImageUse& use : users_.Of(path)) {
      if (format.empty() && use.depth == 0) format = use.format;
    }
    AddImage(action, std::move(disk), format);
    if (action.outcome.kind == OutcomeKind::kDone)
      action.others = FindOtherDisks(services_, action.users, path);
    return action;
  }

  SparsifyAction PlanDomain(const DomainSummary& domain, bool asked_for) {
    SparsifyAction action;
    action.name = domain.name;
    action.is_domain = true;
    action.outcome.asked_for = asked_for;
    action.users.push_back(domain);
    if (auto blocker = NotOff(services_, domain)) {
      Refuse(action, *std::move(blocker));
      return action;
    }
    const auto facts = CollectDomain(services_, domain, Hypervisor::Xml::kInactive);
    if (!facts.ok()) {
      SetSparsifyOutcome(facts.status(), action.outcome);
      return action;
    }
    for (const DiskFacts& disk : facts->disks) AddDisk(action, disk.xml);
    if (action.disks.empty() && action.outcome.kind == OutcomeKind::kDone)
      Refuse(action, {Reason::kNoDisks, ""});
    return action;
  }

 private:
  // Each disk of a domain, as one that is not read may be half of a volume group, or hold the
  // memory of a guest that sleeps.
  void AddDisk(SparsifyAction& action, const xml::Disk& disk) {
    if (disk.device == "cdrom" || disk.device == "floppy") return;
    const std::string target = Printable(disk.target);
    if (disk.device != "disk") return Refuse(action, {Reason::kNotADisk, target});
    if (disk.shareable) return Refuse(action, {Reason::kShareable, target});
    const bool local = services_.hypervisor.ImagesAreLocal() &&
                       (disk.source.type == "file" || disk.source.type == "block");
    if (!local || !absl::StartsWith(disk.source.path, "/"))
      return Refuse(action, {Reason::kNoLocalImage, target});
    if (disk.read_only) return Refuse(action, {Reason::kReadOnly, target});
    SparsifyDisk planned;
    planned.target = disk.target;
    planned.spec.path = disk.source.path;
    // libvirt never probes: no format means raw.
    AddImage(action, std::move(planned), disk.source.format.empty() ? "raw" : disk.source.format);
  }

  void AddImage(SparsifyAction& action, SparsifyDisk disk, const std::string& format) {
    const std::string& path = disk.spec.path;
    const std::string label = disk.target.empty() ? "" : absl::StrCat(Printable(disk.target), ": ");
    for (const ImageUse& use : users_.Of(path)) {
      const std::string who = absl::StrCat(label, Printable(use.domain.name));
      if (use.depth > 0) Refuse(action, {Reason::kImageBacksOthers, who});
      if (use.shareable) Refuse(action, {Reason::kShareable, who});
      const bool known =
          std::any_of(action.users.begin(), action.users.end(),
                      [&](const auto& user) { return user.uuid == use.domain.uuid; });
      if (known) continue;
      action.users.push_back(use.domain);
      if (auto blocker = NotOff(services_, use.domain)) Refuse(action, *std::move(blocker));
    }
    if (const std::string why = users_.MayBeBelow(path); !why.empty())
      Refuse(action, {Reason::kImageRefused, absl::StrCat(label, why)});
    if (action.outcome.kind != OutcomeKind::kDone) return;
    const auto header = services_.images.ReadHeader(path, format);
    if (!header.ok()) return SetSparsifyOutcome(header.status(), action.outcome);
    for (Blocker& blocker : JudgeForSparsify(*header, FileAllocation(path), options_.allow_thick,
                                             options_.with_bitmaps)) {
      if (blocker.reason == Reason::kInternalSnapshots) AddSnapshotSpace(path, blocker);
      blocker.detail = absl::StrCat(label, blocker.detail);
      Refuse(action, std::move(blocker));
    }
    disk.header = *header;
    disk.spec.format = header->format;
    disk.spec.granularity = header->granularity;
    action.disks.push_back(std::move(disk));
  }

  std::optional<uint64_t> FileAllocation(const std::string& path) const {
    const auto chain = services_.images.Chain({"file", "raw", path}, {});
    if (!chain.ok() || chain->empty()) return std::nullopt;  // a block device
    return chain->front().usage.allocation;
  }

  const Services& services_;
  const SparsifyImagesOptions& options_;
  ImageUsers users_;
};

std::string PlaceOf(const SparsifiedTarget& target, const freemap::Filesystem& found) {
  std::string place = Printable(found.place);
  if (!found.type.empty()) absl::StrAppend(&place, " (", Printable(found.type), ")");
  if (target.disks.size() < 2 || found.mapped) return place;
  return absl::StrCat(Printable(target.disks[found.disk].target), " ", place);
}

void AddRemarks(sparsify::Mode mode, SparsifiedTarget& target) {
  const sparsify::SparsifyResult& result = *target.result;
  std::vector<Blocker>& reasons = target.outcome.reasons;
  const size_t read = AddRefusals(target);
  uint64_t reclaimable = 0;
  uint64_t given = 0;
  uint64_t shared = 0;
  uint64_t leaks = 0;
  uint64_t held = 0;
  std::string why_held;
  bool nothing_freed = true;
  for (const sparsify::DiskResult& disk : result.disks) {
    reclaimable += disk.reclaimable_bytes;
    given += disk.given_back_bytes;
    shared += disk.shared_bytes;
    leaks += disk.repaired_leaks;
    held += disk.released.held_bytes;
    if (!disk.released.status.ok())
      why_held = absl::StrCat(": ", Printable(disk.released.status.message()));
    nothing_freed = nothing_freed && disk.freed_bytes() == uint64_t{0};
  }
  if (result.interrupted) {
    target.outcome.kind = OutcomeKind::kSkipped;
    reasons.push_back({Reason::kImageInUse, "somebody opened it meanwhile: only a part was done"});
  } else if (result.cancelled) {
    target.outcome.kind = OutcomeKind::kCancelled;
  } else if (read == 0) {
    target.outcome.kind = OutcomeKind::kSkipped;
    if (reasons.empty()) reasons.push_back({Reason::kFilesystemRefused, "none was found"});
  } else if (result.too_little) {
    reasons.push_back({Reason::kBelowThreshold, FormatByteSize(reclaimable)});
  } else if (reclaimable == 0 && target.appliance.empty()) {
    reasons.push_back({Reason::kNothingReclaimable, ""});
  }
  if (leaks > 0) reasons.push_back({Reason::kLeaksRepaired, absl::StrCat(leaks, " clusters")});
  if (shared > 0) reasons.push_back({Reason::kSharedExtents, FormatByteSize(shared)});
  if (held > 0 || !why_held.empty())
    reasons.push_back({Reason::kExtentsHeld, absl::StrCat(FormatByteSize(held), why_held)});
  // Of what only libguestfs knows nobody knows whether there was anything to gain.
  for (const auto& [index, status] : target.appliance) {
    if (status.ok()) given += result.filesystems[index].reclaimable_bytes;
  }
  target.outcome.nothing_freed = mode == sparsify::Mode::kSparsify && given > 0 && nothing_freed;
}

// Which files and devices they are, whatever is written to them. What cannot be looked at is none.
std::vector<ImageIdentity> IdentitiesOf(const std::vector<sparsify::DiskSpec>& disks) {
  std::vector<ImageIdentity> identities;
  for (const sparsify::DiskSpec& disk : disks) {
    struct stat status;
    const bool known = stat(disk.path.c_str(), &status) == 0;
    identities.push_back(known ? IdentityOf(status) : ImageIdentity{});
  }
  return identities;
}

// What each image occupies; absent for what is no file.
std::vector<std::optional<uint64_t>> AllocationsOf(const Services& services,
                                                   const std::vector<SparsifyDisk>& disks) {
  std::vector<std::optional<uint64_t>> allocations;
  for (const SparsifyDisk& disk : disks) {
    const auto chain = services.images.Chain({"file", "raw", disk.spec.path}, {});
    const bool known = chain.ok() && !chain->empty();
    allocations.push_back(known ? chain->front().usage.allocation : std::nullopt);
  }
  return allocations;
}

// Adds what the appliance changed to what the engine measured, which may leave out what is shared.
void AddMeasured(const std::vector<std::optional<uint64_t>>& was,
                 const std::vector<std::optional<uint64_t>>& now,
                 std::vector<sparsify::DiskResult>& disks) {
  for (size_t i = 0; i < disks.size(); ++i) {
    const std::optional<uint64_t> base = disks[i].after ? disks[i].after : disks[i].before;
    if (base && was[i] && now[i])
      disks[i].after = *base + *now[i] - std::min(*was[i], *base + *now[i]);
  }
}

// What the native engine leaves to libguestfs, which opens `images` by their names. Without it,
// native's word stands.
absl::Status TrimByAppliance(const Services& services, const SparsifyImagesOptions& options,
                             sparsify::Mode mode, const std::vector<ImageIdentity>& images,
                             const std::function<absl::Status()>& still_off,
                             const std::stop_token& stop, SparsifiedTarget& target) {
  const std::vector<ApplianceJob> jobs = ApplianceJobs(
      *target.result,
      {options.choice, options.replay, options.engine.worker.read.strict, options.zero});
  if (jobs.empty()) return absl::OkStatus();
  if (mode == sparsify::Mode::kMeasure) {
    for (const ApplianceJob& job : jobs) target.appliance[job.filesystem] = absl::OkStatus();
    return absl::OkStatus();
  }
  std::vector<OfflineDisk> disks;
  std::vector<WatchedImage> watched;
  for (const SparsifyDisk& disk : target.disks) {
    std::error_code error;
    const std::string path = std::filesystem::absolute(disk.spec.path, error);
    if (error) return absl::InternalError(error.message());
    watched.push_back({path, images[disks.size()]});
    disks.push_back({disk.spec.format, path});
    VR_RETURN_IF_ERROR(CheckSame(watched.back()));
    GuardOptions asking;
    asking.intent = ImageIntent::kResize;
    VR_RETURN_IF_ERROR(CheckUnused(path, asking));
  }
  const auto was = AllocationsOf(services, target.disks);
  ApplianceWatch watch(watched, still_off, stop);
  const absl::Status begun = watch.Begin();
  if (absl::IsPermissionDenied(begun)) {  // what was done without the appliance is done
    for (const ApplianceJob& job : jobs) target.appliance[job.filesystem] = begun;
    return absl::OkStatus();
  }
  VR_RETURN_IF_ERROR(begun);
  auto done = RunApplianceJobs(services, disks, jobs, watch.token());
  VR_RETURN_IF_ERROR(watch.End());
  for (const WatchedImage& image : watched) VR_RETURN_IF_ERROR(CheckSame(image));
  VR_ASSIGN_OR_RETURN(target.appliance, std::move(done));
  AddMeasured(was, AllocationsOf(services, target.disks), target.result->disks);
  return absl::OkStatus();
}

absl::Status DoOne(const Services& services, const SparsifyImagesOptions& options,
                   const SparsifyAction& action, sparsify::Mode mode,
                   const sparsify::ProgressCallback& progress, const std::stop_token& stop,
                   SparsifiedTarget& target, std::vector<Blocker>& remarks) {
  if (stop.stop_requested()) return absl::CancelledError("interrupted");
  std::vector<DomainLock> locks;
  for (const DomainSummary& user : action.users) {
    VR_ASSIGN_OR_RETURN(DomainLock lock,
                        LockDomain(services, user.uuid, DomainLock::Use::kWork, stop));
    locks.push_back(std::move(lock));
  }
  std::vector<sparsify::DiskSpec> specs;
  for (const SparsifyDisk& disk : action.disks) {
    // Before it is opened: that would make another virt-reclaim stop, which has a lease on it.
    auto lock = DomainLock::TakeImage(services.lock_directory, disk.spec.path);
    if (lock.ok()) {
      locks.push_back(*std::move(lock));
    } else if (!absl::IsNotFound(lock.status())) {  // what is not there cannot be opened either
      return lock.status();
    }
    specs.push_back(disk.spec);
  }
  // A domain that started since is heard of by the guards of the images; one that was saved is not.
  const auto still_off = [&]() -> absl::Status {
    for (const DomainSummary& user : action.users) {
      if (const auto blocker = NotOff(services, user))
        return absl::AbortedError(absl::StrCat(Sentence(blocker->reason), ": ", blocker->detail));
    }
    return absl::OkStatus();
  };
  VR_RETURN_IF_ERROR(still_off());
  VR_RETURN_IF_ERROR(CheckAwake(services, specs, action.others, options.engine, stop, remarks));
  const std::vector<ImageIdentity> images = IdentitiesOf(specs);
  const bool native = options.choice != SparsifyEngine::kLibguestfs;
  VR_ASSIGN_OR_RETURN(target.result,
                      services.sparsify(specs, native ? mode : sparsify::Mode::kMeasure,
                                        options.engine, still_off, progress, stop));
  const sparsify::SparsifyResult& result = *target.result;
  if (result.interrupted || result.cancelled || result.too_little) return absl::OkStatus();
  VR_RETURN_IF_ERROR(TrimByAppliance(services, options, mode, images, still_off, stop, target));
  if (!native) AddPassedOver(*target.result, target.appliance);
  return absl::OkStatus();
}

}  // namespace

void SetSparsifyOutcome(const absl::Status& status, Outcome& outcome) {
  const std::string message = Printable(status.message());
  const auto skip = [&](Reason reason) {
    outcome.kind = OutcomeKind::kSkipped;
    outcome.reasons.push_back({reason, message});
  };
  if (status.ok()) {
    outcome.kind = OutcomeKind::kDone;
  } else if (absl::IsAborted(status)) {
    skip(Reason::kImageInUse);
  } else if (absl::IsUnimplemented(status)) {
    skip(Reason::kStorageCannotPunch);
  } else if (absl::IsUnavailable(status)) {
    skip(Reason::kToolMissing);
  } else if (absl::IsFailedPrecondition(status)) {
    skip(Reason::kImageRefused);
  } else if (absl::IsCancelled(status)) {
    outcome.kind = OutcomeKind::kCancelled;
  } else {
    outcome.kind = OutcomeKind::kFailed;
    outcome.error = status;
  }
}

size_t AddRefusals(SparsifiedTarget& target) {
  const sparsify::SparsifyResult& result = *target.result;
  std::vector<Blocker>& reasons = target.outcome.reasons;
  size_t read = 0;
  for (size_t i = 0; i < result.filesystems.size(); ++i) {
    const freemap::Filesystem& found = result.filesystems[i].found;
    const auto appliance = target.appliance.find(i);
    if (appliance != target.appliance.end() && !appliance->second.ok()) {
      reasons.push_back({Reason::kFilesystemRefused,
                         absl::StrCat(PlaceOf(target, found),
                                      ": libguestfs: ", Printable(appliance->second.message()))});
    } else if (found.refusal == freemap::Refusal::kNone || appliance != target.appliance.end()) {
      ++read;
    } else if (found.refusal != freemap::Refusal::kNotAsked &&
               (found.refusal != freemap::Refusal::kUnknown || !found.type.empty())) {
      reasons.push_back({Reason::kFilesystemRefused,
                         absl::StrCat(PlaceOf(target, found), ": ", Printable(found.reason))});
    }
  }
  return read;
}

absl::StatusOr<std::vector<SparsifyAction>> PlanSparsify(const Services& services,
                                                         const SparsifyImagesOptions& options,
                                                         const std::stop_token& stop) {
  if (!services.hypervisor.ImagesAreLocal()) {
    return absl::FailedPreconditionError(
        absl::StrCat("sparsify works on images of this machine, and '", services.hypervisor.Uri(),
                     "' is not of this machine"));
  }
  VR_ASSIGN_OR_RETURN(ImageUsers users, ImageUsers::Find(services, stop));
  SparsifyPlanner planner(services, options, std::move(users));
  std::vector<SparsifyAction> actions;
  std::vector<std::string> names;
  for (const std::string& target : options.targets) {
    if (IsPath(target)) {
      actions.push_back(planner.PlanFile(target));
    } else {
      names.push_back(target);
    }
  }
  if (options.all_off || !names.empty()) {
    VR_ASSIGN_OR_RETURN(const std::vector<DomainSummary> domains,
                        SelectDomains(services.hypervisor, names));
    for (const DomainSummary& domain : domains) {
      if (stop.stop_requested()) return absl::CancelledError("interrupted");
      if (options.all_off && domain.state != DomainState::kShutOff) continue;
      VR_ASSIGN_OR_RETURN(const bool chosen, LiesOnStorage(services, options.storage, domain));
      if (!chosen) continue;
      actions.push_back(planner.PlanDomain(domain, !options.all_off));
    }
  }
  return actions;
}

std::vector<SparsifiedTarget> ExecuteSparsify(
    const Services& services, const SparsifyImagesOptions& options,
    const std::vector<SparsifyAction>& actions, sparsify::Mode mode,
    const std::function<void(const SparsifyTargetProgress&)>& progress,
    const std::stop_token& stop) {
  std::vector<SparsifiedTarget> targets;
  SparsifyTargetProgress now;
  now.targets = actions.size();
  for (const SparsifyAction& action : actions) {
    SparsifiedTarget& target = targets.emplace_back();
    target.name = action.name;
    target.is_domain = action.is_domain;
    target.outcome = action.outcome;
    target.disks = action.disks;
    ++now.target;
    now.name = action.name;
    now.disks = {};
    if (action.outcome.kind != OutcomeKind::kDone) continue;
    if (progress) progress(now);
    const auto step = [&](const sparsify::SparsifyProgress& made) {
      now.disks = made;
      if (progress) progress(now);
    };
    std::vector<Blocker> remarks;
    SetSparsifyOutcome(DoOne(services, options, action, mode, step, stop, target, remarks),
                       target.outcome);
    if (target.result && target.outcome.kind == OutcomeKind::kDone) AddRemarks(mode, target);
    if (target.outcome.kind == OutcomeKind::kDone)
      std::ranges::move(remarks, std::back_inserter(target.outcome.reasons));
  }
  return targets;
}

SparsifyTotal TotalOf(const std::vector<SparsifiedTarget>& targets) {
  SparsifyTotal total;
  for (const SparsifiedTarget& target : targets) {
    ++total.targets;
    if (!target.result) continue;
    for (const sparsify::DiskResult& disk : target.result->disks) {
      total.before += disk.before.value_or(0);
      total.reclaimable += disk.reclaimable_bytes;
      total.given_back += disk.given_back_bytes;
      total.freed += disk.freed_bytes().value_or(0);
    }
  }
  return total;
}

}  // namespace virt_reclaim
