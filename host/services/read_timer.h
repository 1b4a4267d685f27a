// How long a small read of a storage takes, past the page cache: whether it is busy. Reads a
// nameless file of its own beside the images, so that no guest's data is read and no image's lock
// is waited for. One thread at a time.
#ifndef VIRT_RECLAIM_HOST_SERVICES_READ_TIMER_H_
#define VIRT_RECLAIM_HOST_SERVICES_READ_TIMER_H_

#include <functional>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"

namespace virt_reclaim {

// One reading: the middle one of three, so that a single hiccup is none.
using ReadTimer = std::function<absl::StatusOr<absl::Duration>()>;

// Of `file`, an empty one opened for writing, which it fills. Unimplemented: its filesystem cannot
// read past the page cache (tmpfs); any other error: it cannot be known.
absl::StatusOr<ReadTimer> NewReadTimer(UniqueFd file);

// `time` for whoever cannot wait: a reading that has not ended after `patience` goes on in a thread
// of its own, on a storage that hangs for ever. The reading is then what it has taken so far, and
// so are the next ones until it has ended; no other one is begun.
ReadTimer WithPatience(ReadTimer time, absl::Duration patience);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_READ_TIMER_H_
