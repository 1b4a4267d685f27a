#include "host/sparsify/sparsify.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "base/status.h"
#include "host/punch/plan.h"
#include "host/sparsify/free_ranges.h"
#include "host/sparsify/opened_disks.h"

namespace virt_reclaim::sparsify {
namespace {

class Run {
 public:
  Run(Mode mode, const SparsifyOptions& options, const ProgressCallback& progress,
      const std::stop_token& stop)
      : mode_(mode), options_(options), progress_(progress), stop_(stop) {}

  absl::StatusOr<SparsifyResult> Do(const std::vector<DiskSpec>& specs,
                                    const std::function<absl::Status()>& check) {
    VR_RETURN_IF_ERROR(OpenAll(specs));
    VR_RETURN_IF_ERROR(ReadMaps());
    if (mode_ == Mode::kSparsify) {
      for (size_t i = 0; i < disks_.size(); ++i) VR_RETURN_IF_ERROR(disks_[i].Seize());
      if (check) VR_RETURN_IF_ERROR(check());
    }
    VR_RETURN_IF_ERROR(Decide());
    if (mode_ == Mode::kSparsify && !result_.too_little) {
      const absl::Status freed = FreeAll();
      CountGivenBack();
      if (freed.ok()) ReleaseAll();
      const absl::Status finished = FinishAll();
      VR_RETURN_IF_ERROR(freed);
      VR_RETURN_IF_ERROR(finished);
    }
    return std::move(result_);
  }

 private:
  absl::Status OpenAll(const std::vector<DiskSpec>& specs) {
    for (const DiskSpec& spec : specs) {
      if (stop_.stop_requested()) return absl::CancelledError("interrupted");
      VR_ASSIGN_OR_RETURN(std::unique_ptr<OpenedDisk> disk,
                          OpenDisk(spec, options_.tools, mode_, stop_));
      disks_.Add(std::move(disk));
    }
    return absl::OkStatus();
  }

  absl::Status ReadMaps() {
    std::vector<freemap::WorkerDisk> inputs;
    freemap::WorkerOptions worker = options_.worker;
    for (size_t i = 0; i < disks_.size(); ++i) {
      inputs.push_back(disks_[i].worker_disk());
      // Runs shorter than one granule cannot come free on any disk.
      const uint64_t granule = disks_[i].facts().granularity;
      worker.read.min_bytes = i == 0 ? granule : std::min(worker.read.min_bytes, granule);
    }
    VR_ASSIGN_OR_RETURN(scan_, freemap::ReadFreeMaps(inputs, worker, stop_));
    LeaveOut(options_.leave_out, scan_);
    return absl::OkStatus();
  }

  absl::Status Decide() {
    uint64_t total = 0;
    for (freemap::Filesystem& found : scan_.filesystems)
      result_.filesystems.push_back({std::move(found)});
    for (uint32_t i = 0; i < disks_.size(); ++i) {
      OpenedDisk& disk = disks_[i];
      VR_ASSIGN_OR_RETURN(AllocationMap map, disk.Allocated());
      const uint64_t granularity = disk.facts().granularity;
      ranges_.push_back(Intersect(FreeGranules(scan_.runs, i, granularity), map.allocated));
      data_.push_back(Intersect(ranges_.back(), map.data));
      CountFilesystems(i);
      DiskResult& result = result_.disks.emplace_back();
      result.size_bytes = disk.facts().size_bytes;
      result.granularity = granularity;
      result.before = disk.Allocation();
      result.before_is_own = disk.facts().allocation_is_own;
      result.repaired_leaks = disk.facts().repaired_leaks;
      result.reclaimable_bytes = TotalBytes(data_.back());
      result.shared_bytes = TotalBytes(Intersect(data_.back(), disk.shared()));
      total += result.reclaimable_bytes;
    }
    scan_ = {};  // up to 64 MiB
    result_.too_little = total < options_.least_bytes;
    return absl::OkStatus();
  }

  void CountFilesystems(uint32_t disk) {
    for (const freemap::FreeRuns& runs : scan_.runs) {
      if (runs.disk != disk) continue;
      std::vector<Range> free;
      for (const freemap::Extent& extent : runs.extents)
        free.push_back({extent.offset, extent.offset + extent.length});
      std::vector<Range> gain = Intersect(free, data_.back());
      result_.filesystems[runs.filesystem].reclaimable_bytes += TotalBytes(gain);
      gains_.push_back({runs.filesystem, disk, std::move(gain)});
    }
  }

  // Disks are worked through in order: what lies before the place that one came to was given back.
  void CountGivenBack() {
    for (const Gain& gain : gains_) {
      const uint64_t end = done_until_[gain.disk];
      for (const Range& range : gain.ranges) {
        if (range.begin < end)
          result_.filesystems[gain.filesystem].given_back_bytes +=
              std::min(range.end, end) - range.begin;
      }
    }
  }

  absl::Status FreeAll() {
    SparsifyProgress made;
    for (const auto& ranges : ranges_) made.total_bytes += TotalBytes(ranges);
    done_until_.assign(disks_.size(), 0);
    for (size_t i = 0; i < disks_.size(); ++i) {
      punch::Overlap in_data(data_[i]);
      for (const Range& range : ranges_[i]) {
        for (uint64_t at = range.begin; at < range.end;) {
          if (MustStop()) return absl::OkStatus();
          const Range step = {at, std::min(range.end, at + punch::kMaxHoleBytes)};
          const absl::Status freed = disks_[i].Free(step);
          if (absl::IsAborted(freed)) {
            result_.interrupted = true;
            return absl::OkStatus();
          }
          VR_RETURN_IF_ERROR(freed);
          result_.disks[i].given_back_bytes += in_data.With(step);
          done_until_[i] = step.end;
          ++result_.disks[i].requests;
          made.done_bytes += step.size();
          if (progress_) progress_(made);
          at = step.end;
        }
      }
    }
    return absl::OkStatus();
  }

  void ReleaseAll() {
    for (size_t i = 0; i < disks_.size() && !MustStop(); ++i) {
      if (result_.disks[i].requests > 0) result_.disks[i].released = disks_[i].Release(stop_);
    }
    MustStop();  // so that an early end is told
  }

  // Whoever waits for one disk of a guest waits for all of them.
  bool MustStop() {
    result_.cancelled = result_.cancelled || stop_.stop_requested();
    for (size_t i = 0; i < disks_.size(); ++i)
      result_.interrupted = result_.interrupted || disks_[i].Wanted();
    return result_.cancelled || result_.interrupted;
  }

  absl::Status FinishAll() {
    const absl::Status finished = disks_.Finish();
    for (size_t i = 0; i < disks_.size(); ++i) result_.disks[i].after = disks_[i].Allocation();
    return finished;
  }

  const Mode mode_;
  const SparsifyOptions& options_;
  const ProgressCallback& progress_;
  const std::stop_token& stop_;
  OpenedDisks disks_;
  freemap::ScanResult scan_;
  // Of each disk: to give back, and what of it is known to hold storage.
  std::vector<std::vector<Range>> ranges_, data_;
  // Of each filesystem and disk: what of data_ is its own.
  struct Gain {
    uint32_t filesystem = 0;
    uint32_t disk = 0;
    std::vector<Range> ranges;
  };
  std::vector<Gain> gains_;
  std::vector<uint64_t> done_until_;  // of each disk, in bytes
  SparsifyResult result_;
};

}  // namespace

void LeaveOut(const std::function<bool(const freemap::Filesystem&)>& leave_out,
              freemap::ScanResult& scan) {
  if (!leave_out) return;
  for (freemap::Filesystem& found : scan.filesystems) {
    if (found.refusal != freemap::Refusal::kNone || !leave_out(found)) continue;
    found.refusal = freemap::Refusal::kNotAsked;
    found.reason = "left out as asked";
    found.free_bytes = found.dropped_bytes = 0;
  }
  std::erase_if(scan.runs, [&](const freemap::FreeRuns& runs) {
    return scan.filesystems[runs.filesystem].refusal != freemap::Refusal::kNone;
  });
}

std::optional<uint64_t> DiskResult::freed_bytes() const {
  if (!before || !after) return std::nullopt;
  const uint64_t gone = *before - std::min(*before, *after);
  return before_is_own ? gone : gone - std::min({gone, shared_bytes, given_back_bytes});
}

absl::StatusOr<SparsifyResult> Sparsify(const std::vector<DiskSpec>& disks, Mode mode,
                                        const SparsifyOptions& options,
                                        const std::function<absl::Status()>& check,
                                        const ProgressCallback& progress,
                                        const std::stop_token& stop) {
  return Run(mode, options, progress, stop).Do(disks, check);
}

}  // namespace virt_reclaim::sparsify
