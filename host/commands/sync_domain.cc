#include "host/commands/sync_domain.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <set>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "base/escape.h"
#include "base/io.h"
#include "base/status.h"
#include "host/services/domain_lock.h"
#include "host/sync/checkpoint_note.h"
#include "host/sync/nbd_source.h"
#include "host/sync/unfinished_mark.h"

namespace virt_reclaim {
namespace {

constexpr char kSocketDirectory[] = "/tmp/virt-reclaim-backup-";
constexpr char kSocketName[] = "/nbd";

std::string Xml(absl::string_view text) {
  return absl::StrReplaceAll(
      text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"'", "&apos;"}, {"\"", "&quot;"}});
}

// What the checkpoints of copies in this directory are called, before their time. FNV-1a: short,
// the same for ever, and two directories of one domain are no adversaries.
absl::StatusOr<std::string> CheckpointPrefix(const std::string& directory) {
  const std::string real = RealPath(directory);
  if (real.empty()) return ErrnoStatus(errno, "resolve " + Quoted(directory));
  struct stat status;
  if (stat(real.c_str(), &status) != 0 || !S_ISDIR(status.st_mode))
    return absl::InvalidArgumentError(Quoted(directory) + " is no directory");
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : real) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return absl::StrFormat("virt-reclaim-%016x-", hash);
}

std::string CopyOf(const SyncDomainOptions& options, const DomainSummary& domain,
                   const std::string& target) {
  return absl::StrCat(options.directory, "/", domain.name, ".", target, ".raw");
}

std::string ScratchOf(const DiskToSync& disk) {
  const size_t slash = disk.image.rfind('/');
  return absl::StrCat(disk.image.substr(0, slash + 1), ".", disk.image.substr(slash + 1), ".",
                      disk.target, ".virt-reclaim-scratch");
}

// A directory for the socket that QEMU's user may write to: the image's owner.
class SocketPlace {
 public:
  static absl::StatusOr<SocketPlace> Make(const std::string& image) {
    std::string name = absl::StrCat(kSocketDirectory, "XXXXXX");
    struct stat status;
    if (stat(image.c_str(), &status) != 0) return ErrnoStatus(errno, "stat " + Quoted(image));
    if (mkdtemp(name.data()) == nullptr) return ErrnoStatus(errno, "make " + Quoted(name));
    SocketPlace place(name);
    if (chown(name.c_str(), status.st_uid, status.st_gid) != 0)
      return ErrnoStatus(errno, "give away " + Quoted(name));
    return place;
  }
  SocketPlace(SocketPlace&& other) noexcept : path_(std::exchange(other.path_, "")) {}
  SocketPlace& operator=(SocketPlace&&) = delete;
  ~SocketPlace() { Remove(path_); }
  std::string socket() const { return path_ + kSocketName; }

  static void Remove(const std::string& path) {
    if (path.empty()) return;
    unlink((path + kSocketName).c_str());
    rmdir(path.c_str());
  }

 private:
  explicit SocketPlace(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

// The directory of the socket of a job of ours; empty when it is somebody else's.
std::string SocketPlaceOf(const std::string& backup_xml) {
  const size_t at = backup_xml.find(kSocketDirectory);
  if (at == std::string::npos) return "";
  return backup_xml.substr(at, backup_xml.find(kSocketName, at) - at);
}

std::string BackupXml(const SyncDomainPlan& plan, const std::string& socket) {
  std::string xml = absl::StrCat("<domainbackup mode='pull'><server transport='unix' socket='",
                                 Xml(socket), "'/><disks>");
  for (const DiskToSync& disk : plan.disks) {
    const std::string mode =
        disk.since.empty()
            ? " backupmode='full'"
            : absl::StrCat(" backupmode='incremental' incremental='", Xml(disk.since), "'");
    absl::StrAppend(&xml, "<disk name='", Xml(disk.target), "' backup='yes' type='file'", mode,
                    " exportname='", Xml(disk.target), "'",
                    disk.since.empty() ? "" : " exportbitmap='since'", "><scratch file='",
                    Xml(ScratchOf(disk)), "'/></disk>");
  }
  return xml + "</disks></domainbackup>";
}

std::string CheckpointXml(const SyncDomainPlan& plan, const std::string& name) {
  std::string xml = absl::StrCat("<domaincheckpoint><name>", name, "</name><disks>");
  for (const DiskToSync& disk : plan.disks) {
    if (disk.bitmaps)
      absl::StrAppend(&xml, "<disk name='", Xml(disk.target), "' checkpoint='bitmap'/>");
  }
  return xml + "</disks></domaincheckpoint>";
}

// A job of a killed run, and checkpoints of this directory that no copy is of.
absl::Status CleanUp(const Services& services, const SyncDomainOptions& options,
                     const DomainSummary& domain) {
  VR_ASSIGN_OR_RETURN(const std::string prefix, CheckpointPrefix(options.directory));
  if (const auto job = services.hypervisor.BackupXml(domain.uuid); job.ok()) {
    const std::string place = SocketPlaceOf(*job);
    if (!place.empty()) {
      VR_RETURN_IF_ERROR(services.hypervisor.EndBackup(domain.uuid));
      SocketPlace::Remove(place);
    }
  }
  VR_ASSIGN_OR_RETURN(const DomainFacts facts, CollectDomain(services, domain));
  std::set<std::string> noted;
  for (const DiskFacts& disk : facts.disks) {
    noted.insert(sync::NotedCheckpoint(CopyOf(options, domain, disk.xml.target)));
    DiskToSync one;
    one.target = disk.xml.target;
    one.image = disk.xml.source.path;
    unlink(ScratchOf(one).c_str());
  }
  VR_ASSIGN_OR_RETURN(const std::vector<std::string> checkpoints,
                      services.hypervisor.Checkpoints(domain.uuid));
  for (const std::string& name : checkpoints) {
    if (absl::StartsWith(name, prefix) && !noted.contains(name))
      VR_RETURN_IF_ERROR(services.hypervisor.DeleteCheckpoint(domain.uuid, name));
  }
  return absl::OkStatus();
}

absl::Status Begin(const Services& services, const SyncDomainOptions& options,
                   const SyncDomainPlan& plan, const std::string& socket,
                   const std::string& checkpoint) {
  const bool marks = std::any_of(plan.disks.begin(), plan.disks.end(),
                                 [](const DiskToSync& disk) { return disk.bitmaps; });
  if (options.freeze) VR_RETURN_IF_ERROR(services.hypervisor.Freeze(plan.domain.uuid, true));
  const absl::Status begun = services.hypervisor.BeginBackup(
      plan.domain.uuid, BackupXml(plan, socket), marks ? CheckpointXml(plan, checkpoint) : "");
  if (options.freeze) {
    const absl::Status thawed = services.hypervisor.Freeze(plan.domain.uuid, false);
    if (begun.ok()) return thawed;
  }
  return begun;
}

absl::Status CopyDisk(sync::Syncer& syncer, const DiskToSync& disk, const std::string& socket,
                      const sync::ProgressCallback& progress, const std::stop_token& stop,
                      SyncedFile& file) {
  VR_ASSIGN_OR_RETURN(const std::unique_ptr<sync::NbdSource> source,
                      sync::OpenNbdSource({socket, disk.target,
                                           disk.since.empty() ? "" : "qemu:dirty-bitmap:since"}));
  VR_ASSIGN_OR_RETURN(const sync::DestinationPlan destination,
                      syncer.PlanDestination(disk.copy, source->size_bytes()));
  // Another size than then: what was added is in no bitmap.
  const bool same_size =
      destination.identity && destination.identity->size_bytes == source->size_bytes();
  const auto& changed = source->Changed();
  VR_ASSIGN_OR_RETURN(
      file.result, syncer.SyncFrom(*source, destination, changed && same_size ? &*changed : nullptr,
                                   progress, stop));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SyncDomainPlan> PlanSyncDomain(const Services& services,
                                              const SyncDomainOptions& options) {
  if (!services.hypervisor.ImagesAreLocal())
    return absl::FailedPreconditionError("sync --domain works on this machine's domains only");
  VR_ASSIGN_OR_RETURN(const std::string prefix, CheckpointPrefix(options.directory));
  VR_ASSIGN_OR_RETURN(const auto selected, SelectDomains(services.hypervisor, {options.domain}));
  SyncDomainPlan plan;
  plan.domain = selected.front();
  const std::string name = Quoted(plan.domain.name);
  if (plan.domain.state != DomainState::kRunning && plan.domain.state != DomainState::kPaused) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, " is not running: sync copies its images as files"));
  }
  const auto job = services.hypervisor.BackupXml(plan.domain.uuid);
  plan.stale_job = job.ok() && !SocketPlaceOf(*job).empty();
  if (job.ok() && !plan.stale_job)
    return absl::AbortedError(absl::StrCat(name, " has a backup job already"));
  VR_ASSIGN_OR_RETURN(const DomainFacts facts, CollectDomain(services, plan.domain));
  VR_ASSIGN_OR_RETURN(const std::vector<std::string> checkpoints,
                      services.hypervisor.Checkpoints(plan.domain.uuid));
  std::set<std::string> noted;
  for (const DiskFacts& facts_of : facts.disks) {
    const xml::Disk& disk = facts_of.xml;
    DiskToSync todo;
    todo.target = disk.target;
    todo.image = disk.source.path;
    todo.copy = CopyOf(options, plan.domain, disk.target);
    todo.bitmaps = disk.source.format == "qcow2";
    const std::string since = sync::NotedCheckpoint(todo.copy);
    if (std::find(checkpoints.begin(), checkpoints.end(), since) != checkpoints.end())
      todo.since = since;
    noted.insert(since);
    if (!options.target.empty() && options.target != disk.target) continue;
    if (disk.device != "disk" || disk.read_only || disk.source.type != "file") {
      if (options.target.empty()) continue;
      return absl::FailedPreconditionError(
          absl::StrCat(name, ": ", Quoted(disk.target), " is no disk that stands on a file"));
    }
    if (disk.has_mirror)
      return absl::AbortedError(absl::StrCat(name, ": a block job is under way"));
    plan.disks.push_back(std::move(todo));
  }
  if (plan.disks.empty()) {
    return options.target.empty()
               ? absl::FailedPreconditionError(name + " has no disk that stands on a file")
               : absl::NotFoundError(absl::StrCat(name, " has no disk ", Quoted(options.target)));
  }
  for (const std::string& checkpoint : checkpoints) {
    if (absl::StartsWith(checkpoint, prefix) && !noted.contains(checkpoint))
      plan.stale.push_back(checkpoint);
  }
  return plan;
}

absl::StatusOr<std::vector<SyncedFile>> SyncDomain(
    const Services& services, const SyncDomainOptions& options, const SyncDomainPlan& plan,
    const punch::SteadyClock& clock, const std::function<void(const SyncFilesProgress&)>& progress,
    const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const DomainLock lock,
                      DomainLock::Take(services.lock_directory, plan.domain.uuid));
  std::vector<SyncedFile> files;
  // A run that was killed while it began has left the guest frozen. An error: it is not.
  if (options.clean && options.freeze)
    static_cast<void>(services.hypervisor.Freeze(plan.domain.uuid, false));
  VR_RETURN_IF_ERROR(CleanUp(services, options, plan.domain));
  if (options.clean) return files;
  VR_ASSIGN_OR_RETURN(const std::string prefix, CheckpointPrefix(options.directory));
  const std::string checkpoint = absl::StrCat(prefix, absl::ToUnixNanos(services.now()));
  VR_ASSIGN_OR_RETURN(const SocketPlace place, SocketPlace::Make(plan.disks.front().image));
  // Whatever happens from here on; what could not be taken away the next run takes.
  const auto clean = absl::MakeCleanup([&] {
    static_cast<void>(services.hypervisor.EndBackup(plan.domain.uuid));
    static_cast<void>(CleanUp(services, options, plan.domain));
  });
  VR_RETURN_IF_ERROR(Begin(services, options, plan, place.socket(), checkpoint));
  sync::Syncer syncer(options.engine, clock);
  SyncFilesProgress now;
  now.files = plan.disks.size();
  std::vector<size_t> complete;  // of `files`
  for (const DiskToSync& disk : plan.disks) {
    SyncedFile& file = files.emplace_back();
    file.source = absl::StrCat(plan.domain.name, ":", disk.target);
    file.destination = disk.copy;
    file.outcome.asked_for = true;
    ++now.file;
    now.path = file.source;
    const auto step = [&](const sync::SyncProgress& made) {
      now.done = made.done_bytes;
      now.allocation = made.total_bytes;
      if (progress) progress(now);
    };
    absl::Status status;
    if (stop.stop_requested()) status = absl::CancelledError("interrupted");
    if (status.ok()) status = CopyDisk(syncer, disk, place.socket(), step, stop, file);
    SetSyncOutcome(status, file.result, file.outcome);
    if (file.result.copy_mtime_ns && disk.bitmaps) complete.push_back(files.size() - 1);
    if (!file.result.complete && sync::IsUnfinished(disk.copy))
      file.outcome.reasons.push_back({Reason::kUnfinishedCopy, "the next run makes it whole"});
  }
  // A filesystem without attributes keeps no note: the next run looks at everything.
  for (const size_t i : complete) {
    static_cast<void>(
        sync::NoteCheckpoint(files[i].destination, checkpoint, *files[i].result.copy_mtime_ns));
  }
  return files;
}

}  // namespace virt_reclaim
