// So many trims at once on one storage, whoever began them: a lock file for each storage below
// /run/virt-reclaim, so that a trim by hand takes turns with those of the timer's run.
//
// Of the file only locks of bytes mean anything (OFD locks, fcntl(2)). A trim has one byte of
// [0, limit) for itself and shares those behind them with others that do not write there: no more
// than `limit` run then, whatever limits the others have. The byte kTurn is whoever is next, so
// that a program with many domains lets others in between.
#ifndef VIRT_RECLAIM_HOST_SERVICES_STORAGE_LOCK_H_
#define VIRT_RECLAIM_HOST_SERVICES_STORAGE_LOCK_H_

#include <cstddef>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace virt_reclaim {

// The places of one trim on all its storages. What is held goes with the object, or the process.
// One thread.
class StorageLock {
 public:
  // `storages`: a name each, without a slash; the same in every program that means the same
  // storage. At most `limit` trims at once; 0 counts as 1. Takes nothing yet.
  StorageLock(std::string directory, const std::set<std::string>& storages, size_t limit);

  // Takes places that are still missing, storage after storage in the order of their names, so that
  // no two can wait for each other. Does not wait. True: it has all. False: another program, or
  // another object of this one, is on a storage; what was taken is kept, and so is the turn, until
  // the next call. `directory` is made when it does not exist. Errors: the file cannot be opened or
  // locked.
  absl::StatusOr<bool> Take();

 private:
  absl::StatusOr<bool> TakePlace(int fd) const;

  const std::string directory_;
  const std::vector<std::string> storages_;
  const size_t limit_;
  UniqueFd next_;               // the storage that is waited for
  std::vector<UniqueFd> held_;  // as many of `storages_` from the front
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_STORAGE_LOCK_H_
