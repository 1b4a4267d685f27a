#include "host/commands/trim_schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <thread>

namespace virt_reclaim {
namespace {

using testing::ElementsAre;

struct Event {
  size_t item;
  bool begins;
};

std::vector<StorageItem> ItemsOn(const std::vector<Storages>& storages, size_t limit) {
  std::vector<StorageItem> items;
  for (const Storages& each : storages) items.push_back({each, limit});
  return items;
}

// Runs the items and tells what began and ended, in order.
std::vector<Event> Record(const std::vector<Storages>& storages, size_t limit) {
  std::mutex mutex;
  std::vector<Event> events;
  const auto note = [&](size_t item, bool begins) {
    const std::lock_guard lock(mutex);
    events.push_back({item, begins});
  };
  RunPerStorage(ItemsOn(storages, limit), [&](size_t item) {
    note(item, true);
    std::this_thread::sleep_for(std::chrono::milliseconds(1 + item % 3));
    note(item, false);
  });
  return events;
}

TEST(RunPerStorage, WithDifferentLimitsTheLeastOfThoseAtWorkCounts) {
  // On 1 and 2 some that must be alone (limit 1, or none said), on 4 some that bear one other, on 5
  // three that bear each other.
  const std::vector<StorageItem> items = {
      {{1}, 3}, {{1}, 1}, {{1, 2}, 1}, {{2}, 3}, {{2}, 0},    {{1}, 3}, {{3}, 3}, {{4}, 3},
      {{4}, 2}, {{4}, 3}, {{4}, 3},    {{4}, 3}, {{4, 1}, 2}, {{5}, 3}, {{5}, 3}, {{5}, 3}};
  constexpr uint64_t kTogether = 5;
  std::mutex mutex;
  std::condition_variable changed;
  std::set<size_t> running;
  size_t together = 0;
  size_t done = 0;
  RunPerStorage(items, [&](size_t item) {
    std::unique_lock lock(mutex);
    running.insert(item);
    for (const uint64_t storage : items[item].storages) {
      size_t beside = 0;
      size_t least = items.size();
      for (const size_t one : running) {
        if (!items[one].storages.contains(storage)) continue;
        ++beside;
        least = std::min(least, std::max<size_t>(items[one].limit, 1));
      }
      EXPECT_LE(beside, least) << "on " << storage << " with " << item;
    }
    if (items[item].storages.contains(kTogether)) {
      ++together;
      changed.notify_all();
      EXPECT_TRUE(changed.wait_for(lock, std::chrono::seconds(20), [&] { return together == 3; }));
    } else {
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      lock.lock();
    }
    running.erase(item);
    ++done;
  });
  EXPECT_EQ(done, items.size());
}

// The most items at once on any storage, and at all.
std::pair<size_t, size_t> Most(const std::vector<Storages>& items,
                               const std::vector<Event>& events) {
  std::map<uint64_t, size_t> used;
  size_t on_one = 0, at_all = 0, now = 0;
  for (const Event& event : events) {
    now = event.begins ? now + 1 : now - 1;
    at_all = std::max(at_all, now);
    for (const uint64_t storage : items[event.item]) {
      used[storage] = event.begins ? used[storage] + 1 : used[storage] - 1;
      on_one = std::max(on_one, used[storage]);
    }
  }
  return {on_one, at_all};
}

std::vector<size_t> Begun(const std::vector<Event>& events) {
  std::vector<size_t> begun;
  for (const Event& event : events) {
    if (event.begins) begun.push_back(event.item);
  }
  return begun;
}

TEST(RunPerStorage, TwentyDomainsOnTwoStoragesNeverMoreThanTheLimitOnEach) {
  for (const size_t limit : {size_t{1}, size_t{2}}) {
    std::vector<Storages> items;
    for (uint64_t i = 0; i < 20; ++i) items.push_back({i % 2});
    const auto events = Record(items, limit);
    EXPECT_EQ(events.size(), 40u);
    const auto [on_one, at_all] = Most(items, events);
    EXPECT_LE(on_one, limit);
    EXPECT_GT(at_all, limit) << "the two storages were not used side by side";
  }
}

TEST(RunPerStorage, OneStorageIsOneAfterTheOtherInOrder) {
  EXPECT_THAT(Begun(Record({{7}, {7}, {7}, {7}}, 1)), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(Begun(Record({{7}, {7}}, 0)), ElementsAre(0, 1));
}

TEST(RunPerStorage, SeveralStoragesTakeASlotOnEachAndNobodyWaitsForEver) {
  std::vector<Storages> items;
  for (int i = 0; i < 40; ++i) {
    if (i % 4 == 0) items.push_back({1, 2, 3});
    if (i % 4 == 1) items.push_back({3, 1});
    if (i % 4 == 2) items.push_back({2});
    if (i % 4 == 3) items.push_back({});  // no images: nothing to wait for
  }
  const auto events = Record(items, 1);
  EXPECT_EQ(events.size(), 80u);
  EXPECT_EQ(Most(items, events).first, 1u);
}

TEST(RunPerStorage, OneOnManyStoragesIsNotPutOffByThoseBehindIt) {
  // 1 waits for 0; 2 would be free to begin on storage 2, but is behind 1.
  const auto begun = Begun(Record({{1}, {1, 2}, {2}, {2}}, 1));
  ASSERT_EQ(begun.size(), 4u);
  EXPECT_THAT(begun, ElementsAre(0, 1, 2, 3));
}

TEST(RunPerStorage, WhoMayNotBeginYetLetsOthersGoFirst) {
  // 0 may begin once 1 is done, 3 never.
  std::vector<size_t> begun;
  bool open = false;
  const auto work = [&](size_t item) {
    begun.push_back(item);
    if (item == 1) open = true;
  };
  const auto may_begin = [&](size_t item) { return item == 0 ? open : item != 3; };
  RunPerStorage(ItemsOn({{7}, {7}, {7}, {7}}, 1), work, may_begin);
  EXPECT_THAT(begun, ElementsAre(1, 0, 2));
}

TEST(RunPerStorage, NothingToDo) { EXPECT_TRUE(Record({}, 1).empty()); }

}  // namespace
}  // namespace virt_reclaim
