#include "host/commands/unfinished_copies.h"

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/policy/read_policy.h"
#include "host/policy/settings.h"
#include "host/punch/find_files.h"
#include "host/sync/unfinished_mark.h"

namespace virt_reclaim {

absl::StatusOr<UnfinishedCopies> FindUnfinishedCopies(const std::string& config, bool must_exist,
                                                      const std::stop_token& stop) {
  UnfinishedCopies copies;
  const auto policy = policy::ReadPolicy(config, must_exist);
  if (!policy.ok()) {
    copies.unknown.push_back(Printable(policy.status().message()));
    return copies;
  }
  for (const policy::BackupDirectory& backup : policy->backups) {
    VR_ASSIGN_OR_RETURN(const policy::BackupSettings settings,
                        policy::SettingsOf(policy::BackupSpecs(), backup.values));
    size_t failed = 0;
    std::string first;
    const auto fail = [&](const std::string&, const absl::Status& why) {
      if (failed++ == 0) first = Printable(why.message());
    };
    const std::string only[] = {backup.directory.text};
    VR_RETURN_IF_ERROR(punch::FindFiles(
        only, {/*recursive=*/true, settings.one_file_system}, stop,
        [&](const std::string& path) {
          const auto marked = sync::LookForUnfinished(path);
          if (!marked.ok()) return fail(path, marked.status());
          if (*marked) copies.paths.push_back(path);
        },
        fail));
    if (failed == 0) continue;
    copies.unknown.push_back(absl::StrCat(Quoted(backup.directory.text), ": ", failed,
                                          failed == 1 ? " name" : " names",
                                          " could not be looked at: ", first));
  }
  return copies;
}

}  // namespace virt_reclaim
