// The hypervisor, as far as virt-reclaim needs it: libvirt behind an interface, with a fake twin in
// tests/fakes/. Every domain is named by its UUID. All calls may block as long as libvirt does, but
// those that QEMU must answer itself: they are DeadlineExceeded after 5 s, and at once as long as
// one before them is not answered. They may be made from any thread.
#ifndef VIRT_RECLAIM_HOST_SERVICES_HYPERVISOR_H_
#define VIRT_RECLAIM_HOST_SERVICES_HYPERVISOR_H_

#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "host/model/facts.h"
#include "host/model/reason.h"
#include "proto/link/port.h"
#include "xml-tools/capabilities.h"

namespace virt_reclaim {

// What a domain has that holds old XML, or old contents of its images.
struct SnapshotCount {
  int all = 0;
  int with_memory = 0;  // a revert brings back the whole machine of then, with its XML
  int checkpoints = 0;
};

// Ends with its destructor, which waits for a call under way.
class ErrorWatch {
 public:
  virtual ~ErrorWatch() = default;
};

// Statuses: NotFound (no such domain), PermissionDenied, Unavailable (libvirt cannot be reached),
// Aborted (busy), FailedPrecondition (the domain's state forbids it), Unimplemented (this driver
// cannot), else Internal.
class Hypervisor {
 public:
  virtual ~Hypervisor() = default;

  // Canonical URI, without password.
  virtual std::string Uri() const = 0;
  // True when image paths of the XML are paths of this machine.
  virtual bool ImagesAreLocal() const = 0;

  virtual absl::StatusOr<std::vector<DomainSummary>> ListDomains() = 0;

  enum class Xml {
    kLive,                 // of a running domain; of any other the same as kInactive
    kInactive,             // what the next start uses
    kInactiveWithSecrets,  // the same with passwords: what a redefinition must be made from; never
                           // print it
  };
  virtual absl::StatusOr<std::string> DomainXml(const std::string& uuid, Xml kind) = 0;

  // libvirt's own measurement (virDomainGetBlockInfo), for images that are not local files.
  virtual absl::StatusOr<Usage> BlockUsage(const std::string& uuid, const std::string& target) = 0;

  // What libvirt and QEMU are at with the domain now, within 5 s: backup, save, dump, migration
  // (kJobActive), a block job (kBlockJob). Empty: nothing, or a driver that has no jobs. An error:
  // it is not known.
  virtual absl::StatusOr<std::vector<Blocker>> Jobs(const std::string& uuid,
                                                    const xml::Domain& live) = 0;

  // What forbids a trim now, within 40 s: Jobs, and a freeze (kFrozen; asked of qemu-guest-agent
  // when its channel is connected; one that does not say may have frozen the guest: kAgentSilent,
  // kBusy, kAgentFailed). With an error whoever asks leaves the domain alone.
  virtual absl::StatusOr<std::vector<Blocker>> Activity(const std::string& uuid,
                                                        const xml::Domain& live) = 0;

  virtual absl::StatusOr<bool> HasManagedSave(const std::string& uuid) = 0;

  // A property of the device `alias` (of the live XML) as QEMU has it: a number, 1 or 0 for a truth
  // value. NotFound: it has none of that name. libvirt calls a domain tainted from then on whose
  // QEMU was asked past it: only for who wants that.
  virtual absl::StatusOr<uint64_t> DeviceProperty(const std::string& uuid, const std::string& alias,
                                                  const std::string& property) = 0;

  virtual absl::StatusOr<SnapshotCount> Snapshots(const std::string& uuid) = 0;

  // The machine types this host has for `arch` and `type` (kvm, qemu). Empty when the driver does
  // not tell.
  virtual absl::StatusOr<xml::HostMachines> MachineTypes(const std::string& arch,
                                                         const std::string& type) = 0;

  // Where a volume of a storage pool lies: a file or block device. NotFound: there is no such pool
  // or volume. FailedPrecondition: the pool is not started, and nobody knows. Unimplemented: there
  // are no pools.
  virtual absl::StatusOr<std::string> VolumePath(const std::string& pool,
                                                 const std::string& volume) = 0;

  // Replaces the persistent definition, with validation (VIR_DOMAIN_DEFINE_VALIDATE).
  virtual absl::Status Define(const std::string& xml) = 0;

  // Power. What libvirt says of an end is not believed, the state afterwards is: right after an
  // embedded driver has been opened, libvirt 9.0 kills QEMU and says 'domain is not running'.
  virtual absl::StatusOr<DomainState> State(const std::string& uuid) = 0;
  virtual absl::Status Start(const std::string& uuid) = 0;
  // Asks the guest (qemu-guest-agent or the power button) and returns at once. DeadlineExceeded:
  // its QEMU has not answered, and may do it yet; so of Resume and AttachDevice.
  virtual absl::Status Shutdown(const std::string& uuid) = 0;
  // Pulls the plug: what the guest has not written is lost.
  virtual absl::Status PowerOff(const std::string& uuid) = 0;
  // Whether it is paused because one of its disks met an I/O error on the host: of a full storage
  // (ENOSPC) or another, which libvirt does not tell apart. Its guest has seen nothing of it.
  virtual absl::StatusOr<bool> IsPausedByIoError(const std::string& /*uuid*/) { return false; }
  // Lets a paused domain run; QEMU tries again what failed, and may pause it again at once.
  virtual absl::Status Resume(const std::string& /*uuid*/) {
    return absl::UnimplementedError("this driver cannot resume domains");
  }
  // Read and write requests of these disks since the domain started: a sign of life.
  virtual absl::StatusOr<uint64_t> DiskRequests(const std::string& uuid,
                                                const std::vector<std::string>& targets) = 0;

  // Bytes the guest wrote to these disks since the domain started.
  virtual absl::StatusOr<uint64_t> BytesWritten(const std::string& uuid,
                                                const std::vector<std::string>& targets) = 0;

  // Backup jobs (virDomainBackupBegin) and checkpoints, for drivers that have them. `checkpoint`
  // may be empty: none is made. Both are libvirt's XML; the job begins at one moment for all its
  // disks. DataLoss: what was written since a checkpoint that it names is not known any more.
  virtual absl::Status BeginBackup(const std::string& /*uuid*/, const std::string& /*backup*/,
                                   const std::string& /*checkpoint*/) {
    return absl::UnimplementedError("this driver has no backups");
  }
  // The directory of this machine that belongs to the running domain's QEMU, in which it may make
  // sockets when it is confined, too (domain_directory.h). Empty: none is known.
  virtual std::string DomainDirectory(const std::string& /*uuid*/) { return ""; }
  // Of the backup job under way; NotFound when there is none.
  virtual absl::StatusOr<std::string> BackupXml(const std::string& /*uuid*/) {
    return absl::NotFoundError("this driver has no backups");
  }
  // Returns when it has gone; OK when there is none.
  virtual absl::Status EndBackup(const std::string& /*uuid*/) { return absl::OkStatus(); }
  virtual absl::StatusOr<std::vector<std::string>> Checkpoints(const std::string& /*uuid*/) {
    return std::vector<std::string>();
  }
  virtual absl::Status DeleteCheckpoint(const std::string& /*uuid*/, const std::string& /*name*/) {
    return absl::UnimplementedError("this driver has no checkpoints");
  }
  // All filesystems of the guest, by qemu-guest-agent; false: thaws them.
  virtual absl::Status Freeze(const std::string& /*uuid*/, bool /*freeze*/) {
    return absl::UnimplementedError("this driver cannot freeze guests");
  }

  // The host end of a channel. Aborted when another stream holds it. `socket_path` (of the live
  // XML, may be empty) is used when libvirt cannot open channels and the socket is local.
  virtual absl::StatusOr<std::unique_ptr<link::Port>> OpenChannel(
      const std::string& uuid, const std::string& name, const std::string& socket_path) = 0;

  // One command of qemu-guest-agent, as JSON, and its answer: JSON of the guest's, at most 10 MB
  // (libvirt's limit) and not to be trusted. Returns some 7 s after `timeout` at the latest, and at
  // once on a stop, whatever libvirt and the guest do; the guest may still carry the command out.
  // DeadlineExceeded: it does not answer; Aborted: somebody else talks to it; Unavailable: the
  // domain was paused or stopped meanwhile; Unimplemented: this driver has no such agent.
  virtual absl::StatusOr<std::string> QemuAgentCommand(const std::string& uuid,
                                                       const std::string& command,
                                                       absl::Duration timeout,
                                                       const std::stop_token& stop) = 0;

  // Calls `on_error`, on a thread of libvirt's, for each I/O error that a disk of the domain meets
  // on the host, with words like "virtio-disk0: enospc; the domain was paused" (the domain's word:
  // make it printable). What happened before is not told. Unimplemented: this driver tells of none.
  virtual absl::StatusOr<std::unique_ptr<ErrorWatch>> WatchErrors(
      const std::string& uuid, std::function<void(const std::string& what)> on_error) = 0;

  // Plugs a device (its element of libvirt's XML) into the running domain only; the persistent
  // definition stays. FailedPrecondition: the domain is off.
  virtual absl::Status AttachDevice(const std::string& /*uuid*/, const std::string& /*xml*/) {
    return absl::UnimplementedError("this driver cannot plug devices");
  }
};

struct ConnectOptions {
  std::string uri;     // empty: libvirt's default (LIBVIRT_DEFAULT_URI)
  bool debug = false;  // libvirt prints to stderr
  // A person sits at the terminal: ssh, below libvirt, may ask for a password there.
  bool may_ask = false;
  // A driver that starts in this process, and an ssh that may ask, have five minutes.
  absl::Duration limit = absl::Seconds(30);
};

// Connects to libvirt. Starts libvirt's event loop on a thread of its own, once per process.
// DeadlineExceeded: something is there and does not answer; Cancelled: a stop.
absl::StatusOr<std::unique_ptr<Hypervisor>> ConnectLibvirt(const ConnectOptions& options,
                                                           const std::stop_token& stop);

// Has no domains: for work on image files where there is no libvirt.
std::unique_ptr<Hypervisor> NewNoHypervisor();

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_HYPERVISOR_H_
