#include "host/punch/sigbus.h"

#include <setjmp.h>
#include <signal.h>

#include <mutex>

namespace virt_reclaim::punch {
namespace {

// A thread's own: SIGBUS of a bad access is delivered to the thread that made it.
thread_local sigjmp_buf way_out;
thread_local volatile sig_atomic_t armed = 0;
struct sigaction before;

void OnSigbus(int /*signal*/, siginfo_t* /*info*/, void* /*context*/) {
  if (armed != 0) {
    armed = 0;
    siglongjmp(way_out, 1);
  }
  // Not ours: with the old action back, the access that faulted is made again and ends there.
  sigaction(SIGBUS, &before, nullptr);
}

}  // namespace

bool SurvivesSigbus(const std::function<void()>& read) {
  static std::once_flag installed;
  std::call_once(installed, [] {
    struct sigaction action = {};
    action.sa_sigaction = OnSigbus;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &before);
  });
  // The mask is not saved (it costs a system call): SA_NODEFER leaves it as it was.
  if (sigsetjmp(way_out, 0) != 0) return false;
  armed = 1;
  read();
  armed = 0;
  return true;
}

}  // namespace virt_reclaim::punch
