// A number that the agent can change while a trim's child process rests by it: in memory that both
// share. Any thread; reading it is async-signal-safe.
#ifndef VIRT_RECLAIM_GUEST_AGENT_SHARED_PAUSE_H_
#define VIRT_RECLAIM_GUEST_AGENT_SHARED_PAUSE_H_

#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <new>

namespace virt_reclaim::agent {

class SharedPause {
 public:
  SharedPause() {
    void* page =
        mmap(nullptr, sizeof(Value), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page != MAP_FAILED) value_ = new (page) Value(0);
  }
  ~SharedPause() {
    if (value_ != nullptr) munmap(value_, sizeof(Value));
  }
  SharedPause(const SharedPause&) = delete;
  SharedPause& operator=(const SharedPause&) = delete;

  void Set(std::chrono::milliseconds pause) {
    if (value_ != nullptr) value_->store(static_cast<uint32_t>(pause.count()));
  }
  // Milliseconds. Null: there was no memory for it.
  const std::atomic<uint32_t>* value() const { return value_; }

 private:
  using Value = std::atomic<uint32_t>;
  static_assert(Value::is_always_lock_free);
  Value* value_ = nullptr;
};

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_SHARED_PAUSE_H_
