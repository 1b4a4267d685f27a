#include "base/stop_signal.h"

#include <pthread.h>
#include <unistd.h>

namespace virt_reclaim {
namespace {

constexpr int kInterrupted = 130;  // the contract of every verb: 128 + SIGINT

// SIGUSR1 is sent by the destructor to its own thread only, to end the wait.
sigset_t StopSet() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

}  // namespace

StopSignal::StopSignal() {
  signal(SIGPIPE, SIG_IGN);
  sigset_t set = StopSet();
  sigaddset(&set, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  waiter_ = std::jthread([this, set] {
    for (int received = 0; sigwait(&set, &received) == 0;) {
      if (received == SIGUSR1) return;
      if (source_.stop_requested()) _exit(kInterrupted);
      received_ = received;
      source_.request_stop();
    }
  });
}

StopSignal::~StopSignal() { pthread_kill(waiter_.native_handle(), SIGUSR1); }

void RestoreSignalsInChild() {
  signal(SIGPIPE, SIG_DFL);
  signal(SIGINT, SIG_DFL);
  signal(SIGTERM, SIG_DFL);
  sigset_t set = StopSet();
  sigaddset(&set, SIGUSR1);
  sigprocmask(SIG_UNBLOCK, &set, nullptr);
}

}  // namespace virt_reclaim
