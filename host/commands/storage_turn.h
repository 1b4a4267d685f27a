// Whose turn it is on the storages of a domain. Every trim of a guest takes its places there first,
// that of a probe's marker, too, so that there are never more than the limit, whatever program they
// are of (storage_lock.h).
#ifndef VIRT_RECLAIM_HOST_COMMANDS_STORAGE_TURN_H_
#define VIRT_RECLAIM_HOST_COMMANDS_STORAGE_TURN_H_

#include <cstddef>
#include <functional>
#include <optional>
#include <stop_token>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "host/commands/collect.h"
#include "host/commands/trim_schedule.h"
#include "host/model/reason.h"
#include "host/services/storage_lock.h"

namespace virt_reclaim {

// What a probe takes: like a trim whose limit nobody has set.
inline constexpr size_t kProbesPerStorage = 1;

// The storages that a trim of the domain's guest writes to.
Storages StoragesOf(const DomainFacts& domain);

// The places of one trim there; taken by TakeTurn, given back with the object. At most `limit`
// trims at once.
StorageLock PlacesOn(const Services& services, const Storages& storages, size_t limit);

struct TurnOptions {
  absl::Duration patience;  // wall clock; zero: tried once
  // What else forbids the trim by now, asked each time that there is no place. May be empty.
  std::function<std::optional<Blocker>()> obstacle = nullptr;
  // Told once, before the first wait. May be empty.
  std::function<void()> waits = nullptr;
};

// Waits until others have left all of the places, and takes them; on the calling thread, which
// sleeps between two looks. Empty: they are taken. Else why not: the obstacle, or kStorageBusy when
// the patience is over. Cancelled after a stop request; others: the places cannot be locked.
absl::StatusOr<std::optional<Blocker>> TakeTurn(const Services& services, StorageLock& places,
                                                const TurnOptions& options,
                                                const std::stop_token& stop);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_STORAGE_TURN_H_
