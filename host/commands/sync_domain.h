// `virt-reclaim sync --domain NAME[:TARGET] DIR`: copies of a running domain's disks, all of one
// moment, by libvirt's backup job in pull mode: QEMU shows that moment over NBD while the guest
// goes on. A checkpoint is left behind, so that the next run reads what was written since and
// nothing else; it belongs to this directory alone, and the run after takes it away.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_SYNC_DOMAIN_H_
#define VIRT_RECLAIM_HOST_COMMANDS_SYNC_DOMAIN_H_

#include <functional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "host/commands/collect.h"
#include "host/commands/services.h"
#include "host/commands/sync_files.h"
#include "host/sync/sync.h"

namespace virt_reclaim {

struct SyncDomainOptions {
  std::string domain;     // name or UUID
  std::string target;     // of the one disk; empty: all
  std::string directory;  // where NAME.TARGET.raw goes; there
  bool freeze = false;    // let qemu-guest-agent freeze the guest's filesystems while it begins
  bool clean = false;     // only take away what a killed run has left
  sync::SyncOptions engine;
};

struct DiskToSync {
  std::string target;
  std::string image;             // the top of its chain
  std::string copy;              // path
  std::string since;             // the checkpoint the copy is of; empty: all is looked at
  bool bitmaps = false;          // qcow2, version 3: it can have checkpoints
  bool checkpoint_lost = false;  // not of a plan: it turned out when the job was begun
};

// A disk that is not copied: its image is no file, or the guest cannot write it.
struct DiskLeftOut {
  std::string target;
  Reason reason;
};

struct SyncDomainPlan {
  DomainSummary domain;
  std::vector<DiskToSync> disks;
  std::vector<DiskLeftOut> left_out;  // nothing is said of drives for removable media
  std::vector<std::string> stale;     // checkpoints of this directory that no copy is of
  bool stale_job = false;             // a killed run's
};

// Reads only. NotFound: no such domain or disk; InvalidArgument: several domains;
// FailedPrecondition: not running, nothing to copy, images elsewhere; Aborted: another job is at
// work.
absl::StatusOr<SyncDomainPlan> PlanSyncDomain(const Services& services,
                                              const SyncDomainOptions& options);

// Takes away what a killed run has left, and copies one disk after the other (not with `clean`);
// behind them are the disks that are left out. No job of ours is left, whatever happens in here,
// and a new checkpoint only when a copy is of it; jobs of others stay. `left_behind` is OK, or why
// the job or a checkpoint could not be taken away, or the guest not be thawed: then somebody must
// call this with `clean`. The domain's lock is held meanwhile. An error: nothing could begin.
absl::StatusOr<std::vector<SyncedFile>> SyncDomain(
    const Services& services, const SyncDomainOptions& options, const SyncDomainPlan& plan,
    const punch::SteadyClock& clock, const std::function<void(const SyncFilesProgress&)>& progress,
    const std::stop_token& stop, absl::Status& left_behind);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_SYNC_DOMAIN_H_
