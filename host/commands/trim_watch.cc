#include "host/commands/trim_watch.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/escape.h"
#include "host/model/assessment.h"

namespace virt_reclaim {
namespace {

constexpr absl::Duration kWatchEvery = absl::Seconds(1);
// With less than this, whoever writes next may be paused by ENOSPC.
constexpr uint64_t kCriticalRoom = 256 * kMiB;
// Less is filesystem bookkeeping.
constexpr int64_t kGrowth = 16 * kMiB;

}  // namespace

TrimWatch::TrimWatch(const Services& services, const DomainFacts& facts,
                     const std::stop_token& stop)
    : services_(services),
      facts_(facts),
      forward_(stop, [this] { trouble_.request_stop(); }),
      overhead_before_(Overhead()) {
  auto errors =
      services.hypervisor.WatchErrors(facts.summary.uuid, [this](const std::string& what) {
        Stop({Reason::kIoError, Printable(what)});
      });
  if (errors.ok()) errors_ = *std::move(errors);
}

void TrimWatch::End() { errors_.reset(); }

std::optional<Blocker> TrimWatch::trouble() {
  const std::lock_guard lock(mutex_);
  return first_;
}

void TrimWatch::Stop(Blocker blocker) {
  {
    const std::lock_guard lock(mutex_);
    if (!first_) first_ = std::move(blocker);
  }
  trouble_.request_stop();
}

std::optional<int64_t> TrimWatch::Overhead() const {
  int64_t sum = 0;
  std::vector<std::string> targets;
  for (const DiskFacts& disk : facts_.disks) {
    if (IsOther(disk.xml) || disk.chain.empty()) continue;
    const auto bytes = services_.images.Allocation(disk.chain);
    if (!bytes.ok()) return std::nullopt;
    sum += static_cast<int64_t>(*bytes);
    targets.push_back(disk.xml.target);
  }
  const auto written = services_.hypervisor.BytesWritten(facts_.summary.uuid, targets);
  if (!written.ok()) return std::nullopt;
  return sum - static_cast<int64_t>(*written);
}

void TrimWatch::LookAtStorage() {
  const absl::Time now = services_.now();
  if (!overhead_before_ || now - looked_ < kWatchEvery) return;
  looked_ = now;
  for (const DiskFacts& disk : facts_.disks) {
    if (IsOther(disk.xml) || disk.chain.empty()) continue;
    const auto room = services_.images.Room(disk.chain.front());
    if (!room.ok() || *room >= kCriticalRoom) continue;
    const auto overhead = Overhead();
    if (!overhead || *overhead - *overhead_before_ < kGrowth) continue;
    Stop(
        {Reason::kStorageFull, absl::StrCat(FormatByteSize(*room), " left, and its images grew by ",
                                            FormatSignedByteSize(*overhead - *overhead_before_),
                                            " more than the guest wrote")});
    return;
  }
}

}  // namespace virt_reclaim
