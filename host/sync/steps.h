// What is to be done with which part of a copy, judged by where both files have data. Pure; any
// thread.
#ifndef VIRT_RECLAIM_HOST_SYNC_STEPS_H_
#define VIRT_RECLAIM_HOST_SYNC_STEPS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "base/range.h"

namespace virt_reclaim::sync {

inline constexpr uint64_t kBlockBytes = 4096;                 // what is compared and written
inline constexpr uint64_t kWindowBytes = uint64_t{16} << 20;  // what one thread takes
inline constexpr uint64_t kPieceBytes = uint64_t{1} << 20;    // what it has in memory at once

enum class StepKind {
  kZero,     // the source has a hole, the copy has data
  kCopy,     // the source has data, the copy a hole
  kCompare,  // both have data
};

struct Step {
  StepKind kind = StepKind::kCompare;
  Range range;

  bool operator==(const Step&) const = default;
};

// The steps within one stretch of the file. A stretch begins at a multiple of kWindowBytes; no step
// goes beyond it.
struct Window {
  uint64_t index = 0;  // of the stretch
  std::vector<Step> steps;
};

struct StepPlan {
  std::vector<Window> windows;
  uint64_t read_bytes = 0;     // of the source: kCopy and kCompare
  uint64_t compare_bytes = 0;  // of the copy: kCompare
  uint64_t zero_bytes = 0;     // kZero
  uint64_t same_bytes = 0;     // data that both have at the same place of the disk: nothing to do
};

struct StepInput {
  uint64_t size_bytes = 0;             // of the source, and of the copy afterwards
  std::span<const Range> source;       // where the source has data; sorted, disjoint, as all here
  std::span<const Range> destination;  // ... and the copy
  std::span<const Range> same;         // known to be equal
  const std::vector<Range>* only = nullptr;  // nothing else is to be looked at; nullptr: everything
};

// Data and `only` are widened to whole blocks (of a block that is partly a hole all is looked at),
// `same` is narrowed.
StepPlan MakeSteps(const StepInput& input);

}  // namespace virt_reclaim::sync

#endif  // VIRT_RECLAIM_HOST_SYNC_STEPS_H_
