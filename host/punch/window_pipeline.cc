#include "host/punch/window_pipeline.h"

#include <algorithm>
#include <utility>

#include "base/status.h"

namespace virt_reclaim::punch {
namespace {

constexpr size_t kPrefetchWindows = 2;

}  // namespace

WindowPipeline::WindowPipeline(int fd, ColdRead cold, uint64_t unit_bytes,
                               std::span<const Window> windows, int threads)
    : fd_(fd),
      cold_(cold),
      unit_(unit_bytes),
      windows_(windows),
      ahead_(2 * static_cast<size_t>(threads)),
      reader_(fd, cold, unit_bytes) {
  for (int i = 0; i < threads; ++i)
    threads_.emplace_back([this](const std::stop_token& stop) { Work(stop); });
}

WindowPipeline::~WindowPipeline() {
  for (std::jthread& thread : threads_) thread.request_stop();
}

void WindowPipeline::Work(const std::stop_token& stop) {
  ImageReader reader(fd_, cold_, unit_);
  std::unique_lock lock(mutex_);
  while (true) {
    if (!changed_.wait(lock, stop,
                       [this] { return taken_ == windows_.size() || taken_ < next_ + ahead_; })) {
      return;
    }
    if (taken_ == windows_.size()) return;
    const size_t mine = taken_++;
    lock.unlock();
    Result result;
    if (auto zeros = reader.Scan(windows_[mine]); zeros.ok()) {
      result.zeros.swap(*zeros);
    } else {
      result.status = zeros.status();
    }
    lock.lock();
    results_[mine] = std::move(result);
    changed_.notify_all();
  }
}

absl::StatusOr<std::vector<Range>> WindowPipeline::Next() {
  if (threads_.empty()) {
    for (; prefetched_ < std::min(next_ + 1 + kPrefetchWindows, windows_.size()); ++prefetched_)
      reader_.Prefetch(windows_[prefetched_]);
    return reader_.Scan(windows_[next_++]);
  }
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return results_.contains(next_); });
  Result result = std::move(results_.extract(next_).mapped());
  ++next_;
  changed_.notify_all();
  VR_RETURN_IF_ERROR(result.status);
  return std::move(result.zeros);
}

void WindowPipeline::Done() {
  if (threads_.empty()) reader_.Forget(windows_[next_ - 1]);
}

}  // namespace virt_reclaim::punch
