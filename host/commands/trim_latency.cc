#include "host/commands/trim_latency.h"

#include <algorithm>
#include <set>
#include <utility>

#include "host/model/assessment.h"

namespace virt_reclaim {
namespace {

constexpr absl::Duration kPauseCallTimeout = absl::Seconds(1);

}  // namespace

TrimLatency::TrimLatency(const Services& services, const DomainFacts& facts, GuestAgent& agent)
    : agent_(agent) {
  std::set<uint64_t> seen;
  for (const DiskFacts& disk : facts.disks) {
    if (IsOther(disk.xml) || disk.chain.empty()) continue;
    const ImageFile& top = disk.chain.front();
    if (!seen.insert(DataDevice(top)).second) continue;
    auto timer = services.images.TimeReads(DataPath(top));
    if (!timer.ok()) continue;
    const auto baseline = (*timer)();
    if (baseline.ok()) storages_.push_back({*std::move(timer), LatencyPace(*baseline)});
  }
}

void TrimLatency::Look() {
  if (storages_.empty()) return;
  absl::Duration pause = absl::ZeroDuration();
  for (Storage& storage : storages_) {
    const auto reading = storage.time();
    pause = std::max(pause, reading.ok() ? storage.pace.After(*reading) : storage.pace.pause());
  }
  if (pause == told_) return;
  const absl::Status status = agent_.SetTrimPause(pause, kPauseCallTimeout);
  if (status.ok()) told_ = pause;
  if (absl::IsUnimplemented(status)) storages_.clear();
}

}  // namespace virt_reclaim
