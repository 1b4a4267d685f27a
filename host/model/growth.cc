#include "host/model/growth.h"

#include <algorithm>

namespace virt_reclaim {
namespace {

constexpr size_t kLeastPoints = 3;
// Over a shorter time an image's growth is what happened to be written that day.
constexpr absl::Duration kLeastSpan = absl::Hours(48);
constexpr absl::Duration kFarthest = absl::Hours(24 * 3650);

constexpr double kMostBytes = 1e19;  // below 2^64

void Add(AllocationSeries& series, absl::Time at, uint64_t bytes) {
  if (series.empty() || at > series.back().at) series.push_back({at, bytes});
}

// Between two points on the line, outside them the nearest.
double ValueAt(const AllocationSeries& series, absl::Time at) {
  const auto after =
      std::lower_bound(series.begin(), series.end(), at,
                       [](const AllocationPoint& point, absl::Time t) { return point.at < t; });
  if (after == series.end()) return static_cast<double>(series.back().bytes);
  if (after == series.begin()) return static_cast<double>(after->bytes);
  const AllocationPoint& before = *(after - 1);
  const double part = absl::FDivDuration(at - before.at, after->at - before.at);
  return static_cast<double>(before.bytes) * (1 - part) + static_cast<double>(after->bytes) * part;
}

}  // namespace

AllocationSeries AllocationHistory(const std::vector<TrimRecord>& trims, absl::string_view target,
                                   absl::string_view image, std::optional<uint64_t> allocation,
                                   absl::Time now) {
  AllocationSeries series;
  for (const TrimRecord& trim : trims) {
    const absl::Time ended = trim.began + trim.took;
    if (trim.took < absl::ZeroDuration() || ended >= now) continue;
    for (const TrimRecordDisk& disk : trim.disks) {
      if (disk.target != target || disk.image != image || !disk.allocation) continue;
      const int64_t after = static_cast<int64_t>(*disk.allocation);
      // The file of the history may say anything.
      const bool sane =
          disk.freed && after >= 0 && *disk.freed <= INT64_MAX - after && after + *disk.freed >= 0;
      if (sane) Add(series, trim.began, static_cast<uint64_t>(after + *disk.freed));
      Add(series, ended, *disk.allocation);
    }
  }
  if (allocation) Add(series, now, *allocation);
  return series;
}

AllocationSeries SumOf(const std::vector<AllocationSeries>& series, size_t points) {
  absl::Time first = absl::InfiniteFuture();
  absl::Time last = absl::InfinitePast();
  for (const AllocationSeries& one : series) {
    if (one.empty()) continue;
    first = std::min(first, one.front().at);
    last = std::max(last, one.back().at);
  }
  AllocationSeries sum;
  if (first >= last || points < 2) return sum;
  for (size_t i = 0; i < points; ++i) {
    const double part = static_cast<double>(i) / static_cast<double>(points - 1);
    const absl::Time at = i + 1 == points ? last : first + (last - first) * part;
    double bytes = 0;
    for (const AllocationSeries& one : series) {
      if (!one.empty()) bytes += ValueAt(one, at);
    }
    Add(sum, at, static_cast<uint64_t>(std::min(bytes + 0.5, kMostBytes)));
  }
  return sum;
}

std::optional<double> GrowthOf(const AllocationSeries& series) {
  if (series.size() < kLeastPoints || series.back().at - series.front().at < kLeastSpan)
    return std::nullopt;
  const absl::Time first = series.front().at;
  const auto count = static_cast<double>(series.size());
  double mean_seconds = 0;
  double mean_bytes = 0;
  for (const AllocationPoint& point : series) {
    mean_seconds += absl::ToDoubleSeconds(point.at - first) / count;
    mean_bytes += static_cast<double>(point.bytes) / count;
  }
  double products = 0;
  double squares = 0;
  for (const AllocationPoint& point : series) {
    const double seconds = absl::ToDoubleSeconds(point.at - first) - mean_seconds;
    products += seconds * (static_cast<double>(point.bytes) - mean_bytes);
    squares += seconds * seconds;
  }
  return products / squares;  // two days apart: never 0
}

Forecast ForecastOf(uint64_t available, const std::vector<AllocationSeries>& disks,
                    absl::Time now) {
  Forecast forecast;
  forecast.disks = disks.size();
  forecast.since = now;
  for (const AllocationSeries& disk : disks) {
    const auto growth = GrowthOf(disk);
    if (!growth) continue;
    ++forecast.disks_known;
    forecast.growth += *growth;
    forecast.since = std::min(forecast.since, disk.front().at);
  }
  if (available == 0) {
    forecast.kind = ForecastKind::kFull;
    forecast.full_at = now;
  } else if (forecast.disks_known == 0) {
    forecast.kind = ForecastKind::kUnknown;
  } else if (forecast.growth <= 0) {
    forecast.kind = ForecastKind::kNotGrowing;
  } else {
    const double seconds = static_cast<double>(available) / forecast.growth;
    const bool far = seconds > absl::ToDoubleSeconds(kFarthest);
    forecast.kind = far ? ForecastKind::kFar : ForecastKind::kFull;
    if (!far) forecast.full_at = now + absl::Seconds(seconds);
  }
  return forecast;
}

}  // namespace virt_reclaim
