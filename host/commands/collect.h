// Collecting facts: the step all verbs begin with. Reads the world, changes nothing.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_COLLECT_H_
#define VIRT_RECLAIM_HOST_COMMANDS_COLLECT_H_

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "host/commands/services.h"
#include "host/model/facts.h"
#include "host/model/reason.h"
#include "host/services/domain_lock.h"

namespace virt_reclaim {

// Threads that only wait, for libvirt and for guests: one silent guest must not hold up the others.
inline constexpr size_t kGuestsAtOnce = 8;

// The domains named by name, UUID or a pattern of names (fnmatch: * ? [...]), in the order given;
// all of them, by name, when `names` is empty. NotFound for a name that is none, and for a pattern
// that fits none. What is the name of a domain is no pattern.
absl::StatusOr<std::vector<DomainSummary>> SelectDomains(Hypervisor& hypervisor,
                                                         const std::vector<std::string>& names);

struct DomainFacts {
  DomainSummary summary;
  xml::Domain live;  // or what was asked for instead
  std::vector<DiskFacts> disks;
};

// The XML of `kind` and what its images occupy. No guest is asked.
absl::StatusOr<DomainFacts> CollectDomain(const Services& services, const DomainSummary& summary,
                                          Hypervisor::Xml kind = Hypervisor::Xml::kLive);

// What lies below the guest's data in the image, or its data file. Of what is no file or device of
// this machine that is not known.
ImageStorage StorageOf(const Services& services, const DiskFacts& disk);

// A session with a domain's agent, while the domain's lock is held.
struct AgentSession {
  std::optional<DomainLock> lock;     // empty: the caller has it
  std::unique_ptr<GuestAgent> agent;  // destroyed first
};

// What an agent that has greeted us is given to tell its filesystems: it is there, and a guest on a
// busy host is slow.
inline constexpr absl::Duration kListingTimeout = absl::Seconds(10);

// The session, or why there is none.
struct AgentAccess {
  std::optional<AgentSession> session;
  std::optional<Blocker> blocker;
};
// The agent's port in a definition; null when it has none. It lives as long as `domain`.
const xml::Channel* AgentChannel(const xml::Domain& domain);
// Whether there is a place that a port can be plugged into.
bool HasSerialController(const xml::Domain& domain);
// Why no agent can be asked, as far as the XML and the state tell; empty: try.
std::optional<Blocker> AgentObstacle(const DomainFacts& domain);
// The domain's turn is waited for as LockDomain does.
AgentAccess OpenAgent(const Services& services, const DomainFacts& domain, DomainLock::Use use,
                      absl::Duration timeout, std::stop_token stop);
// For a caller that holds the domain's lock.
AgentAccess OpenAgentLocked(const Services& services, const DomainFacts& domain,
                            absl::Duration timeout, std::stop_token stop);

// kExact: where the guest is free, too, which may have it read its bitmaps, and compares that with
// what the images occupy (DiskFacts::free_and_allocated).
enum class GuestUse { kCheap, kExact };
// Asks the guest and puts what it uses of its disks into `facts`. Why not, when that is not known;
// empty for a domain that is off, whose agent is not to blame.
std::optional<Blocker> AskGuestUse(const Services& services, DomainFacts& facts, GuestUse use,
                                   absl::Duration timeout, const std::stop_token& stop);

// The reason a failed agent call stands for.
Blocker AgentBlocker(const absl::Status& status);

// An agent that should answer and does not: a failure, where other blockers are skips.
bool IsAgentFailure(const Blocker& blocker);
absl::Status AgentFailure(const Blocker& blocker);

// Runs `work(i)` for 0..count-1 on up to `threads` threads; waits for all.
void ForEachInParallel(size_t count, size_t threads, const std::function<void(size_t)>& work);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_COLLECT_H_
