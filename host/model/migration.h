// One migration of one domain, as the steps it goes through. Each step is written down before it is
// done, so that a program that was killed leaves behind where it stood; every step can be done
// again without harm. Pure.
//
//   begun -> defining -> defined -> stopping -> starting -> verifying -> done
//               |            ^         |            |           |
//               v            +---------+            +-----------+--> rolling-back -> restored
//            undoing -> undone     (guest did not                                  -> rolled-back
//                                   shut down)
//
// defined -> done as well, where somebody else has power-cycled the domain. Where the guest
// is prepared first, fixing stands in the place of begun, and goes to undone when that fails.
#ifndef VIRT_RECLAIM_HOST_MODEL_MIGRATION_H_
#define VIRT_RECLAIM_HOST_MODEL_MIGRATION_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace virt_reclaim {

enum class MigrationStep {
  kBegun,        // the old XML is saved; libvirt knows nothing yet
  kFixing,       // likewise, and the agent prepares the guest for another bus
  kDefining,     // the new XML is given to libvirt, and what it stored is compared
  kDefined,      // in force with the next power cycle
  kStopping,     // the guest was asked to shut down
  kStarting,     // off; to be started with the new definition
  kVerifying,    // runs with the new definition; is everything as before?
  kDone,         // proved
  kUndoing,      // libvirt stored something else: the old XML is put back
  kUndone,       // nothing has changed
  kRollingBack,  // the guest is stopped if need be, the old XML put back
  kRestored,     // the old XML is in force; a domain that ran is to be started
  kRolledBack,   // as before the migration
};

// Stable words, for the journal and --json: "rolling-back".
absl::string_view Name(MigrationStep step);
std::optional<MigrationStep> MigrationStepOf(absl::string_view name);

// Nothing is left to do about a migration in this step.
bool IsOver(MigrationStep step);
// It is being taken back.
bool IsGoingBack(MigrationStep step);

// Where the guest has its filesystems: what must be the same after a power cycle.
struct ExpectedMount {
  std::string mount_point, type, uuid;
  std::string image;  // path of the image it lies on; empty: not known, or more than one
  std::string root;   // what of it is mounted there: "/", a btrfs subvolume; empty: not known
  bool operator==(const ExpectedMount&) const = default;
};

// One line of the journal.
struct MigrationRecord {
  MigrationStep step = MigrationStep::kBegun;
  absl::Time time;
  std::string detail;  // why, in words; without secrets
  // Digests (SHA-256, hex) of the persistent XML without secrets. kBegun: both; kDefined, kUndoing:
  // `after`, as libvirt has stored it.
  std::string before_digest, after_digest;
  // kDefined, kStopping: what the guest was like, when it could be asked.
  bool had_agent = false;
  std::vector<ExpectedMount> mounts;
  // kRollingBack: the running guest is to be stopped, and if it gives no sign of life, powered off.
  bool stop_guest = false, may_power_off = false;
  // kStopping, kRollingBack: the domain ran, and is to run again.
  bool was_running = false;
};

// The last record that has a say about each, of a journal that is not empty.
struct MigrationPlace {
  MigrationStep step = MigrationStep::kBegun;
  absl::Time since;
  std::string detail;
  bool had_agent = false, was_running = false, stop_guest = false, may_power_off = false;
  std::vector<ExpectedMount> mounts;
};
MigrationPlace PlaceOf(const std::vector<MigrationRecord>& journal);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_MIGRATION_H_
