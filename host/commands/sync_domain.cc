#include "host/commands/sync_domain.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <sys/un.h>
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
#include "host/commands/domain_turn.h"
#include "host/sync/checkpoint_note.h"
#include "host/sync/nbd_source.h"
#include "host/sync/unfinished_mark.h"

namespace virt_reclaim {
namespace {

// Where the socket lies: in the domain's own directory, else in one of its own below /tmp.
constexpr char kSocketInDomainDirectory[] = "/virt-reclaim-backup.sock";
constexpr char kSocketDirectory[] = "/tmp/virt-reclaim-backup-";
constexpr char kSocketName[] = "/nbd";

std::string Xml(absl::string_view text) {
  return absl::StrReplaceAll(
      text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"'", "&apos;"}, {"\"", "&quot;"}});
}

// The other way round: what libvirt writes in an attribute.
std::string FromXml(absl::string_view text) {
  return absl::StrReplaceAll(
      text, {{"&amp;", "&"}, {"&lt;", "<"}, {"&gt;", ">"}, {"&apos;", "'"}, {"&quot;", "\""}});
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

// Whether QEMU may make a socket there. libvirt has given the directory to QEMU's user; where it
// gives nothing away (dynamic_ownership = 0) it is root's, and QEMU may be somebody else: the owner
// of its image.
bool IsForQemu(const std::string& directory, const struct stat& image) {
  struct stat status;
  return lstat(directory.c_str(), &status) == 0 && S_ISDIR(status.st_mode) &&
         (status.st_uid != 0 || image.st_uid == 0) && access(directory.c_str(), W_OK | X_OK) == 0;
}

// The socket by which QEMU shows the disks. It lies where a QEMU that is confined may make it, in
// the directory that libvirt keeps for the domain; where none is known, or the path would be too
// long, in a new one below /tmp, which QEMU's user may write to: the image's owner.
class SocketPlace {
 public:
  static absl::StatusOr<SocketPlace> Make(const std::string& domain_directory,
                                          const std::string& image) {
    struct stat status;
    if (stat(image.c_str(), &status) != 0) return ErrnoStatus(errno, "stat " + Quoted(image));
    const std::string socket = domain_directory + kSocketInDomainDirectory;
    if (!domain_directory.empty() && socket.size() < sizeof sockaddr_un::sun_path &&
        IsForQemu(domain_directory, status)) {
      return SocketPlace(socket);
    }
    std::string name = absl::StrCat(kSocketDirectory, "XXXXXX");
    if (mkdtemp(name.data()) == nullptr) return ErrnoStatus(errno, "make " + Quoted(name));
    SocketPlace place(name + kSocketName);
    if (chown(name.c_str(), status.st_uid, status.st_gid) != 0)
      return ErrnoStatus(errno, "give away " + Quoted(name));
    return place;
  }
  SocketPlace(SocketPlace&& other) noexcept : socket_(std::exchange(other.socket_, "")) {}
  SocketPlace& operator=(SocketPlace&&) = delete;
  ~SocketPlace() { Remove(socket_); }
  const std::string& socket() const { return socket_; }

  static void Remove(const std::string& socket) {
    if (socket.empty()) return;
    unlink(socket.c_str());
    if (absl::StartsWith(socket, kSocketDirectory))
      rmdir(socket.substr(0, socket.rfind('/')).c_str());
  }

 private:
  explicit SocketPlace(std::string socket) : socket_(std::move(socket)) {}
  std::string socket_;
};

// The socket of a job of ours; empty when it is somebody else's.
std::string OurSocketOf(absl::string_view backup_xml) {
  constexpr absl::string_view kAttribute = "socket=";
  const size_t at = backup_xml.find(kAttribute);
  if (at == absl::string_view::npos) return "";
  const absl::string_view quoted = backup_xml.substr(at + kAttribute.size());
  if (quoted.empty()) return "";
  const size_t end = quoted.find(quoted.front(), 1);
  if (end == absl::string_view::npos) return "";
  const std::string socket = FromXml(quoted.substr(1, end - 1));
  const bool ours =
      absl::EndsWith(socket, kSocketInDomainDirectory) ||
      (absl::StartsWith(socket, kSocketDirectory) && absl::EndsWith(socket, kSocketName));
  return ours ? socket : "";
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

// Why a disk is not copied, if it is not.
std::optional<Reason> WhyNot(const xml::Disk& disk) {
  if (disk.device != "disk") return Reason::kNotADisk;
  if (disk.read_only) return Reason::kReadOnly;
  if (disk.source.type == "file" && !disk.source.path.empty()) return std::nullopt;
  return disk.source.type == "block" ? Reason::kBlockDevice : Reason::kNoLocalImage;
}

// A disk that is not copied is said. Of one that the guest cannot write the run is no worse.
SyncedFile LeftOutRow(const SyncDomainPlan& plan, const DiskLeftOut& disk) {
  SyncedFile file;
  file.source = absl::StrCat(plan.domain.name, ":", disk.target);
  file.destination = file.source;
  file.outcome.kind = OutcomeKind::kSkipped;
  file.outcome.asked_for = disk.reason != Reason::kReadOnly;
  file.outcome.reasons.push_back({disk.reason, "it is not copied"});
  return file;
}

// A job of a killed run, and checkpoints of this directory that no copy is of.
absl::Status CleanUp(const Services& services, const SyncDomainOptions& options,
                     const DomainSummary& domain) {
  VR_ASSIGN_OR_RETURN(const std::string prefix, CheckpointPrefix(options.directory));
  const auto job = services.hypervisor.BackupXml(domain.uuid);
  if (!job.ok() && !absl::IsNotFound(job.status())) return job.status();
  if (const std::string socket = job.ok() ? OurSocketOf(*job) : ""; !socket.empty()) {
    VR_RETURN_IF_ERROR(services.hypervisor.EndBackup(domain.uuid));
    SocketPlace::Remove(socket);
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

// Freezes the guest's filesystems. Aborted when somebody else has: that one's to thaw. `thawed`: an
// error when they may be frozen after one here.
absl::Status Freeze(const Services& services, const SyncDomainPlan& plan, absl::Status& thawed) {
  VR_ASSIGN_OR_RETURN(const DomainFacts facts, CollectDomain(services, plan.domain));
  VR_ASSIGN_OR_RETURN(const std::vector<Blocker> activity,
                      services.hypervisor.Activity(plan.domain.uuid, facts.live));
  if (std::any_of(activity.begin(), activity.end(),
                  [](const Blocker& blocker) { return blocker.reason == Reason::kFrozen; })) {
    return absl::AbortedError("somebody has frozen the guest's filesystems");
  }
  const absl::Status frozen = services.hypervisor.Freeze(plan.domain.uuid, true);
  // It may have frozen all the same, and told too late.
  if (!frozen.ok() && !absl::IsUnimplemented(frozen))
    thawed = services.hypervisor.Freeze(plan.domain.uuid, false);
  return frozen;
}

// With a "Permission denied" comes what QEMU was to make. That it is confined is likely, not known.
absl::Status WithWhatMayBeDenied(const absl::Status& begun, const SyncDomainPlan& plan,
                                 const std::string& socket) {
  if (!absl::IsPermissionDenied(begun)) return begun;
  return absl::PermissionDeniedError(absl::StrCat(
      begun.message(), " (QEMU was to make ", Quoted(socket), ", and ",
      Quoted(ScratchOf(plan.disks.front())),
      "; where AppArmor or SELinux confines it, the host's audit log says what it may not)"));
}

// `thawed`: an error when the guest may be frozen still.
absl::Status Begin(const Services& services, const SyncDomainOptions& options,
                   const SyncDomainPlan& plan, const std::string& socket,
                   const std::string& checkpoint, absl::Status& thawed) {
  const bool marks = std::any_of(plan.disks.begin(), plan.disks.end(),
                                 [](const DiskToSync& disk) { return disk.bitmaps; });
  if (options.freeze) VR_RETURN_IF_ERROR(Freeze(services, plan, thawed));
  const absl::Status begun = services.hypervisor.BeginBackup(
      plan.domain.uuid, BackupXml(plan, socket), marks ? CheckpointXml(plan, checkpoint) : "");
  if (options.freeze) {
    thawed = services.hypervisor.Freeze(plan.domain.uuid, false);
    if (begun.ok()) return thawed;
  }
  return WithWhatMayBeDenied(begun, plan, socket);
}

// The same, and once more without checkpoints where those are lost: bitmaps do not outlive a crash
// of QEMU or a power cut, nor an image that was replaced. `plan` is what was begun.
absl::Status BeginAnyhow(const Services& services, const SyncDomainOptions& options,
                         const std::string& socket, const std::string& checkpoint,
                         SyncDomainPlan& plan, absl::Status& thawed) {
  const absl::Status begun = Begin(services, options, plan, socket, checkpoint, thawed);
  if (!absl::IsDataLoss(begun)) return begun;
  bool lost = false;
  for (DiskToSync& disk : plan.disks) {
    disk.checkpoint_lost = !disk.since.empty();
    disk.since.clear();
    lost = lost || disk.checkpoint_lost;
  }
  if (!lost || !thawed.ok()) return begun;
  return Begin(services, options, plan, socket, checkpoint, thawed);
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

SyncedFile SyncDisk(sync::Syncer& syncer, const std::string& source, const DiskToSync& disk,
                    const std::string& socket, const sync::ProgressCallback& progress,
                    const std::stop_token& stop) {
  SyncedFile file;
  file.source = source;
  file.destination = disk.copy;
  file.outcome.asked_for = true;
  file.checkpoint_lost = disk.checkpoint_lost;
  absl::Status status;
  if (stop.stop_requested()) status = absl::CancelledError("interrupted");
  if (status.ok()) status = CopyDisk(syncer, disk, socket, progress, stop, file);
  SetSyncOutcome(status, file.result, file.outcome);
  if (!file.result.complete && sync::IsUnfinished(disk.copy))
    file.outcome.reasons.push_back({Reason::kUnfinishedCopy, "the next run makes it whole"});
  return file;
}

}  // namespace

absl::StatusOr<SyncDomainPlan> PlanSyncDomain(const Services& services,
                                              const SyncDomainOptions& options) {
  if (!services.hypervisor.ImagesAreLocal())
    return absl::FailedPreconditionError("sync --domain works on this machine's domains only");
  VR_ASSIGN_OR_RETURN(const std::string prefix, CheckpointPrefix(options.directory));
  VR_ASSIGN_OR_RETURN(const auto selected, SelectDomains(services.hypervisor, {options.domain}));
  SyncDomainPlan plan;
  if (selected.size() != 1) {
    return absl::InvalidArgumentError(absl::StrCat("sync --domain: ", Quoted(options.domain),
                                                   " is ", selected.size(), " domains; name one"));
  }
  plan.domain = selected.front();
  const std::string name = Quoted(plan.domain.name);
  if (plan.domain.state != DomainState::kRunning && plan.domain.state != DomainState::kPaused) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, " is not running: sync copies its images as files"));
  }
  const auto job = services.hypervisor.BackupXml(plan.domain.uuid);
  if (!job.ok() && !absl::IsNotFound(job.status())) return job.status();
  plan.stale_job = job.ok() && !OurSocketOf(*job).empty();
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
    const bool version_2 = !facts_of.chain.empty() && facts_of.chain.front().qcow2_version == 2;
    todo.bitmaps = disk.source.format == "qcow2" && !version_2;
    const std::string since = sync::NotedCheckpoint(todo.copy);
    if (std::find(checkpoints.begin(), checkpoints.end(), since) != checkpoints.end())
      todo.since = since;
    noted.insert(since);
    if (!options.target.empty() && options.target != disk.target) continue;
    if (const auto reason = WhyNot(disk)) {
      if (options.target.empty()) {
        const bool removable = disk.device == "cdrom" || disk.device == "floppy";
        if (!removable) plan.left_out.push_back({disk.target, *reason});
        continue;
      }
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
    const Services& services, const SyncDomainOptions& options, const SyncDomainPlan& planned,
    const punch::SteadyClock& clock, const std::function<void(const SyncFilesProgress&)>& progress,
    const std::stop_token& stop, absl::Status& left_behind) {
  left_behind = absl::OkStatus();
  SyncDomainPlan plan = planned;
  VR_ASSIGN_OR_RETURN(const DomainLock lock,
                      LockDomain(services, plan.domain.uuid, DomainLock::Use::kWork, stop));
  std::vector<SyncedFile> files;
  // A run that was killed while it began has left the guest frozen. One that was not frozen thaws,
  // too, so that an error says that it may still be.
  absl::Status thawed;
  if (options.clean && options.freeze) thawed = services.hypervisor.Freeze(plan.domain.uuid, false);
  VR_RETURN_IF_ERROR(CleanUp(services, options, plan.domain));
  if (!thawed.ok()) return thawed;
  if (options.clean) return files;
  VR_ASSIGN_OR_RETURN(const std::string prefix, CheckpointPrefix(options.directory));
  const std::string checkpoint = absl::StrCat(prefix, absl::ToUnixNanos(services.now()));
  VR_ASSIGN_OR_RETURN(const SocketPlace place,
                      SocketPlace::Make(services.hypervisor.DomainDirectory(plan.domain.uuid),
                                        plan.disks.front().image));
  // Whatever happens from here on. By the socket it knows our job from somebody else's, who may
  // have begun one since the plan.
  absl::Status frozen;
  const auto clean = absl::MakeCleanup([&] {
    left_behind = CleanUp(services, options, plan.domain);
    left_behind.Update(frozen);
  });
  VR_RETURN_IF_ERROR(BeginAnyhow(services, options, place.socket(), checkpoint, plan, frozen));
  sync::Syncer syncer(options.engine, clock);
  SyncFilesProgress now;
  now.files = plan.disks.size();
  std::vector<size_t> complete;  // of `files`
  for (const DiskToSync& disk : plan.disks) {
    const std::string source = absl::StrCat(plan.domain.name, ":", disk.target);
    ++now.file;
    now.path = source;
    const auto step = [&](const sync::SyncProgress& made) {
      now.done = made.done_bytes;
      now.allocation = made.total_bytes;
      if (progress) progress(now);
    };
    files.push_back(SyncDisk(syncer, source, disk, place.socket(), step, stop));
    if (files.back().result.copy_mtime_ns && disk.bitmaps) complete.push_back(files.size() - 1);
  }
  // A filesystem without attributes keeps no note: the next run looks at everything.
  for (const size_t i : complete) {
    static_cast<void>(
        sync::NoteCheckpoint(files[i].destination, checkpoint, *files[i].result.copy_mtime_ns));
  }
  for (const DiskLeftOut& disk : plan.left_out) files.push_back(LeftOutRow(plan, disk));
  return files;
}

}  // namespace virt_reclaim
