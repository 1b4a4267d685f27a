// Results as text for people. Pure: result in, text out.
#ifndef VIRT_RECLAIM_HOST_CLI_TEXT_OUTPUT_H_
#define VIRT_RECLAIM_HOST_CLI_TEXT_OUTPUT_H_

#include <string>
#include <vector>

#include "host/commands/agent_status.h"
#include "host/commands/migrate.h"
#include "host/commands/report.h"
#include "host/commands/report_check.h"
#include "host/commands/trim.h"

namespace virt_reclaim {

std::string ReportText(const Report& report);
// For stderr: what unfinished copies are, and where nobody could look for some; often empty.
std::string CopyRemarks(const Report& report);
// "WARNING - reclaimable ... | reclaimable=..."
std::string CheckLine(const CheckResult& check);
// Before the first trim of a domain: what it is expected to bring.
std::string FirstTrimLine(const DomainSummary& domain, std::optional<uint64_t> expected);
std::string WaitingLine(const DomainSummary& domain);
std::string TrimPlanText(const std::vector<TrimAction>& plan);
std::string TrimText(const std::vector<TrimmedDomain>& domains);
std::string MigratePlanText(const std::vector<MigrateAction>& plan, bool diff);
std::string MigratedText(const std::vector<MigratedDomain>& domains);
std::string AgentStatusText(const std::vector<AgentStatusOfDomain>& statuses);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_TEXT_OUTPUT_H_
