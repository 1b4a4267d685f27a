#include "host/punch/plan.h"

#include <algorithm>

namespace virt_reclaim::punch {
namespace {

// Widened to whole units, joined.
void AppendWidened(std::vector<Range>& ranges, Range range, uint64_t unit, uint64_t size) {
  range.begin = RoundDown(range.begin, unit);
  range.end = std::min(RoundUp(range.end, unit), size);
  if (!ranges.empty()) range.begin = std::max(range.begin, ranges.back().end);
  AppendJoined(ranges, range);
}

// Both sorted, disjoint.
std::vector<Range> Without(const std::vector<Range>& ranges, const std::vector<Range>& taken) {
  std::vector<Range> left;
  size_t next = 0;
  for (Range range : ranges) {
    while (next < taken.size() && taken[next].end <= range.begin) ++next;
    for (size_t i = next; i < taken.size() && taken[i].begin < range.end; ++i) {
      AppendJoined(left, {range.begin, std::max(range.begin, taken[i].begin)});
      range.begin = std::min(range.end, taken[i].end);
    }
    AppendJoined(left, range);
  }
  return left;
}

void AddToWindows(std::vector<Window>& windows, Range range, uint64_t window_bytes) {
  while (range.begin < range.end) {
    const uint64_t stretch = range.begin / window_bytes;
    const Range part = {range.begin, std::min(range.end, (stretch + 1) * window_bytes)};
    if (windows.empty() || windows.back().range.begin / window_bytes != stretch)
      windows.push_back({.range = part, .data = {}, .data_bytes = 0});
    Window& window = windows.back();
    window.range.end = part.end;
    window.data.push_back(part);
    window.data_bytes += part.size();
    range.begin = part.end;
  }
}

}  // namespace

ReadPlan MakeReadPlan(std::span<const Extent> extents, uint64_t size_bytes, uint64_t unit_bytes,
                      bool take_unwritten, std::span<const Range> compressed_clusters) {
  ReadPlan plan;
  std::vector<Range> data;
  std::vector<Range> skipped;
  for (const Extent& extent : extents) {
    const uint64_t bytes = extent.range.size();
    bool skip = true;
    switch (extent.kind) {
      case ExtentKind::kData:
        skip = false;
        break;
      case ExtentKind::kUnwritten:
        skip = !take_unwritten;
        if (skip) plan.skipped.unwritten_bytes += bytes;
        break;
      case ExtentKind::kCompressed:
        plan.skipped.compressed_bytes += bytes;
        break;
      case ExtentKind::kInline:
        plan.skipped.inline_bytes += bytes;
        break;
    }
    AppendWidened(skip ? skipped : data, extent.range, unit_bytes, size_bytes);
    if (!skip && extent.shared) AppendJoined(plan.shared, extent.range);
  }
  data = Without(data, skipped);
  const std::vector<Range> packed =
      Intersect(data, RoundOutwards(compressed_clusters, unit_bytes, size_bytes));
  plan.skipped.compressed_cluster_bytes = TotalBytes(packed);
  // A multiple of the unit, so that no block lies in two windows.
  const uint64_t window_bytes = RoundUp(kWindowBytes, unit_bytes);
  for (const Range& range : Without(data, packed)) {
    plan.read_bytes += range.size();
    AddToWindows(plan.windows, range, window_bytes);
  }
  return plan;
}

RunJoiner::RunJoiner(uint64_t min_hole_bytes, uint64_t unit_bytes)
    : min_hole_(min_hole_bytes), max_hole_(RoundUp(kMaxHoleBytes, unit_bytes)) {}

void RunJoiner::Close(std::vector<Range>& out) {
  if (open_.size() > 0 && (cut_ || open_.size() >= min_hole_)) {
    for (Range left = open_; left.size() > 0;) {
      const Range part = {left.begin, std::min(left.end, left.begin + max_hole_)};
      out.push_back(part);
      left.begin = part.end;
    }
  }
  open_ = {};
  cut_ = false;
}

std::vector<Range> RunJoiner::Add(std::span<const Range> runs, uint64_t window_end) {
  std::vector<Range> out;
  for (const Range& run : runs) {
    if ((open_.size() > 0 || cut_) && open_.end == run.begin) {
      open_.end = run.end;
    } else {
      Close(out);
      open_ = run;
    }
  }
  if (open_.end != window_end) {
    Close(out);
  } else if (open_.size() >= std::max(max_hole_, min_hole_)) {
    const uint64_t end = open_.end;
    Close(out);
    open_ = {end, end};
    cut_ = true;
  }
  return out;
}

std::vector<Range> RunJoiner::Finish() {
  std::vector<Range> out;
  Close(out);
  return out;
}

uint64_t Overlap::With(Range range) {
  if (next_ > 0 && next_ <= ranges_.size() && ranges_[next_ - 1].end > range.begin) next_ = 0;
  while (next_ < ranges_.size() && ranges_[next_].end <= range.begin) ++next_;
  uint64_t bytes = 0;
  for (size_t i = next_; i < ranges_.size() && ranges_[i].begin < range.end; ++i)
    bytes += std::min(range.end, ranges_[i].end) - std::max(range.begin, ranges_[i].begin);
  return bytes;
}

}  // namespace virt_reclaim::punch
