// Takes the migration of one domain from the step in which it stands to its end, or to where it has
// to wait. The same code goes on after a kill as goes through at once: each step is written to the
// journal before it is done, and can be done again.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_MIGRATION_RUN_H_
#define VIRT_RECLAIM_HOST_COMMANDS_MIGRATION_RUN_H_

#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "host/commands/discard_probe.h"
#include "host/commands/migration_guest.h"
#include "host/commands/services.h"
#include "host/model/migration.h"
#include "host/services/migration_store.h"

namespace virt_reclaim {

// How long a migration under way waits for the agent of a guest.
inline constexpr absl::Duration kRunAgentTimeout = absl::Seconds(5);

struct MigrationRunOptions {
  bool power_cycle = false;  // shut a running guest down and start it
  absl::Duration shutdown_timeout = absl::Minutes(2);
  // For the guest to come back. It is longer, up to four times, while its disks are busy: a file
  // system check after years takes its time.
  absl::Duration verify_timeout = absl::Minutes(5);
  bool probe = true;  // after the guest has come back, prove that discards reach the host
  // Called as a step begins, on the caller's thread. May be empty.
  std::function<void(MigrationStep)> on_step;
  // Told when the probe has to wait since others trim on the domain's storage. May be empty.
  std::function<void()> waits;
};

// The domain's lock is the caller's.
class MigrationRun {
 public:
  MigrationRun(const Services& services, std::string uuid, const MigrationRunOptions& options,
               StoredMigration migration);

  // At kFixing, where it is the caller's to have the guest prepared. `prepared`: it goes on; else
  // the guest is as it was (`why`), and that is the end.
  absl::Status EndFix(bool prepared, const std::string& why = "");

  // Goes on. OK: where place() says, which is an end or kDefined (it waits for a power cycle).
  // Cancelled: stopped between two steps; to be gone on with. Any other: why the migration failed;
  // place() says whether it was rolled back.
  absl::Status Continue(const std::stop_token& stop);

  // Begins to undo it, whatever step it is in; then Continue. Nothing to do when it is undone
  // already, but where the domain runs on under the new definition and the options have it power-
  // cycled. FailedPrecondition when somebody changed the definition since, or the guest would not
  // find its disks where they were. A domain that the
  // migration has shut down is started again, whatever the options say.
  absl::Status RollBack(const std::string& why, const std::stop_token& stop);

  // Whether the guest is as it was: its agent answers (if it did before) and every filesystem is
  // mounted again. A remark when that cannot be said.
  absl::StatusOr<std::string> Verify(const std::stop_token& stop);
  // What Verify and Probe found is the end of a migration that waits (kDefined) for a power cycle
  // which somebody else has done. Nothing to do in any other step, or under the old definition.
  absl::Status MarkVerified(const std::string& remark);
  // Whether its discards reach the host by now, per disk (discard_probe.h); empty without an agent.
  // Waits for its turn on the storages for as long as the guest may take to come back.
  std::vector<ProbedDisk> Probe(const std::stop_token& stop);
  // What the last Probe found, or the one that Continue made.
  const std::vector<ProbedDisk>& probed() const { return probed_; }

  MigrationPlace place() const { return migration_.place(); }
  const StoredMigration& migration() const { return migration_; }

 private:
  static constexpr absl::Duration kPoll = absl::Milliseconds(250);
  // How long libvirt may take from the call to a running QEMU.
  static constexpr absl::Duration kStarting = absl::Seconds(60);

  absl::Status Append(MigrationStep step, std::string detail = "");
  absl::Status Append(MigrationRecord record);
  absl::Status Step(const std::stop_token& stop);
  absl::Status DefineNew(const std::stop_token& stop);
  absl::Status BeginUndo();
  absl::Status LeaveDefined(const std::stop_token& stop);
  absl::Status Stop(const std::stop_token& stop);
  absl::Status StartNew();
  absl::Status VerifyNew(const std::stop_token& stop);
  // The way back, by itself: in the step that follows. Returns `why`, and stays where it is, when
  // somebody changed the definition since.
  absl::Status BeginRollBack(const absl::Status& why, MigrationRecord record);
  absl::Status UndoDefine();
  absl::Status PutBack(const std::stop_token& stop);
  absl::Status StartOld(const std::stop_token& stop);

  // At kDefined, and running under the new definition: somebody else has power-cycled it.
  absl::Status VerifyAsItRuns(const std::stop_token& stop);
  // What the guest is like, when it runs and has an agent.
  void LookBefore(MigrationRecord& record, const std::stop_token& stop);
  absl::StatusOr<std::string> Current();
  // Where libvirt's persistent definition first differs from `definition`; empty: nowhere.
  absl::StatusOr<std::string> DifferenceFrom(const std::string& definition);
  absl::StatusOr<bool> IsOff();
  // A disk changes its bus.
  absl::StatusOr<bool> ChangesBus();
  // What a power cycle would break, a backup under way, too.
  absl::StatusOr<PowerCycleCheck> Check(const std::stop_token& stop);
  // An earlier call was about to shut it down, and that would not be done now. It may be on its way
  // down all the same.
  absl::Status StopUnasked(const PowerCycleCheck& check, const std::stop_token& stop);
  // The domain runs, and under the new definition.
  absl::StatusOr<bool> RunsNew();
  // OK as well when it turns out to run already.
  absl::Status StartIt();
  // FailedPrecondition: somebody else has changed the definition since.
  absl::Status RequireOurs();
  // Nobody is lost or interrupted by the power cycle of a rollback that was asked for.
  absl::Status RequireStoppable(const std::stop_token& stop);
  absl::Status RequireBootable(const std::stop_token& stop);
  absl::Status RestoreOldXml();
  absl::Status WaitUntilItIsGone(const std::stop_token& stop);
  absl::Status WaitUntilItIsThere(const std::stop_token& stop);
  // `ask`: it is asked to go; else only waited for.
  absl::Status ShutDownAndWait(bool ask, const std::stop_token& stop);
  absl::Status StopForRollback(const std::stop_token& stop);
  // Empty: every mount of before is there.
  absl::StatusOr<std::string> MissingMount(const std::stop_token& stop);
  // qemu-guest-agent answers.
  bool AnswersPing(const std::stop_token& stop);
  absl::StatusOr<uint64_t> DiskRequests();

  const Services& services_;
  const std::string uuid_;
  const MigrationRunOptions options_;
  StoredMigration migration_;
  std::vector<ProbedDisk> probed_;
  bool waits_ = false;        // at kDefined, and nothing more to do now
  bool defined_now_ = false;  // by this call, which has seen nobody power-cycle it since
  bool checked_now_ = false;  // nothing spoke against the power cycle
  absl::Status failure_;      // the first one: why it was undone or rolled back
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_MIGRATION_RUN_H_
