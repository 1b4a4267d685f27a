#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <thread>

#include "base/beat.h"

namespace virt_reclaim {
namespace {

TEST(Beat, CallsUntilItIsEnded) {
  std::latch thrice(3);
  std::atomic<int> calls = 0;
  auto beat = StartBeat(absl::Milliseconds(1), [&] {
    if (++calls <= 3) thrice.count_down();
  });
  ASSERT_TRUE(beat.ok()) << beat.status();
  thrice.wait();
  beat->reset();
  const int after = calls;
  EXPECT_GE(after, 3);
  std::this_thread::yield();
  EXPECT_EQ(calls, after);
}

TEST(Beat, ItsEndWaitsForTheCallUnderWay) {
  std::latch begun(1);
  std::atomic<bool> returned = false;
  auto beat = StartBeat(absl::Milliseconds(1), [&, first = true]() mutable {
    if (!first) return;
    first = false;
    begun.count_down();
    for (int i = 0; i < 1000; ++i) std::this_thread::yield();
    returned = true;
  });
  ASSERT_TRUE(beat.ok()) << beat.status();
  begun.wait();
  beat->reset();
  EXPECT_TRUE(returned);
}

TEST(Beat, ItsEndDoesNotWaitForThePeriod) {
  // It would be a day.
  auto beat = StartBeat(absl::Hours(24), [] { ADD_FAILURE() << "called at once"; });
  ASSERT_TRUE(beat.ok()) << beat.status();
}

}  // namespace
}  // namespace virt_reclaim
