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

struct StorageItem {
  Storages storages;
  // As many items as this at once on each of its storages, itself included; of items with different
  // limits the least counts, so that one with the limit 1 is alone there. 0 counts as 1.
  size_t limit = 1;
};

// Calls `work(i)` once for each item, on the calling thread and others (one call at a time for each
// thread), never with more items at once on any storage than each of them allows. An item takes a
// slot on all its storages at once or waits, so that no two can wait for each other; on each
// storage items begin in their order, so that one on many storages is not put off for ever. Returns
// when all are done. `work` must not throw. One that `may_begin` does not let begin lets others go
// first and is asked about again whenever one ends; who may not begin when all others are done is
// left out. Called from several threads, one at a time; empty: all may.
void RunPerStorage(const std::vector<StorageItem>& items, const std::function<void(size_t)>& work,
                   const std::function<bool(size_t)>& may_begin = {});

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_TRIM_SCHEDULE_H_
