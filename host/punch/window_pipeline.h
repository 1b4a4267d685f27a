// The windows of an image, read one after the other or some ahead by threads, handed out in order.
#ifndef VIRT_RECLAIM_HOST_PUNCH_WINDOW_PIPELINE_H_
#define VIRT_RECLAIM_HOST_PUNCH_WINDOW_PIPELINE_H_

#include <condition_variable>
#include <cstddef>
#include <map>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "host/punch/image_reader.h"

namespace virt_reclaim::punch {

// How many reads a disk wants in flight; more bring nothing (measured: 1, 2, 4 and 8).
inline constexpr int kColdThreads = 4;

class WindowPipeline {
 public:
  // `threads` 0: Next() reads itself. `windows` and `fd` outlive the pipeline. Threads read at most
  // two windows each ahead of Next(), and end at the latest when the pipeline goes.
  WindowPipeline(int fd, ColdRead cold, uint64_t unit_bytes, std::span<const Window> windows,
                 int threads);
  ~WindowPipeline();
  WindowPipeline(const WindowPipeline&) = delete;
  WindowPipeline& operator=(const WindowPipeline&) = delete;

  // The zero runs of the next window. One thread.
  absl::StatusOr<std::vector<Range>> Next();
  // The window of the last Next() was worked on.
  void Done();

 private:
  struct Result {
    absl::Status status;
    std::vector<Range> zeros;
  };
  void Work(const std::stop_token& stop);

  int fd_;
  ColdRead cold_;
  uint64_t unit_;
  std::span<const Window> windows_;
  size_t ahead_;
  ImageReader reader_;  // of Next()
  size_t prefetched_ = 0;

  std::mutex mutex_;
  std::condition_variable_any changed_;
  size_t next_ = 0;                   // written by Next(), under mutex_
  size_t taken_ = 0;                  // by threads; guarded by mutex_
  std::map<size_t, Result> results_;  // guarded by mutex_
  std::vector<std::jthread> threads_;
};

}  // namespace virt_reclaim::punch

#endif  // VIRT_RECLAIM_HOST_PUNCH_WINDOW_PIPELINE_H_
