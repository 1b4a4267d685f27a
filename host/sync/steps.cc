#include "host/sync/steps.h"

#include <algorithm>

namespace virt_reclaim::sync {
namespace {

std::vector<Range> Narrowed(std::span<const Range> ranges, uint64_t size) {
  std::vector<Range> narrow;
  for (const Range& range : ranges) {
    const uint64_t end = std::min(range.end, size);
    AppendJoined(narrow, {RoundUp(range.begin, kBlockBytes),
                          end == size ? size : RoundDown(end, kBlockBytes)});
  }
  return narrow;
}

// Walks along a sorted list: is a place in it, and where does that end?
class Cursor {
 public:
  explicit Cursor(std::span<const Range> ranges) : ranges_(ranges) {}

  // To be asked for places in ascending order. Lowers `end` to where the answer becomes another.
  bool Covers(uint64_t at, uint64_t& end) {
    while (next_ < ranges_.size() && ranges_[next_].end <= at) ++next_;
    if (next_ == ranges_.size()) return false;
    const bool inside = ranges_[next_].begin <= at;
    end = std::min(end, inside ? ranges_[next_].end : ranges_[next_].begin);
    return inside;
  }

 private:
  std::span<const Range> ranges_;
  size_t next_ = 0;
};

void Add(StepPlan& plan, StepKind kind, Range range) {
  const uint64_t index = range.begin / kWindowBytes;
  if (plan.windows.empty() || plan.windows.back().index != index)
    plan.windows.push_back({index, {}});
  std::vector<Step>& steps = plan.windows.back().steps;
  if (!steps.empty() && steps.back().kind == kind && steps.back().range.end == range.begin) {
    steps.back().range.end = range.end;
  } else {
    steps.push_back({kind, range});
  }
  if (kind == StepKind::kZero) {
    plan.zero_bytes += range.size();
  } else {
    plan.read_bytes += range.size();
    if (kind == StepKind::kCompare) plan.compare_bytes += range.size();
  }
}

}  // namespace

StepPlan MakeSteps(const StepInput& input) {
  const uint64_t size = input.size_bytes;
  const std::vector<Range> source = RoundOutwards(input.source, kBlockBytes, size);
  const std::vector<Range> destination = RoundOutwards(input.destination, kBlockBytes, size);
  const std::vector<Range> same = Narrowed(input.same, size);
  std::vector<Range> only = {{0, size}};
  if (input.only != nullptr) only = RoundOutwards(*input.only, kBlockBytes, size);
  Cursor in_source(source);
  Cursor in_destination(destination);
  Cursor in_same(same);
  Cursor in_only(only);
  StepPlan plan;
  for (uint64_t at = 0; at < size;) {
    uint64_t end = size;
    if (!in_only.Covers(at, end)) {
      at = end;
      continue;
    }
    const bool from = in_source.Covers(at, end);
    const bool to = in_destination.Covers(at, end);
    if (!from && !to) {
      at = end;
      continue;
    }
    const bool equal = in_same.Covers(at, end);
    if (equal) {
      plan.same_bytes += end - at;
      at = end;
      continue;
    }
    end = std::min(end, (at / kWindowBytes + 1) * kWindowBytes);
    Add(plan, !from ? StepKind::kZero : to ? StepKind::kCompare : StepKind::kCopy, {at, end});
    at = end;
  }
  return plan;
}

}  // namespace virt_reclaim::sync
