// The results of `explain` as text for people and as JSON (docs/json.md). Pure: result in, text
// out.
#ifndef VIRT_RECLAIM_HOST_CLI_EXPLAIN_OUTPUT_H_
#define VIRT_RECLAIM_HOST_CLI_EXPLAIN_OUTPUT_H_

#include <string>
#include <vector>

#include "host/commands/explain.h"

namespace virt_reclaim {

// `connect` as in HintContext: the fixes are commands.
std::string ExplainText(const std::vector<ExplainedDomain>& domains, const std::string& connect);
std::string ExplainJson(const std::vector<ExplainedDomain>& domains, const std::string& connect);

// The table of reason codes.
std::string ReasonCodesText();
std::string ReasonCodesJson();

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_EXPLAIN_OUTPUT_H_
