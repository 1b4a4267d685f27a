// Which trims may run side by side: only so many on each storage, since a punch holds up whoever
// else uses the storage, however many domains there are.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_TRIM_SCHEDULE_H_
#define VIRT_RECLAIM_HOST_COMMANDS_TRIM_SCHEDULE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <set>
#include <vector>

namespace virt_reclaim {

// Device numbers (st_dev) of the filesystems that a domain's images lie on. 0 stands for all that
// are not known, which count as one storage.
using Storages = std::set<uint64_t>;

// Calls `work(i)` once for each item, on the calling thread and others (one call at a time for each
// thread), never with more than `limit` items at once on any storage. An item takes a slot on all
// its storages at once or waits, so that no two can wait for each other; on each storage items
// begin in their order, so that one on many storages is not put off for ever. Returns when all are
// done. `work` must not throw. `limit` 0 counts as 1. Items of `alone` share no storage with any
// other while they run. One that `may_begin` does not let begin lets others go first and is asked
// about again whenever one ends; who may not begin when all others are done is left out. Called
// from several threads, one at a time; empty: all may.
void RunPerStorage(const std::vector<Storages>& items, size_t limit,
                   const std::function<void(size_t)>& work, const std::set<size_t>& alone = {},
                   const std::function<bool(size_t)>& may_begin = {});

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_TRIM_SCHEDULE_H_
