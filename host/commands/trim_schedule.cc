#include "host/commands/trim_schedule.h"

#include <algorithm>
#include <condition_variable>
#include <list>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>
#include <set>
#include <thread>

namespace virt_reclaim {
namespace {

// A thread is a session and its guest. More storages than these are not used to the full.
constexpr size_t kMostThreads = 16;

size_t LimitOf(const StorageItem& item) { return std::max<size_t>(item.limit, 1); }

class Schedule {
 public:
  Schedule(const std::vector<StorageItem>& items, const std::function<bool(size_t)>& may_begin)
      : items_(items), may_begin_(may_begin), waiting_(items.size()) {
    std::iota(waiting_.begin(), waiting_.end(), size_t{0});
  }

  // Waits until an item may begin and takes its slots; empty when none is left that may.
  std::optional<size_t> Begin() {
    std::unique_lock lock(mutex_);
    while (!waiting_.empty()) {
      if (const auto item = TakeFirstPossible()) return item;
      if (running_ == 0) break;
      changed_.wait(lock);
    }
    return std::nullopt;
  }

  void End(size_t item) {
    const std::lock_guard lock(mutex_);
    --running_;
    for (const uint64_t storage : items_[item].storages) {
      std::multiset<size_t>& limits = at_work_[storage];
      limits.erase(limits.find(LimitOf(items_[item])));
    }
    changed_.notify_all();
  }

 private:
  bool HasRoom(uint64_t storage, const StorageItem& item) {
    const std::multiset<size_t>& limits = at_work_[storage];
    const size_t least = limits.empty() ? LimitOf(item) : std::min(LimitOf(item), *limits.begin());
    return limits.size() < least;
  }

  std::optional<size_t> TakeFirstPossible() {
    Storages spoken_for;  // by an item that waits further up
    for (auto it = waiting_.begin(); it != waiting_.end(); ++it) {
      if (may_begin_ && !may_begin_(*it)) continue;
      const Storages& wanted = items_[*it].storages;
      const bool possible = std::all_of(wanted.begin(), wanted.end(), [&](uint64_t storage) {
        return HasRoom(storage, items_[*it]) && !spoken_for.contains(storage);
      });
      if (!possible) {
        spoken_for.insert(wanted.begin(), wanted.end());
        continue;
      }
      const size_t item = *it;
      waiting_.erase(it);
      ++running_;
      for (const uint64_t storage : wanted) at_work_[storage].insert(LimitOf(items_[item]));
      return item;
    }
    return std::nullopt;
  }

  const std::vector<StorageItem>& items_;
  const std::function<bool(size_t)>& may_begin_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<size_t> waiting_;
  size_t running_ = 0;
  std::map<uint64_t, std::multiset<size_t>> at_work_;  // the limits of those on each storage
};

}  // namespace

void RunPerStorage(const std::vector<StorageItem>& items, const std::function<void(size_t)>& work,
                   const std::function<bool(size_t)>& may_begin) {
  Storages all;
  size_t most = 1;
  for (const StorageItem& item : items) {
    all.insert(item.storages.begin(), item.storages.end());
    most = std::max(most, item.limit);
  }
  const size_t slots = std::max<size_t>(all.size(), 1) * most;
  Schedule schedule(items, may_begin);
  const auto run = [&] {
    while (const auto item = schedule.Begin()) {
      work(*item);
      schedule.End(*item);
    }
  };
  std::vector<std::jthread> threads;
  for (size_t i = 1; i < std::min({items.size(), slots, kMostThreads}); ++i)
    threads.emplace_back(run);
  run();
}

}  // namespace virt_reclaim
