// `virt-reclaim report --check WARNING,CRITICAL`: the answer of a monitoring plugin
// (https://www.monitoring-plugins.org/doc/guidelines.html): a word, an exit status, performance
// data. Pure.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_REPORT_CHECK_H_
#define VIRT_RECLAIM_HOST_COMMANDS_REPORT_CHECK_H_

#include <string>

#include "absl/strings/string_view.h"
#include "host/commands/report.h"
#include "host/model/threshold.h"

namespace virt_reclaim {

struct CheckThresholds {
  Threshold warning, critical;  // percent: of what all images occupy
};

// Their numbers are the exit statuses.
enum class CheckLevel { kOk = 0, kWarning = 1, kCritical = 2, kUnknown = 3 };
absl::string_view Name(CheckLevel level);  // "WARNING"

struct CheckResult {
  CheckLevel level = CheckLevel::kOk;
  std::string text;  // "reclaimable about 2.9 GiB of 4.1 GiB ..."; printable
  std::string performance_data;
};

// At or above a threshold is its level. Unknown: no threshold is reached, and a domain could not be
// examined or of no disk it is known what its guest uses.
CheckResult CheckReport(const Report& report, const CheckThresholds& thresholds);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_REPORT_CHECK_H_
