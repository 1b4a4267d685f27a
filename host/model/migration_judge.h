// May this change of a definition be made? Judges what was found out about the domain, its host and
// its guest against what the change touches. Pure.
#ifndef VIRT_RECLAIM_HOST_MODEL_MIGRATION_JUDGE_H_
#define VIRT_RECLAIM_HOST_MODEL_MIGRATION_JUDGE_H_

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "host/model/facts.h"
#include "host/model/guest_preflight.h"
#include "host/model/reason.h"
#include "xml-tools/capabilities.h"

namespace virt_reclaim {

// What is not known is absent, or unknown in itself.
struct MigrationFacts {
  xml::Domain saved;                // the persistent definition
  std::optional<xml::Domain> live;  // of a domain that is up
  bool persistent = true;
  std::optional<bool> managed_save;
  int memory_snapshots = 0, checkpoints = 0;
  std::vector<Blocker> activity;  // jobs, block jobs, a freeze
  xml::HostMachines machines;     // of the host; empty: not told
  std::optional<GuestPreflight> guest;
  // Why there is no `guest`: kBusy when another program has it now.
  Blocker guest_unknown = {Reason::kGuestUnknown, ""};
  bool guest_is_off = false;   // `guest` is from its disks: nothing of it runs, and no agent
  bool agent_answers = false;  // whatever else is known of `guest`
  bool guest_has_lvm = false;  // a mounted filesystem of it lies on a logical volume
  // What of `saved` beside a migration's own matters waits for a power cycle (xml-tools/pending.h):
  // where it differs first; empty: nothing.
  std::string pending;
};

// The change, as far as the judgement needs it.
struct MigrationChange {
  xml::Domain after;                     // the new definition
  std::string machine;                   // the new type; empty: stays
  std::vector<std::string> moved_disks;  // targets of before, of disks that change their bus
  bool uses_virtio_blk = false;          // a changed disk is, and stays, virtio-blk
  bool assume = false;                   // --assume: unknown guest facts are taken as good
  bool fix_guest = false;                // --fix-guest: the guest may be prepared
  bool power_cycle = false;              // to be shut down and started at once
};

struct MigrationJudgement {
  std::vector<Blocker> blockers;  // not empty: not to be made
  std::vector<Blocker> fixes;     // would be blockers, and the agent can do something about them
  std::vector<Blocker> risks;     // to be known before
};

// Whether the judgement depends on what is known of the guest, so that it is worth finding out.
bool DependsOnGuest(const MigrationChange& change);

// Why a running guest, as it is now, would not find its disks on another bus: the part of the
// judgement that is asked for again before the power cycle. Empty: it would.
std::vector<Blocker> JudgeMove(const GuestPreflight& guest);

// Why a guest, as it is now, would not find its disks when they go back to `buses` (virtio, sata,
// ide) from the SCSI bus: kernels and files may be newer than the migration. What is not known is
// not among them, as it has booted from there before.
std::vector<Blocker> JudgeMoveBack(const GuestPreflight& guest, bool is_off,
                                   const std::set<std::string>& buses);

MigrationJudgement Judge(const MigrationFacts& facts, const MigrationChange& change);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_MIGRATION_JUDGE_H_
