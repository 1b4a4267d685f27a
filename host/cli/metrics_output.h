// Metrics as text for Prometheus, and as JSON. Pure.
// https://prometheus.io/docs/instrumenting/exposition_formats/
#ifndef VIRT_RECLAIM_HOST_CLI_METRICS_OUTPUT_H_
#define VIRT_RECLAIM_HOST_CLI_METRICS_OUTPUT_H_

#include <string>
#include <vector>

#include "host/model/metrics.h"

namespace virt_reclaim {

// The text exposition format 0.0.4, without timestamps: a textfile collector takes no others.
std::string MetricsText(const std::vector<MetricFamily>& families);

std::string MetricsJson(const std::vector<MetricFamily>& families);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_METRICS_OUTPUT_H_
