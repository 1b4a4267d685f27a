#include "host/cli/metrics_output.h"

#include <charconv>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "host/cli/json_parts.h"

namespace virt_reclaim {
namespace {

constexpr double kMostExact = 9007199254740992;  // 2^53: up to there every integer is a double

bool IsInteger(double value) { return std::abs(value) <= kMostExact && std::trunc(value) == value; }

// "1073741824", "0.33": the shortest form that reads back as the same number.
std::string Number(double value) {
  if (IsInteger(value)) return absl::StrCat(static_cast<int64_t>(value));
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value);
  return std::string(text, end.ptr);
}

std::string LabelValue(absl::string_view text) {
  return absl::StrCat(
      "\"", absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", "\\n"}}), "\"");
}

}  // namespace

std::string MetricsText(const std::vector<MetricFamily>& families) {
  std::string text;
  for (const MetricFamily& family : families) {
    absl::StrAppend(&text, "# HELP ", family.name, " ",
                    absl::StrReplaceAll(family.help, {{"\\", "\\\\"}, {"\n", "\\n"}}), "\n# TYPE ",
                    family.name, " gauge\n");
    for (const MetricSample& sample : family.samples) {
      const std::string labels =
          absl::StrJoin(sample.labels, ",", [](std::string* out, const auto& label) {
            absl::StrAppend(out, label.first, "=", LabelValue(label.second));
          });
      absl::StrAppend(&text, family.name, labels.empty() ? "" : absl::StrCat("{", labels, "}"), " ",
                      Number(sample.value), "\n");
    }
  }
  return text;
}

std::string MetricsJson(const std::vector<MetricFamily>& families) {
  Json json = Document("metrics");
  json["metrics"] = Json::array();
  for (const MetricFamily& family : families) {
    Json samples = Json::array();
    for (const MetricSample& sample : family.samples) {
      Json labels = Json::object();
      for (const auto& [name, value] : sample.labels) labels[name] = Text(value);
      const Json value =
          IsInteger(sample.value) ? Json(static_cast<int64_t>(sample.value)) : Json(sample.value);
      samples.push_back({{"labels", labels}, {"value", value}});
    }
    json["metrics"].push_back({{"name", family.name}, {"help", family.help}, {"samples", samples}});
  }
  return Print(json);
}

}  // namespace virt_reclaim
