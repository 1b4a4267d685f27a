#include "host/commands/report_check.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"

namespace virt_reclaim {

absl::string_view Name(CheckLevel level) {
  switch (level) {
    case CheckLevel::kOk:
      return "OK";
    case CheckLevel::kWarning:
      return "WARNING";
    case CheckLevel::kCritical:
      return "CRITICAL";
    case CheckLevel::kUnknown:
      break;
  }
  return "UNKNOWN";
}

CheckResult CheckReport(const Report& report, const CheckThresholds& thresholds) {
  const ReportTotal& total = report.total;
  const uint64_t warning = thresholds.warning.Of(total.allocation);
  const uint64_t critical = thresholds.critical.Of(total.allocation);
  const auto failed = std::count_if(
      report.domains.begin(), report.domains.end(),
      [](const ReportedDomain& domain) { return domain.outcome.kind == OutcomeKind::kFailed; });
  CheckResult result;
  const bool known = total.disks_with_guest > 0;
  if (known && total.reclaimable >= critical) {
    result.level = CheckLevel::kCritical;
  } else if (known && total.reclaimable >= warning) {
    result.level = CheckLevel::kWarning;
  } else if (failed > 0 || (!known && total.disks > 0)) {
    result.level = CheckLevel::kUnknown;
  }
  result.text =
      absl::StrCat("reclaimable about ", FormatByteSize(total.reclaimable), " of ",
                   FormatByteSize(total.allocation), " allocated; ", total.disks_with_guest, " of ",
                   total.disks, total.disks == 1 ? " disk" : " disks", " known from inside");
  if (failed > 0)
    absl::StrAppend(&result.text, ", ", failed, failed == 1 ? " domain" : " domains",
                    " cannot be examined");
  result.performance_data =
      absl::StrCat("reclaimable=", total.reclaimable, "B;", warning, ";", critical, ";0;",
                   total.allocation, " allocation=", total.allocation, "B;;;0;", total.capacity);
  return result;
}

}  // namespace virt_reclaim
