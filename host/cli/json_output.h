// Results as JSON (--json): one object with schema_version 1; sizes are numbers of bytes, what is
// not known is null. Strings of guests and files are made printable first, so that the output is
// always valid UTF-8. The schema is written down in docs/json.md.
#ifndef VIRT_RECLAIM_HOST_CLI_JSON_OUTPUT_H_
#define VIRT_RECLAIM_HOST_CLI_JSON_OUTPUT_H_

#include <string>
#include <vector>

#include "host/commands/agent_status.h"
#include "host/commands/migrate.h"
#include "host/commands/report.h"
#include "host/commands/report_check.h"
#include "host/commands/trim.h"

namespace virt_reclaim {

std::string ReportJson(const Report& report, const std::optional<CheckResult>& check);
std::string TrimPlanJson(const std::vector<TrimAction>& plan);
std::string TrimJson(const std::vector<TrimmedDomain>& domains);
std::string MigratePlanJson(const std::vector<MigrateAction>& plan, bool diff);
// `verb`: apply, verify, rollback or status.
std::string MigratedJson(const std::string& verb, const std::vector<MigratedDomain>& domains);
std::string AgentStatusJson(const std::vector<AgentStatusOfDomain>& statuses);
std::string ErrorJson(const absl::Status& status, ExitStatus exit_status);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_JSON_OUTPUT_H_
