// Beats (base/beat.h) without threads: they beat when, and as often as, a test says so.
#ifndef VIRT_RECLAIM_TESTS_FAKES_FAKE_BEATS_H_
#define VIRT_RECLAIM_TESTS_FAKES_FAKE_BEATS_H_

#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/beat.h"
#include "base/status.h"

namespace virt_reclaim {

class FakeBeats {
 public:
  absl::Status none;  // not OK: there are none to be had

  absl::StatusOr<std::unique_ptr<Beat>> Start(std::function<void()> call) {
    VR_RETURN_IF_ERROR(none);
    return std::make_unique<One>(*this, std::move(call));
  }

  // A period of every beat that the calling thread has started.
  void Tick() {
    std::vector<One*> here;
    {
      const std::lock_guard lock(mutex_);
      for (One* one : all_) {
        if (one->thread == std::this_thread::get_id()) here.push_back(one);
      }
    }
    for (const One* one : here) one->call();
  }

 private:
  class One : public Beat {
   public:
    One(FakeBeats& beats, std::function<void()> what)
        : call(std::move(what)), thread(std::this_thread::get_id()), beats_(beats) {
      const std::lock_guard lock(beats_.mutex_);
      beats_.all_.push_back(this);
    }
    ~One() override {
      const std::lock_guard lock(beats_.mutex_);
      std::erase(beats_.all_, this);
    }
    const std::function<void()> call;
    const std::thread::id thread;

   private:
    FakeBeats& beats_;
  };

  std::mutex mutex_;
  std::vector<One*> all_;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_TESTS_FAKES_FAKE_BEATS_H_
