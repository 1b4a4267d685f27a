// The metrics of a hypervisor, for Prometheus: names, help, labels, values. Pure; any thread. The
// words of the file they are written to are host/cli's. docs/metrics.md describes each.
// https://prometheus.io/docs/practices/naming/
#ifndef VIRT_RECLAIM_HOST_MODEL_METRICS_H_
#define VIRT_RECLAIM_HOST_MODEL_METRICS_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "host/model/overview.h"

namespace virt_reclaim {

struct MetricSample {
  std::vector<std::pair<std::string, std::string>> labels;  // name, value (printable UTF-8)
  double value = 0;
};

// All of ours are gauges: nothing counts up from the start of a process that lives for a second.
struct MetricFamily {
  std::string name, help;
  std::vector<MetricSample> samples;  // no two have the same labels
};

// Families without a sample are left out.
std::vector<MetricFamily> MetricsOf(const Overview& overview);

// What is left to say when nothing could be collected.
std::vector<MetricFamily> MetricsOfFailure(absl::string_view version, absl::Time now);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_METRICS_H_
