#include "host/commands/trim_watch.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/escape.h"
#include "base/status.h"
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
      forward_(stop, [this] { ended_.request_stop(); }),
      overhead_before_(Overhead()) {
  auto errors =
      services.hypervisor.WatchErrors(facts.summary.uuid, [this](const std::string& what) {
        Stop(trouble_, {Reason::kIoError, Printable(what)});
      });
  if (errors.ok()) errors_ = *std::move(errors);
}

absl::Status TrimWatch::Begin(bool jobs, std::function<void()> also) {
  const auto look = [this, jobs, also = std::move(also)] {
    LookAtStorage();
    if (jobs) LookForJobs();
    if (also && !ended_.stop_requested()) also();
  };
  VR_ASSIGN_OR_RETURN(beat_, services_.start_beat(kWatchEvery, look));
  return absl::OkStatus();
}

void TrimWatch::End() {
  beat_.reset();
  errors_.reset();
}

void TrimWatch::At(TrimRecordPosition place) {
  const std::lock_guard lock(mutex_);
  at_ = std::move(place);
}

std::optional<TrimRecordPosition> TrimWatch::place() {
  const std::lock_guard lock(mutex_);
  return place_;
}

std::optional<Blocker> TrimWatch::trouble() {
  const std::lock_guard lock(mutex_);
  return trouble_;
}

std::optional<Blocker> TrimWatch::job() {
  const std::lock_guard lock(mutex_);
  return job_;
}

void TrimWatch::Stop(std::optional<Blocker>& why, Blocker blocker) {
  {
    const std::lock_guard lock(mutex_);
    if (!why) why = std::move(blocker);
  }
  ended_.request_stop();
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
  if (!overhead_before_) return;
  for (const DiskFacts& disk : facts_.disks) {
    if (IsOther(disk.xml) || disk.chain.empty()) continue;
    const auto room = services_.images.Room(disk.chain.front());
    if (!room.ok() || *room >= kCriticalRoom) continue;
    const auto overhead = Overhead();
    if (!overhead || *overhead - *overhead_before_ < kGrowth) continue;
    Stop(trouble_, {Reason::kStorageFull,
                    absl::StrCat(FormatByteSize(*room), " left, and its images grew by ",
                                 FormatSignedByteSize(*overhead - *overhead_before_),
                                 " more than the guest wrote")});
    return;
  }
}

void TrimWatch::LookForJobs() {
  std::optional<TrimRecordPosition> at;
  {
    const std::lock_guard lock(mutex_);
    at = at_;
  }
  const auto jobs = services_.hypervisor.Jobs(facts_.summary.uuid, facts_.live);
  if (!jobs.ok()) return;
  if (!jobs->empty()) return Stop(job_, jobs->front());
  const std::lock_guard lock(mutex_);
  if (!job_) place_ = std::move(at);
}

}  // namespace virt_reclaim
