// What the component tests of sync share: the way to run the engine, and files that differ.
#ifndef VIRT_RECLAIM_TESTS_COMPONENT_SYNC_FIXTURES_H_
#define VIRT_RECLAIM_TESTS_COMPONENT_SYNC_FIXTURES_H_

#include <chrono>
#include <random>
#include <string>

#include "host/sync/sync.h"
#include "tests/component/punch_fixtures.h"

namespace virt_reclaim::sync {

using punch::AllocatedBytes;
using punch::HalfZeroContent;
using punch::LoopMount;
using punch::MtimeNs;
using punch::ReadContent;
using punch::RunResult;
using punch::Shell;
using punch::StatFile;
using punch::WriteContent;

inline punch::SteadyClock Clock() {
  return [] { return std::chrono::steady_clock::now(); };
}

// Plan and Sync; `unchanged` by the quick check gives an empty, complete result.
inline absl::StatusOr<SyncResult> SyncFile(const std::string& source, const std::string& copy,
                                           const SyncOptions& options = {},
                                           const ProgressCallback& progress = {}) {
  Syncer syncer(options, Clock());
  const auto plan = syncer.Plan(source, copy);
  if (!plan.ok()) return plan.status();
  if (plan->unchanged) return SyncResult{.complete = true};
  return syncer.Sync(*plan, progress ? progress : [](const SyncProgress&) {}, {});
}

inline absl::StatusOr<SyncResult> MeasureFile(const std::string& source, const std::string& copy,
                                              const SyncOptions& options = {}) {
  Syncer syncer(options, Clock());
  const auto plan = syncer.Plan(source, copy);
  if (!plan.ok()) return plan.status();
  return syncer.Measure(*plan, [](const SyncProgress&) {}, {});
}

// Changes `blocks` blocks of 4 KiB of `content` here and there; every other one becomes zero when
// `zeroes`. Returns how many bytes are other than zero and differ now.
inline uint64_t ChangeBlocks(std::string& content, size_t blocks, bool zeroes, unsigned seed) {
  std::mt19937 dice(seed);
  const size_t all = content.size() / 4096;
  const std::string before = content;
  for (size_t i = 0; i < blocks; ++i) {
    const bool zero = zeroes && i % 2 == 0;
    content.replace((dice() % all) * 4096, 4096,
                    std::string(4096, zero ? '\0' : static_cast<char>('a' + dice() % 26)));
  }
  uint64_t changed = 0;
  const std::string empty(4096, '\0');
  for (size_t at = 0; at + 4096 <= content.size(); at += 4096) {
    if (content.compare(at, 4096, before, at, 4096) != 0 && content.compare(at, 4096, empty) != 0)
      changed += 4096;
  }
  return changed;
}

}  // namespace virt_reclaim::sync

#endif  // VIRT_RECLAIM_TESTS_COMPONENT_SYNC_FIXTURES_H_
