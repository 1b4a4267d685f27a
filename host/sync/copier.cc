#include "host/sync/copier.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <span>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "host/punch/sigbus.h"
#include "host/punch/zero_scan.h"

namespace virt_reclaim::sync {
namespace {

constexpr std::chrono::milliseconds kProgressEvery{100};

bool IsZeroBlock(const unsigned char* data, uint64_t bytes) {
  uint64_t first = 0;
  memcpy(&first, data, std::min<uint64_t>(bytes, sizeof first));
  return first == 0 && punch::IsZero(data, bytes);
}

// The steps that lie in one piece of the image, cut at its ends.
std::vector<Step> StepsOfPiece(std::span<const Step> steps, size_t& next, uint64_t& offset) {
  std::vector<Step> piece;
  const uint64_t end = (offset / kPieceBytes + 1) * kPieceBytes;
  while (next < steps.size() && std::max(offset, steps[next].range.begin) < end) {
    const Range range = {std::max(offset, steps[next].range.begin),
                         std::min(end, steps[next].range.end)};
    piece.push_back({steps[next].kind, range});
    offset = range.end;
    if (range.end == steps[next].range.end) ++next;
    if (offset == end) break;
  }
  return piece;
}

}  // namespace

// What looking at the steps of a window brought out. Room for the worst is made at once: nothing
// may be allocated while mapped memory is read.
struct Copier::Found {
  Found() {
    differing.reserve(kPieceBytes / kBlockBytes);
    zero_runs.reserve(2 * kWindowBytes / kBlockBytes);
    zero_differing.reserve(2 * kWindowBytes / kBlockBytes);
  }
  std::vector<Range> differing;       // of this piece: to be written
  std::vector<Range> zero_runs;       // of the window: zero in the source, data in the copy
  std::vector<Range> zero_differing;  // ... of it what is not zero in the copy
};

// One thread's part.
class Copier::Worker {
 public:
  Worker(Copier& copier, std::unique_ptr<PieceReader> source, std::unique_ptr<PieceReader> copy)
      : copier_(copier), source_(std::move(source)), copy_(std::move(copy)) {}

  absl::Status Go(const Window& window, const std::stop_token& stop) {
    found_.zero_runs.clear();
    found_.zero_differing.clear();
    digest_.Start();
    size_t next = 0;
    uint64_t offset = window.steps.front().range.begin;
    while (next < window.steps.size()) {
      if (stop.stop_requested()) return absl::CancelledError("interrupted");
      if (copier_.failed_) return absl::OkStatus();
      if (copier_.source_.Interrupted()) {
        copier_.source_interrupted_ = true;
        return absl::AbortedError("somebody wants to write the source");
      }
      offset = std::max(offset, window.steps[next].range.begin);
      VR_RETURN_IF_ERROR(GoOver(StepsOfPiece(window.steps, next, offset)));
    }
    VR_RETURN_IF_ERROR(MakeZeroes());
    if (copier_.destination_ != nullptr) {
      const Range all = {window.steps.front().range.begin, window.steps.back().range.end};
      VR_RETURN_IF_ERROR(copier_.destination_->PushOut(all, std::exchange(last_, all)));
    }
    if (copier_.options_.digest && !digest_.empty()) {
      const std::lock_guard lock(copier_.mutex_);
      copier_.digests_[window.index] = digest_.value();
    }
    return absl::OkStatus();
  }

 private:
  absl::Status GoOver(std::vector<Step> steps) {
    if (copier_.options_.clone_unread && copier_.destination_ != nullptr)
      VR_RETURN_IF_ERROR(CloneUnread(steps));
    VR_RETURN_IF_ERROR(Load(steps));
    found_.differing.clear();
    const auto judge = [&] {
      for (const Step& step : steps) Judge(step);
    };
    if (!source_->mapped() && (copy_ == nullptr || !copy_->mapped())) {
      judge();
    } else if (!punch::SurvivesSigbus(judge)) {
      return absl::DataLossError(absl::StrCat("source or copy cannot be read between ",
                                              steps.front().range.begin, " and ",
                                              steps.back().range.end, ", or became shorter"));
    }
    for (const Range& range : found_.differing) VR_RETURN_IF_ERROR(Put(range));
    for (const Step& step : steps) copier_.gone_over_ += step.range.size();
    return absl::OkStatus();
  }

  // Whole units of what the copy does not have at all; steps that are done leave the list.
  absl::Status CloneUnread(std::vector<Step>& steps) {
    const uint64_t unit = copier_.options_.unit_bytes;
    for (Step& step : steps) {
      if (step.kind != StepKind::kCopy || !copier_.clone_) continue;
      const Range whole = {step.range.begin, RoundDown(step.range.end, unit)};
      if (whole.begin % unit != 0 || whole.begin >= whole.end) continue;
      VR_ASSIGN_OR_RETURN(const bool cloned,
                          copier_.destination_->Clone(copier_.source_.file(), whole));
      if (!cloned) {
        copier_.clone_ = false;
        break;
      }
      copier_.different_ += whole.size();
      copier_.gone_over_ += whole.size();
      step.range.begin = whole.end;
    }
    std::erase_if(steps, [](const Step& step) { return step.range.begin == step.range.end; });
    return absl::OkStatus();
  }

  absl::Status Load(const std::vector<Step>& steps) {
    std::vector<Range> from_source;
    std::vector<Range> from_copy;
    for (const Step& step : steps) {
      if (step.kind != StepKind::kZero) AppendJoined(from_source, step.range);
      if (step.kind == StepKind::kCompare ||
          (step.kind == StepKind::kZero && copier_.options_.look_below_holes)) {
        AppendJoined(from_copy, step.range);
      }
    }
    for (const Range& range : from_source) copier_.read_ += range.size();
    for (const Range& range : from_copy) copier_.compared_ += range.size();
    if (!from_source.empty()) VR_RETURN_IF_ERROR(source_->Load(from_source));
    if (!from_copy.empty()) VR_RETURN_IF_ERROR(copy_->Load(from_copy));
    copy_cached_ = !from_copy.empty() && copy_->mapped();
    return absl::OkStatus();
  }

  void Judge(const Step& step) {
    if (step.kind == StepKind::kZero && !copier_.options_.look_below_holes) {
      AppendJoined(found_.zero_runs, step.range);
      AppendJoined(found_.zero_differing, step.range);
      return;
    }
    if (step.kind != StepKind::kZero && copier_.options_.digest)
      digest_.Add(step.range.begin, source_->At(step.range.begin), step.range.size());
    for (uint64_t at = step.range.begin; at < step.range.end; at += kBlockBytes)
      JudgeBlock(step.kind, {at, std::min(at + kBlockBytes, step.range.end)});
  }

  void JudgeBlock(StepKind kind, Range block) {
    const uint64_t bytes = block.size();
    const bool zero = kind == StepKind::kZero || IsZeroBlock(source_->At(block.begin), bytes);
    if (kind == StepKind::kCopy) {
      if (!zero) AppendJoined(found_.differing, block);
      return;
    }
    if (!zero) {
      if (memcmp(source_->At(block.begin), copy_->At(block.begin), bytes) != 0)
        AppendJoined(found_.differing, block);
      return;
    }
    AppendJoined(found_.zero_runs, block);
    if (!IsZeroBlock(copy_->At(block.begin), bytes)) AppendJoined(found_.zero_differing, block);
  }

  absl::Status Put(Range range) {
    copier_.different_ += range.size();
    if (copier_.destination_ == nullptr) return absl::OkStatus();
    const uint64_t unit = copier_.options_.unit_bytes;
    if (copier_.clone_ && range.begin % unit == 0 && range.end % unit == 0) {
      VR_ASSIGN_OR_RETURN(const bool cloned,
                          copier_.destination_->Clone(copier_.source_.file(), range));
      if (cloned) return absl::OkStatus();
      copier_.clone_ = false;
    }
    return copier_.destination_->Write(range, source_->At(range.begin), copy_cached_);
  }

  // Whether a whole unit of the filesystem comes free by it.
  bool Frees(Range run) const {
    if (copier_.options_.look_below_holes) return false;
    const uint64_t unit = copier_.options_.unit_bytes;
    const uint64_t end = run.end == copier_.source_.size_bytes() ? RoundUp(run.end, unit) : run.end;
    return RoundUp(run.begin, unit) + unit <= end;
  }

  absl::Status MakeZeroes() {
    size_t next = 0;
    for (const Range& run : found_.zero_runs) {
      const size_t first = next;
      while (next < found_.zero_differing.size() && found_.zero_differing[next].end <= run.end)
        ++next;
      const std::span<const Range> differing(found_.zero_differing.data() + first, next - first);
      if (differing.empty() && !Frees(run)) continue;
      // Where a look costs nothing more, just what is not zero yet.
      const Range part = copier_.options_.look_below_holes
                             ? Range{differing.front().begin, differing.back().end}
                             : run;
      copier_.zeroed_ += part.size();
      if (copier_.destination_ != nullptr)
        VR_RETURN_IF_ERROR(copier_.destination_->Zero(part, differing));
    }
    return absl::OkStatus();
  }

  Copier& copier_;
  std::unique_ptr<PieceReader> source_;
  std::unique_ptr<PieceReader> copy_;  // null: there is none
  bool copy_cached_ = false;           // what was loaded of it last is in the page cache
  Range last_ = {};                    // what the window before went over
  Found found_;
  WindowDigest digest_;
};

Copier::Copier(Source& source, Destination* destination, int copy, std::string copy_name,
               const CopierOptions& options, const punch::SteadyClock& clock)
    : source_(source),
      destination_(destination),
      copy_(copy),
      copy_name_(std::move(copy_name)),
      options_(options),
      clock_(clock),
      clone_(options.clone) {}

void Copier::Fail(const absl::Status& status) {
  const std::lock_guard lock(mutex_);
  if (status_.ok()) status_ = status;
  failed_ = true;
}

void Copier::Work(const StepPlan& plan, const std::stop_token& stop) {
  auto reader = source_.NewReader();
  if (!reader.ok()) return Fail(reader.status());
  Worker worker(*this, *std::move(reader), copy_ < 0 ? nullptr : NewFileReader(copy_, copy_name_));
  punch::Pacer pacer(clock_, options_.max_bytes_per_second);
  while (!failed_) {
    const size_t mine = next_++;
    if (mine >= plan.windows.size()) return;
    if (const absl::Status status = worker.Go(plan.windows[mine], stop); !status.ok())
      return Fail(status);
    // Alone where there is a rate.
    pacer.Wait(read_, stop, [this] {
      return source_.Interrupted() || (destination_ != nullptr && destination_->Interrupted());
    });
  }
}

absl::Status Copier::Run(const StepPlan& plan, const std::function<void(uint64_t)>& progress,
                         const std::stop_token& stop) {
  const size_t most = options_.max_bytes_per_second != 0 ? 1 : options_.threads;
  const size_t count = std::min<size_t>(most, plan.windows.size());
  working_ = static_cast<int>(count);
  std::vector<std::jthread> threads;
  for (size_t i = 0; i < count; ++i) {
    threads.emplace_back([&] {
      Work(plan, stop);
      const std::lock_guard lock(mutex_);
      --working_;
      changed_.notify_all();
    });
  }
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, kProgressEvery, [this] { return working_ == 0; })) {
    lock.unlock();
    progress(gone_over_);
    lock.lock();
  }
  const absl::Status status = status_;
  lock.unlock();
  threads.clear();
  progress(gone_over_);
  return status;
}

CopierCounts Copier::counts() const { return {read_, compared_, different_, zeroed_}; }

}  // namespace virt_reclaim::sync
