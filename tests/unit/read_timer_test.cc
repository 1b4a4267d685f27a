#include "host/services/read_timer.h"

#include <fcntl.h>

#include <condition_variable>
#include <memory>
#include <mutex>

#include "base/temporary_directory.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace virt_reclaim {
namespace {

constexpr absl::Duration kLittle = absl::Milliseconds(20);

// A storage whose reads do not end before it is told so.
class HungStorage {
 public:
  ReadTimer Timer() {
    return [state = state_]() -> absl::StatusOr<absl::Duration> {
      std::unique_lock lock(state->mutex);
      ++state->begun;
      state->changed.notify_all();
      state->changed.wait(lock, [&] { return !state->hangs; });
      ++state->ended;
      state->changed.notify_all();
      return absl::Milliseconds(3);
    };
  }
  int begun() {
    const std::lock_guard lock(state_->mutex);
    return state_->begun;
  }
  // Its reads end; returns when one has.
  void Recover() {
    std::unique_lock lock(state_->mutex);
    state_->hangs = false;
    state_->changed.notify_all();
    state_->changed.wait(lock, [&] { return state_->ended > 0; });
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    bool hangs = true;
    int begun = 0, ended = 0;
  };
  // The reading thread may outlive a test that fails.
  const std::shared_ptr<State> state_ = std::make_shared<State>();
};

TEST(WithPatience, AReadingIsWhatTheTimerSays) {
  const ReadTimer good = WithPatience([] { return absl::Milliseconds(7); }, absl::Seconds(60));
  EXPECT_EQ(good().value(), absl::Milliseconds(7));
  EXPECT_EQ(good().value(), absl::Milliseconds(7));
  const ReadTimer bad = WithPatience([] { return absl::DataLossError("gone"); }, absl::Seconds(60));
  EXPECT_EQ(bad().status(), absl::DataLossError("gone"));
}

TEST(WithPatience, AStorageThatHangsIsNotWaitedFor) {
  HungStorage storage;
  const ReadTimer time = WithPatience(storage.Timer(), kLittle);
  const absl::Duration first = time().value();
  EXPECT_GE(first, kLittle);
  // It is the same reading.
  EXPECT_GE(time().value(), first + kLittle);
  EXPECT_LE(storage.begun(), 1);
  storage.Recover();
  // Until the thread has told so, it is still under way.
  for (int i = 0; i < 1000 && time().value() != absl::Milliseconds(3); ++i) {
  }
  EXPECT_EQ(time().value(), absl::Milliseconds(3));
  EXPECT_GE(storage.begun(), 2);
}

TEST(WithPatience, ATimerMayGoBeforeItsReadingHasEnded) {
  HungStorage storage;
  {
    const ReadTimer time = WithPatience(storage.Timer(), kLittle);
    EXPECT_GE(time().value(), kLittle);
  }
  storage.Recover();
}

TEST(NewReadTimer, AFileBesideTheImagesIsRead) {
  const auto directory = TemporaryDirectory::Make("/var/tmp", "virt-reclaim-test.");
  ASSERT_TRUE(directory.ok());
  UniqueFd file(open(directory->path().c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  ASSERT_TRUE(file.valid());
  const auto time = NewReadTimer(std::move(file));
  if (absl::IsUnimplemented(time.status())) GTEST_SKIP() << time.status();
  ASSERT_TRUE(time.ok()) << time.status();
  EXPECT_GT((*time)().value(), absl::ZeroDuration());
}

}  // namespace
}  // namespace virt_reclaim
