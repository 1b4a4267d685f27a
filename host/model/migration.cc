#include "host/model/migration.h"

#include <algorithm>
#include <array>

namespace virt_reclaim {
namespace {

struct StepName {
  MigrationStep step;
  absl::string_view name;
};
constexpr std::array kNames = std::to_array<StepName>({
    {MigrationStep::kBegun, "begun"},
    {MigrationStep::kFixing, "fixing"},
    {MigrationStep::kDefining, "defining"},
    {MigrationStep::kDefined, "defined"},
    {MigrationStep::kStopping, "stopping"},
    {MigrationStep::kStarting, "starting"},
    {MigrationStep::kVerifying, "verifying"},
    {MigrationStep::kDone, "done"},
    {MigrationStep::kUndoing, "undoing"},
    {MigrationStep::kUndone, "undone"},
    {MigrationStep::kRollingBack, "rolling-back"},
    {MigrationStep::kRestored, "restored"},
    {MigrationStep::kRolledBack, "rolled-back"},
});

}  // namespace

absl::string_view Name(MigrationStep step) {
  const auto* found =
      std::find_if(kNames.begin(), kNames.end(), [&](const StepName& n) { return n.step == step; });
  return found == kNames.end() ? "unknown" : found->name;
}

std::optional<MigrationStep> MigrationStepOf(absl::string_view name) {
  const auto* found =
      std::find_if(kNames.begin(), kNames.end(), [&](const StepName& n) { return n.name == name; });
  if (found == kNames.end()) return std::nullopt;
  return found->step;
}

bool IsOver(MigrationStep step) {
  return step == MigrationStep::kDone || step == MigrationStep::kUndone ||
         step == MigrationStep::kRolledBack;
}

bool IsGoingBack(MigrationStep step) {
  return step == MigrationStep::kUndoing || step == MigrationStep::kRollingBack ||
         step == MigrationStep::kRestored;
}

MigrationPlace PlaceOf(const std::vector<MigrationRecord>& journal) {
  MigrationPlace place;
  for (const MigrationRecord& record : journal) {
    place.step = record.step;
    place.since = record.time;
    place.detail = record.detail;
    // An agent that is silent later takes nothing back of what it has said.
    if (record.had_agent) {
      place.had_agent = true;
      place.mounts = record.mounts;
    }
    if (record.step == MigrationStep::kStopping) place.was_running = record.was_running;
    if (record.step == MigrationStep::kRollingBack) {
      place.stop_guest = record.stop_guest;
      place.may_power_off = record.may_power_off;
      place.was_running = record.was_running;
    }
  }
  return place;
}

}  // namespace virt_reclaim
