// SIGINT and SIGTERM as a std::stop_token: the first signal asks everything to stop at its next
// bounded step, the second one ends the process at once with status 130. Make one, first thing in
// main, before any thread starts.
#ifndef VIRT_RECLAIM_BASE_STOP_SIGNAL_H_
#define VIRT_RECLAIM_BASE_STOP_SIGNAL_H_

#include <signal.h>

#include <atomic>
#include <stop_token>
#include <thread>

namespace virt_reclaim {

class StopSignal {
 public:
  // Blocks SIGINT and SIGTERM (all threads started later inherit that), ignores SIGPIPE, and starts
  // the one thread that waits for them.
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  std::stop_token token() const { return source_.get_token(); }
  // The first signal; 0: none came yet. Any thread.
  int received() const { return received_; }

 private:
  std::stop_source source_;
  std::atomic<int> received_ = 0;
  std::jthread waiter_;
};

// For a child between fork and exec (or before it works on its own): unblocks the signals and gives
// them their default actions back. Async-signal-safe.
void RestoreSignalsInChild();

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_BASE_STOP_SIGNAL_H_
