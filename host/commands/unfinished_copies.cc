#include "host/commands/unfinished_copies.h"

#include <chrono>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/policy/read_policy.h"
#include "host/policy/settings.h"
#include "host/punch/find_files.h"
#include "host/sync/unfinished_mark.h"

namespace virt_reclaim {

absl::StatusOr<UnfinishedCopies> FindUnfinishedCopies(const std::string& config, bool must_exist,
                                                      const std::stop_token& stop,
                                                      std::chrono::milliseconds longest) {
  UnfinishedCopies copies;
  const auto policy = policy::ReadPolicy(config, must_exist);
  if (!policy.ok()) {
    copies.unknown.push_back(Printable(policy.status().message()));
    return copies;
  }
  const auto overdue = std::chrono::steady_clock::now() + longest;
  for (const policy::BackupDirectory& backup : policy->backups) {
    VR_ASSIGN_OR_RETURN(const policy::BackupSettings settings,
                        policy::SettingsOf(policy::BackupSpecs(), backup.values));
    size_t failed = 0;
    std::string first;
    const auto fail = [&](const std::string&, const absl::Status& why) {
      if (failed++ == 0) first = Printable(why.message());
    };
    std::stop_source enough;
    const std::stop_callback forward(stop, [&enough] { enough.request_stop(); });
    const std::string only[] = {backup.directory.text};
    const absl::Status looked = punch::FindFiles(
        only, {/*recursive=*/true, settings.one_file_system}, enough.get_token(),
        [&](const std::string& path) {
          if (std::chrono::steady_clock::now() >= overdue) enough.request_stop();
          const auto marked = sync::LookForUnfinished(path);
          if (!marked.ok()) return fail(path, marked.status());
          if (*marked) copies.paths.push_back(path);
        },
        fail);
    if (enough.stop_requested() && !stop.stop_requested()) {
      copies.unknown.push_back(absl::StrCat(Quoted(backup.directory.text),
                                            ": not all of it was looked at in ", longest.count(),
                                            " ms"));
    } else {
      VR_RETURN_IF_ERROR(looked);
    }
    if (failed == 0) continue;
    copies.unknown.push_back(absl::StrCat(Quoted(backup.directory.text), ": ", failed,
                                          failed == 1 ? " name" : " names",
                                          " could not be looked at: ", first));
  }
  return copies;
}

}  // namespace virt_reclaim
